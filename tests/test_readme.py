"""What README.md shows is what happens."""

import re
import subprocess

import pytest
from references import ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_python_examples_run(monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    first, second, third, fourth = re.findall(r"```python\n(.*?)```", README, re.S)
    names = {}

    exec(compile(first, "README.md", "exec"), names)
    said = capsys.readouterr().out.splitlines()
    exec(compile(second, "README.md", "exec"), {})

    assert said[0] == "trecentosessantacinque"
    assert said[-1].startswith("(1, 3, 512) ")
    assert capsys.readouterr().out.strip()
    exec(compile(third, "README.md", "exec"), names)
    assert capsys.readouterr().out == "dos mil veintiséis\n"
    exec(compile(fourth, "README.md", "exec"), names)
    assert capsys.readouterr().out.startswith("(96, 8)\ndrei [")


def test_the_first_command_answers_as_shown(monkeypatch):
    monkeypatch.chdir(ROOT)
    command, answer = re.search(r"\$ (switchnp generate .+)\n +(.+)\n", README).groups()

    done = subprocess.run(f"python -m {command}", shell=True, capture_output=True, text=True, env=_with_this_python())

    assert done.stdout.strip() == answer, done.stderr


@pytest.mark.parametrize("link", sorted(set(re.findall(r"\]\((?!http)([^)]+)\)", README))))
def test_every_link_leads_somewhere(link):
    assert (ROOT / link).exists()


def _with_this_python():
    import os
    import sys

    return os.environ | {"PATH": f"{os.path.dirname(sys.executable)}:{os.environ['PATH']}"}
