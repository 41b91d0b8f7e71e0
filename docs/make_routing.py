"""Who routes how? Writes docs/routing.md.

    .venv/bin/python docs/make_routing.py

The answer is read off the code: `switchnp routing` prints the same table.
"""

from pathlib import Path

from make_equations import link

from switchnp import Routing
from switchnp import equations as eq
from switchnp.catalogue import ORIGINS, table
from switchnp.equations.capacity import CAPACITIES
from switchnp.errors import ConfigError
from switchnp.routers import ROUTERS

PAGE = Path(__file__).resolve().parent / "routing.md"
EQUATIONS = {
    "top 1": (eq.top1, eq.gate, eq.slots),
    "top k": (eq.top_k, eq.gates, eq.queue_slots),
    "gshard": (eq.renormalise, eq.second_asks, eq.queue_slots),
    "no token left behind": (eq.top_k, eq.left_behind_slots),
    "expert choice": (eq.expert_choice_slots,),
    "hash": (eq.hashed_expert, eq.slots),
    "bias": (eq.biased_top1, eq.balancing_step),
}
LOSSES = {(1.0, 1.0): "every choice", (1.0, 0.0): "first choices", (0.5, 0.5): "mean over choices", (0.0, 0.0): "none"}
WHOSE = {
    "exact": "the paper; a queue of 2.5 seats slots 0, 1 and 2",
    "ceil": "fastmoe; DeepSpeed with a minimum of 4; `Routing.paper()` with one of 1",
    "round": "flaxformer, half to even, with a minimum of 4 (2 in XXL and C)",
    "floor": "labml",
    "floor up to T": "mesh-tf with a minimum of 4",
    "floor to even": "nanoMoE: one more where it is odd",
    "floor of ceil": "fairseq: T / N is rounded up before the factor",
    "floor of T / E": "keras.io, which has no factor",
}
GROUPS = [(1, 8, 1.25), (10, 4, 1), (30, 8, 1), (100, 8, 1.25), (512, 128, 1.25)]


def page():
    """The whole page as text."""
    rows = table()
    lines = [
        "# Routing: who chooses what",
        "",
        "Made by `docs/make_routing.py`; `make test` checks that it is up to date. On the command line: `switchnp routing`, and",
        "`switchnp routing --compare A B FILE TEXT` for one text under two of them. A dash: another choice leaves none here.",
        "`switchnp.Routing` says what each value means.",
        "",
        *markdown([*rows[0]], [[*row.values()] for row in rows]),
        "",
        *[f"- {name}: {origin}." for name, origin in ORIGINS.items()],
        "",
        "## Routers",
        "",
        "`Routing(router=…)`. One that would let a decoder see the future is refused there unless the capacity is unlimited:",
        '`decoder_router` names another for it. The same holds of `order`: only "first come" is causal.',
        "",
        *markdown(["router", "equations", "in a decoder", "counts in the balance loss"], [router_row(name) for name in ROUTERS]),
        "",
        'Dropless routing (MegaBlocks) is `capacity="unlimited"`; batch-prioritised routing (V-MoE) is `order="by gate"`.',
        "",
        "## Equation 3 made whole",
        "",
        "The capacity of T tokens, N experts and a capacity factor under each rule, before the minimum:",
        "",
        *markdown(
            ["rule", "whose", *(f"{T}, {N}, {factor}" for T, N, factor in GROUPS)],
            [[rule, WHOSE[rule], *(f"{CAPACITIES[rule](*group):g}" for group in GROUPS)] for rule in CAPACITIES],
        ),
        "",
        "Hugging Face has no rule but a constant, the Config's expert_capacity, for each sentence.",
    ]
    return "\n".join(lines) + "\n"


def router_row(name):
    """A router's equations, whether a decoder may have it, and how its choices count."""
    counts = LOSSES[tuple(float(weight) for weight in ROUTERS[name].counts(2))]
    return [name, ", ".join(link(equation) for equation in EQUATIONS[name]), "yes" if causal(name) else "no", counts]


def causal(router):
    """May a decoder have it?"""
    try:
        Routing(router=router)
    except ConfigError:
        return False
    return True


def markdown(head, rows):
    """A table."""
    return [f"| {' | '.join(head)} |", "|---" * len(head) + "|", *(f"| {' | '.join(row)} |" for row in rows)]


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
