"""Where is each equation of the paper, and which tests hold it? Writes docs/equations.md.

    .venv/bin/python docs/make_equations.py

The answer is read off the code: a function's `Source:` names its equation, a test's docstring begins with the ids that it holds.
"""

import ast
import inspect
import re
from collections import defaultdict
from pathlib import Path

from switchnp import equations as eq
from switchnp.conformance import CLAIMS

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs/equations.md"
SECTIONS = {
    "1": "gate: p_i(x) = exp(h_i) / sum_j exp(h_j)",
    "2": "output: y = p_i(x) E_i(x)",
    "3": "expert capacity: C = T / N × capacity factor",
    "4": "load-balancing loss: N sum_i f_i P_i",
    "5": "f_i, the share of the tokens",
    "6": "P_i, the share of the probability",
    "7": "dispatch by einsum",
}


def page():
    """The whole page as text."""
    tests = tests_by_id()
    lines = [
        "# Equations, functions, tests",
        "",
        "Made by `docs/make_equations.py`; `make test` checks that it is up to date.",
        "",
    ]
    lines += ["| equation | function | tests that hold it |", "|---|---|---|"]
    for number, formula in SECTIONS.items():
        function = eq.EQUATIONS[int(number)]
        ids = [id_ for id_ in tests if re.fullmatch(rf"{number}[a-z]?", id_)]
        names = ", ".join(f"{id_} ({len(tests[id_])})" for id_ in sorted(ids))
        lines.append(f"| ({number}) {formula} | {link(function)} | {names} |")
    lines += ["", "The ids are those of the properties; behind each, how many tests hold it. By name:", ""]
    lines += ["| id | `conformance` asks | tests |", "|---|---|---|"]
    for id_ in sorted(tests, key=lambda id_: (id_[0].isalpha(), id_[0] == "§", id_)):
        names = "<br>".join(sorted(f"`{name.removeprefix('test_')}`" for name in tests[id_]))
        lines.append(f"| {id_} | {CLAIMS.get(id_, '')} | {names} |")
    lines += ["", "Every other function of `switchnp/equations`:", "", "| function | source |", "|---|---|"]
    for name in eq.__all__:
        function = getattr(eq, name)
        if function not in eq.EQUATIONS.values() and not name.endswith("_vjp"):
            source = re.search(r"Source: (.+?)(?:\n\n|$)", inspect.getdoc(function), re.S)[1]
            lines.append(f"| {link(function)} | {' '.join(source.split())} |")
    return "\n".join(lines) + "\n"


def tests_by_id():
    """The names of the tests of the equations, of routers and of costs by the ids that their docstrings begin with."""
    found = defaultdict(set)
    others = (ROOT / "tests/test_cost.py", ROOT / "tests/test_routers.py", ROOT / "tests/test_bfloat16.py")
    for path in (*sorted((ROOT / "tests/equations").glob("test_*.py")), *others):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
                head = (ast.get_docstring(node) or "").partition(":")[0]
                for id_ in re.findall(r"(?:^|, )((?:§[\d.]+|E\d+|\d[a-z]?))(?=,|$)", head):
                    found[id_].add(node.name)
    return found


def link(function):
    """A function with a link to its file."""
    file = Path(inspect.getsourcefile(function)).relative_to(ROOT)
    return f"[`{function.__name__}`](../{file})"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
