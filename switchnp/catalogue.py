"""Who chooses what: every preset side by side, and where each choice comes from."""

from __future__ import annotations

from .equations.capacity import CAPACITIES
from .routing import PRESETS, Routing

__all__ = ["ORIGINS", "SOURCES", "table"]

SOURCES = {
    "router": "Switch, eq. 2; routers after it",
    "decoder_router": "routers that see ahead: encoder only",
    "choices": "Shazeer et al. 2017; Switch, appendix B",
    "capacity": "Switch, eq. 3, which does not round",
    "eval_capacity_factor": "Switch, §2.2; released gin files",
    "train_capacity_factor": "Switch, §2.2; released gin files",
    "min_capacity": "mesh-tf and flaxformer; not in the paper",
    "group": "Switch, §2.2: tokens of a core",
    "group_tokens": "mesh-tf and flaxformer: group_size",
    "order": "the paper does not say; V-MoE by gate",
    "decoder_order": "flaxformer: by gate in no decoder",
    "pads": "the paper does not say",
    "dropped": "Switch, §2.2: residual alone",
    "train_policy": "Switch, appendix C; fig. 15 on logits",
    "eval_policy": "mesh-tf: switch_policy_eval",
    "jitter": "Switch, appendix C; None: the Config's",
    "input_dropout": "mesh-tf: switch_dropout",
    "temperature": "mesh-tf: switch_temperature",
    "precision": "Switch, §2.4 and table 2",
    "position_bias": "T5: one table, every block",
    "loss_layers": "Switch, eq. 4: for each Switch layer",
    "loss_tokens": "Switch, eqs. 5 and 6: the batch B",
    "loss_pads": "the paper does not say",
    "dropped_counts": "Switch, eq. 5: argmax, before dropping",
    "all_sparse_loss": "Switch, eq. 4: every Switch layer",
    "balance_coef": "Switch, eq. 4: α; None: the Config's",
    "z_coef": "ST-MoE, eq. 5; None: the Config's",
    "logit_z_coef": "T5X: z_loss",
}
"""Where each choice comes from."""

ORIGINS = {
    "paper": "Fedus, Zoph, Shazeer, arXiv 2101.03961",
    "mesh-tf": "mesh_tensorflow/transformer/moe.py, da90793, which trained the paper's models",
    "flaxformer": "flaxformer/architectures/moe, 399ea3a, which the released checkpoints come from",
    "huggingface:5.23": "transformers 5.18 to 5.23; 5.23.0 was run",
    "huggingface:5.0": "transformers 5.0 to 5.14, broken: no capacity, no position bias above block 0; 5.0.0 was run",
    "huggingface:4.57": "transformers 4.52 to 4.57; 4.57.6 was run",
    "huggingface:4.25": "transformers 4.25 to 4.41 and 4.46 to 4.51, without the jitter in evaluation; 4.25.1 was run",
}
"""Where each preset comes from."""


def table() -> list[dict[str, str]]:
    """Every choice (`choice`), what each preset says, and where the choice comes from (`source`), in words.

    "-" stands where another choice leaves nothing to choose.
    """
    presets = {name: PRESETS[name]() for name in ORIGINS}
    rows = []
    for field, source in SOURCES.items():
        words = {name: "-" if field in _idle(routing) else _word(field, routing) for name, routing in presets.items()}
        rows.append({"choice": field, **words, "source": source})
    return rows


def _idle(routing: Routing) -> set[str]:
    """The fields that change nothing beside the others."""
    used = {
        "choices": routing.router in ("top k", "no token left behind"),
        "eval_capacity_factor": routing.capacity in CAPACITIES,
        "train_capacity_factor": routing.capacity in CAPACITIES,
        "min_capacity": routing.capacity in CAPACITIES,
        "group_tokens": routing.group_tokens is not None,
        "order": routing.capacity != "unlimited",
        "decoder_order": routing.capacity != "unlimited",
        "dropped": routing.capacity != "unlimited",
        "jitter": "jitter" in routing.train_policy,
        "input_dropout": routing.train_policy == "input dropout",
        "temperature": "sample" in (routing.train_policy, routing.eval_policy),
        "loss_pads": routing.pads != "removed",
        "dropped_counts": routing.capacity != "unlimited",
    }
    return {field for field, has_effect in used.items() if not has_effect}


def _word(field: str, routing: Routing) -> str:
    value = getattr(routing, field)
    if isinstance(value, bool):
        return "yes" if value else "no"
    silent = "the encoder's" if field.startswith("decoder_") else "the Config's"
    return silent if value is None else str(value)
