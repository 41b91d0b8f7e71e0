"""The rules of the house, read off the source: imports go down, names say what they are, every equation cites its source."""

import ast
import importlib.util
import inspect
import re
import subprocess
import sys

import pytest
from references import ROOT

import switchnp
from switchnp import equations as eq
from switchnp import errors, kernels

PACKAGE = ROOT / "switchnp"
SOURCES = sorted(PACKAGE.rglob("*.py"))
FLOORS = {
    "errors": 0,
    "derived": 0,
    "forking": 0,
    "threads": 0,
    "tree": 0,
    "strictjson": 0,
    "quantization": 1,
    "equations": 0,
    "files": 1,
    "journal": 2,
    "history": 2,
    "records": 1,
    "bfloat16": 1,
    "kernels": 1,
    "config": 2,
    "routing": 2,
    "search": 2,
    "routers": 2,
    "catalogue": 3,
    "params": 3,
    "tokenizer": 3,
    "hdf5": 3,
    "pieces": 3,
    "layers": 3,
    "objective": 3,
    "adjoints": 4,
    "optimizers": 3,
    "schedules": 3,
    "weights": 4,
    "cost": 4,
    "network": 4,
    "data": 4,
    "gradients": 5,
    "output": 5,
    "voices": 5,
    "engine": 6,
    "setups": 7,
    "loading": 9,
    "generation": 6,
    "memory": 6,
    "speech": 7,
    "infilling": 7,
    "padding": 5,
    "conversion": 6,
    "model": 8,
    "conformance": 8,
    "comparison": 9,
    "fidelity": 9,
    "evaluation": 9,
    "scoreboard": 10,
    "training": 10,
    "benchmark": 12,
    "narrowing": 11,
    "plots": 3,
    "warming": 9,
    "arguments": 9,
    "__init__": 11,
    "cli": 13,
    "__main__": 14,
}
ALPHABET = set("btsdhkfecvrng1")
ARRAY_ROOMS = [*(PACKAGE / "equations").glob("*.py"), *(PACKAGE / "kernels").glob("*.py"), PACKAGE / "layers.py"]
EQUATIONS = [getattr(eq, name) for name in eq.__all__ if not name.endswith("_vjp")]
LIBRARIES = {
    "threadpoolctl",
    "numpy",
    "numba",
    "h5py",
    "sentencepiece",
    "safetensors",
    "tqdm",
    "ml_dtypes",
    "torch",
    "llvmlite",
} | {
    "transformers",
    "tokenizers",
    "ctranslate2",
    "matplotlib",
}


def room(path):
    """The name in FLOORS that a source file belongs to."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(path):
    """Every (module, is inside a function) that a file imports, as dotted absolute names."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    inner = {id(node) for f in ast.walk(tree) if isinstance(f, ast.FunctionDef) for node in ast.walk(f)}
    package = ["switchnp", *path.relative_to(PACKAGE).parts[:-1]]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, id(node) in inner) for alias in node.names)
        if isinstance(node, ast.ImportFrom):
            base = package[: len(package) + 1 - node.level] if node.level else []
            module = [*base, *([node.module] if node.module else [])]
            names = [[]] if node.module else [[alias.name] for alias in node.names]
            yield from ((".".join([*module, *name]), id(node) in inner) for name in names)


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_room_opens_doors_only_to_floors_below(path):
    for module, _ in imports(path):
        if module.startswith("switchnp."):
            other = module.split(".")[1] if module.split(".")[1] in FLOORS else "__init__"
            if room(path) != other and not (room(path) == "kernels" and path.name == "__init__.py"):
                assert FLOORS[other] < FLOORS[room(path)], f"{path.name} imports {module}"


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_nothing_is_imported_that_is_not_declared(path):
    for module, _ in imports(path):
        top = module.split(".")[0]
        assert top in sys.stdlib_module_names | LIBRARIES | {"switchnp"}, module


def test_kernels_do_not_call_equations_and_equations_import_numpy_alone():
    for path in (PACKAGE / "equations").glob("*.py"):
        outside = {module.split(".")[0] for module, _ in imports(path)} - {"switchnp"}
        assert outside <= {"numpy", "math"}
    for path in (PACKAGE / "kernels").glob("*.py"):
        if path.name != "__init__.py":
            assert not any(module.startswith("switchnp.equations") for module, _ in imports(path))


def test_equations_work_without_numba():
    code = "import sys; sys.modules['numba'] = None; import switchnp.equations as eq; print(len(eq.__all__))"

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)

    assert done.stdout.strip() == str(len(eq.__all__)), done.stderr


def test_importing_switchnp_imports_neither_numba_nor_torch():
    code = "import sys, switchnp; print([name for name in ('numba', 'torch', 'safetensors') if name in sys.modules])"

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)

    assert done.stdout.strip() == "[]", done.stderr


@pytest.mark.parametrize("path", ARRAY_ROOMS, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_einsum_letters_repeat_the_names(path):
    for call in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(call, ast.Call) and getattr(call.func, "attr", "") == "einsum":
            inputs = call.args[0].value.split("->")[0].split(",")
            for letters, argument in zip(inputs, call.args[1:], strict=True):
                names = [node.id for node in ast.walk(argument) if isinstance(node, ast.Name)]
                assert any(name.endswith(f"_{letters}") for name in names), f"{letters} in {ast.unparse(call)}"


@pytest.mark.parametrize("path", ARRAY_ROOMS, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_suffixes_are_letters_of_the_alphabet(path):
    source = path.read_text(encoding="utf-8")
    names = {node.id for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Name)}
    for name in names:
        if re.fullmatch(r"[a-z0-9]+_[a-z0-9]{1,3}", name) and not hasattr(eq, name):
            axes = name.rsplit("_", 1)[1]
            assert set(axes) <= ALPHABET, name


@pytest.mark.parametrize("equation", EQUATIONS, ids=lambda f: f.__name__)
def test_every_equation_cites_its_source_and_is_short(equation):
    body = inspect.getsource(equation).split('"""')[-1]

    assert re.search(r"^ *Source: ", equation.__doc__, re.M)
    assert len([line for line in body.splitlines() if line.strip()]) <= 16


@pytest.mark.parametrize("number", range(1, 8))
def test_the_index_leads_to_the_numbered_equation(number):
    equation = eq.EQUATIONS[number]

    assert f"Switch, eq. {number}" in equation.__doc__
    assert re.search(rf"\({number}\) {equation.__name__} ", eq.__doc__)


def test_every_kernel_has_its_equations_name_and_arguments():
    for name in eq.__all__:
        kernel = getattr(kernels, name)
        if kernel is not getattr(eq, name):
            plain = getattr(kernel, "py_func", kernel)
            assert str(inspect.signature(plain)) == str(inspect.signature(getattr(eq, name))), name
            assert plain.__doc__.startswith(f"See equations.{name}. "), name


def test_every_gradient_mirrors_its_equation():
    for name in eq.__all__:
        if name.endswith("_vjp"):
            arguments = list(inspect.signature(getattr(eq, name.removesuffix("_vjp"))).parameters)
            assert list(inspect.signature(getattr(eq, name)).parameters)[2:] == arguments


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_functions_are_short_are_not_named_as_their_file_and_do_not_print(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef):
            docstring = len((ast.get_docstring(node, clean=False) or "").splitlines())
            assert node.name != path.stem or path.name == "jit.py", node.name
            assert node.end_lineno - node.lineno - docstring <= 30, node.name
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "print":
            assert path.name == "cli.py"


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_files_are_nouns_and_under_400_lines(path):
    assert path.stem not in {"utils", "core", "common", "base", "helpers", "misc"}
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 400


def test_every_export_exists():
    for module in (switchnp, eq, kernels, errors):
        for name in module.__all__:
            assert hasattr(module, name), f"{module.__name__}.{name}"


def test_the_names_that_people_rely_on_are_there():
    assert {"load", "Config", "Routing", "SwitchError", "SwitchTransformer", "convert"} <= set(switchnp.__all__)
    assert str(inspect.signature(switchnp.load)).startswith("(path: 'str | os.PathLike[str]', routing:")
    assert list(inspect.signature(switchnp.convert).parameters) == ["source_folder", "target_h5", "dtype", "tokenizer", "force"]


def test_every_error_is_drawn_and_is_a_builtin_kind_too():
    for name in errors.__all__:
        error = getattr(errors, name)
        if issubclass(error, errors.SwitchError) and error is not errors.SwitchError:
            assert name in errors.__doc__
            assert issubclass(error, (ValueError, OSError, ImportError))


def test_every_dependency_is_justified_in_a_line():
    declared = re.search(r"install_requires =\n((?:    .+\n)+)", (ROOT / "setup.cfg").read_text(encoding="utf-8"))[1].split()
    reasons = (ROOT / "docs/dependencies.md").read_text(encoding="utf-8")

    for requirement in declared:
        assert f"| {re.split('[><=]', requirement)[0]} |" in reasons


def test_every_module_of_the_layout_is_in_the_architecture():
    page = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")

    for path in SOURCES:
        if path.name not in ("__init__.py", "__main__.py") and path.parent == PACKAGE:
            assert path.name in page, path.name


def page_maker(name):
    """A program of docs/ as a module."""
    spec = importlib.util.spec_from_file_location(name, ROOT / f"docs/{name}.py")
    maker = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(maker)
    return maker


def test_the_page_of_equations_is_up_to_date_and_every_property_has_a_test():
    maker = page_maker("make_equations")

    assert (ROOT / "docs/equations.md").read_text(encoding="utf-8") == maker.page()
    held = {*maker.tests_by_id()}
    for equation, last in {"1": "g", "2": "n", "3": "j", "4": "k", "7": "c"}.items():
        assert {equation + chr(letter) for letter in range(ord("a"), ord(last) + 1)} <= held
    assert {"§4.1", "§4.2", "§4.3", *(f"E{number}" for number in range(8, 17))} <= held


def test_the_page_of_routing_is_up_to_date(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "docs")

    assert (ROOT / "docs/routing.md").read_text(encoding="utf-8") == page_maker("make_routing").page()


def test_every_mutation_still_has_its_line():
    import mutations

    for file, line, spoiled in mutations.MUTATIONS.values():
        source = (PACKAGE / "equations" / file).read_text(encoding="utf-8")
        assert source.count(line) == 1, f"{line!r} in {file}"
        assert spoiled != line
    assert all(name in (ROOT / "docs/mutations.md").read_text(encoding="utf-8") for name in mutations.MUTATIONS)
