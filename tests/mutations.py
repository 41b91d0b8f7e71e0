"""Does every property test bite? Spoil one line of the equations at a time, on a copy, and see which tests fail.

    .venv/bin/python tests/mutations.py          # writes docs/mutations.md; a few minutes

Each mutation is a bug that somebody had or could have; one that no test catches makes this command fail.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
MASKED = """words_t = target_t >= 0
    logits_tv, target_t = logits_tv[words_t], target_t[words_t]
    chosen_t = np.take_along_axis(logits_tv, target_t[:, None], axis=-1)[:, 0]
    return"""
MUTATIONS = {
    "one slot too many": ("capacity.py", "slot_t < C, slot_t", "slot_t <= C, slot_t"),
    "one slot too few": ("capacity.py", "slot_t < C, slot_t", "slot_t < C - 1, slot_t"),
    "inclusive cumulative sum": ("capacity.py", "np.cumsum(asks_te, axis=0) - asks_te", "np.cumsum(asks_te, axis=0)"),
    "cumulative sum along experts": ("capacity.py", "np.cumsum(asks_te, axis=0)", "np.cumsum(asks_te, axis=1)"),
    "capacity without its minimum": (
        "capacity.py",
        "max(CAPACITIES[rule](T, E, factor), minimum)",
        "CAPACITIES[rule](T, E, factor)",
    ),
    "gate applied twice": (
        "capacity.py",
        "gate_t.astype(y_ecd.dtype)[:, None] * y_td",
        "gate_t.astype(y_ecd.dtype)[:, None] ** 2 * y_td",
    ),
    "gate left out": ("capacity.py", "return gate_t.astype(y_ecd.dtype)[:, None] * y_td", "return y_td"),
    "dropped tokens pass": ("capacity.py", "sits_tc = slot_t[:, None]", "sits_tc = np.maximum(slot_t, 0)[:, None]"),
    "softmax over tokens": ("routing.py", "exp_te.sum(axis=-1, keepdims=True)", "exp_te.sum(axis=0, keepdims=True)"),
    "softmax without its maximum": ("routing.py", "np.exp(h_te - h_te.max(", "np.exp(h_te - 0 * h_te.max("),
    "last of equals": ("routing.py", "p_te.argmax(axis=-1)", "p_te.shape[-1] - 1 - p_te[:, ::-1].argmax(axis=-1)"),
    "quietest expert": ("routing.py", "p_te.argmax(axis=-1)", "p_te.argmin(axis=-1)"),
    "gate of the first expert": ("routing.py", "np.take_along_axis(p_te, expert_t[:, None], axis=-1)[:, 0]", "p_te[:, 0]"),
    "router below float32": ("routing.py", "np.promote_types(x_td.dtype, np.float32)", "x_td.dtype"),
    "no N in the balance loss": ("losses.py", "return E * np.dot(", "return np.dot("),
    "z-loss without its square": ("losses.py", "np.mean(np.square(_logsumexp(h_te)))", "np.mean(_logsumexp(h_te))"),
    "padding counted as words": ("losses.py", MASKED, MASKED.replace(">= 0", ">= -100")),
    "gradient of a gate to all experts": ("routing.py", "dp_te = np.zeros_like(p_te)", "dp_te = np.full_like(p_te, 0.1)"),
    "softmax gradient without its mean": ("routing.py", "np.sum(p_te * dp_te, axis=-1, keepdims=True)", "0"),
    "gate left out of the experts' gradient": (
        "capacity.py",
        "dslot_td = gate_t.astype(y_ecd.dtype)[:, None] * dy_td",
        "dslot_td = dy_td",
    ),
    "a dropped token that teaches": ("capacity.py", "dgate_t = np.sum(dy_td * answer_td", "dgate_t = np.sum(dy_td * dy_td"),
    "norm's gradient along x": ("norm.py", "r_t1 * r_t1 * along_t1 * x_td", "along_t1 * x_td"),
    "words summed in the loss's gradient": (
        "losses.py",
        "logits_tv.dtype.type(dloss / len(words))",
        "logits_tv.dtype.type(dloss)",
    ),
    "balance gradient of the probabilities": (
        "losses.py",
        "share_e = expert_share(expert_t",
        "share_e = p_te.mean(axis=0) + 0 * expert_share(expert_t",
    ),
    "dropout that does not make up": ("dropout.py", "dtype(1 / (1 - rate))", "dtype(1)"),
    "relu's gradient everywhere": ("feedforward.py", "np.where(x_tf > 0, dy_tf, 0)", "dy_tf"),
    "words that come twice learn once": (
        "embedding.py",
        "np.add.at(dembedding_vd, ids_t, dx_td)",
        "dembedding_vd[ids_t] = dx_td",
    ),
    "attention divided by sqrt(K)": ("attention.py", "k_shk) + bias_hts", "k_shk) / q_thk.shape[2] ** 0.5 + bias_hts"),
    "a decoder that sees one ahead": ("position.py", "position_s) <= 0", "position_s) <= 1"),
    "epsilon outside the root": (
        "norm.py",
        "x_td / np.sqrt(square_t1 + dtype.type(eps))",
        "x_td / (np.sqrt(square_t1) + dtype.type(eps))",
    ),
    "tied logits unscaled": ("embedding.py", "x_td * x_td.dtype.type(D**-0.5)", "x_td"),
    "second choices before first": ("queues.py", "expert_tn[order_t].T.ravel()", "expert_tn[order_t].ravel()"),
    "who does not ask takes a slot": ("queues.py", "slots(expert_t[asks_t], E, C)", "slots(expert_t, E, C)[asks_t]"),
    "the least sure first": ("queues.py", "np.argsort(-gate_t", "np.argsort(gate_t"),
    "a stage that forgets who sits": ("queues.py", "taken_e[expert_t] + slots", "slots"),
    "experts that choose among experts": ("queues.py", "np.argsort(-p_te, axis=0", "np.argsort(-p_te, axis=1"),
    "ties of top k to the last": (
        "choices.py",
        'np.argsort(-p_te, axis=-1, kind="stable")',
        "np.argsort(p_te, axis=-1)[:, ::-1]",
    ),
    "the first choice drawn too": ("choices.py", "asks_tn[:, 1:] = rng", "asks_tn[:, :] = rng"),
    "a bias that makes the loved dearer": (
        "choices.py",
        "np.sign(asked_e.mean() - asked_e)",
        "np.sign(asked_e - asked_e.mean())",
    ),
    "jitter that is added": ("exploration.py", "np.multiply(x_td, rng", "np.add(x_td, rng"),
    "dropout that does not scale": ("exploration.py", "np.divide(x_td, dtype.type(1 - rate), dtype=dtype)", "x_td"),
    "temperature on the logits": ("exploration.py", "h_te - temperature * np.log", "temperature * h_te - np.log"),
    "groups that do not divide": ("groups.py", "while tokens % G:", "while tokens % G > 1:"),
    "groups that are no multiple": ("groups.py", "        G += multiple", "        G += 1"),
    "a variance for a deviation": ("initial.py", "math.sqrt(scale / inputs)", "scale / inputs"),
    "the teacher's share for the label's": (
        "distillation.py",
        "share * teacher_tv + (1 - share)",
        "(1 - share) * teacher_tv + share",
    ),
}


def caught_by(file, line, spoiled):
    """The property tests that fail once a line of the equations is spoiled."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder)
        for name in ("switchnp", "tests"):
            shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__", "parity"))
        shutil.copy(ROOT / "setup.cfg", copy)
        path = copy / "switchnp/equations" / file
        source = path.read_text(encoding="utf-8")
        assert source.count(line) == 1, f"{line!r} stands {source.count(line)} times in {file}, expected once"
        path.write_text(source.replace(line, spoiled), encoding="utf-8")
        command = [sys.executable, "-m", "pytest", "-q", "--tb=no", "-p", "no:cacheprovider", "tests/equations"]
        run = subprocess.run(
            command, cwd=copy, env={"PYTHONPATH": str(copy), "PATH": "/usr/bin:/bin"}, capture_output=True, text=True
        )
    return sorted(set(re.findall(r"FAILED \S+::test_(\w+)", run.stdout)))


def main():
    """Write the page; the exit status is how many mutations no test caught."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        tests = pool.map(lambda mutation: caught_by(*mutation), MUTATIONS.values())
        rows = dict(zip(MUTATIONS, tests, strict=True))
    lines = ["# Mutations of the equations, and the tests that catch them", "", "Made by `tests/mutations.py`.", ""]
    lines += ["| mutation | file | tests that fail | for example |", "|---|---|---|---|"]
    for name, tests in rows.items():
        lines.append(f"| {name} | {MUTATIONS[name][0]} | {len(tests)} | {', '.join(f'`{test}`' for test in tests[:2])} |")
    (ROOT / "docs/mutations.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return sum(not tests for tests in rows.values())


if __name__ == "__main__":
    sys.exit(main())
