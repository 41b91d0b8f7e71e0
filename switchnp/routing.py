"""Every choice that implementations of the router make differently, written down."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields, replace
from functools import partial
from typing import Any

from .equations.capacity import CAPACITIES
from .errors import ConfigError
from .records import Record, require, shortened

__all__ = ["PRESETS", "WORDS", "Routing"]

WORDS: dict[str, tuple[str, ...]] = {
    "router": ("top 1", "top k", "gshard", "no token left behind", "expert choice", "hash", "bias"),
    "group": ("sequence", "packed", "everything", "flaxformer", "mesh-tf"),
    "order": ("first come", "by gate", "random"),
    "pads": ("removed", "routed", "zeroed", "unseated"),
    "dropped": ("zero", "identity"),
    "train_policy": ("argmax", "sample", "input dropout", "input jitter", "logit jitter", "leaking jitter"),
    "eval_policy": ("argmax", "sample"),
    "precision": ("float32", "bfloat16", "selective"),
    "position_bias": ("every block", "block 0"),
    "loss_layers": ("sum", "mean", "concatenated"),
    "loss_tokens": ("batch", "group", "sequence"),
    "loss_pads": ("counted", "left out", "zeroed", "weighted"),
    "dropped_counts": ("choice", "expert 0"),
}
"""What a field may say, where it says it in words."""


@dataclass(frozen=True, kw_only=True)
class Routing(Record):
    """Which expert, is there room, and what it costs: every choice that the paper leaves open or that others make differently.

    router          which experts, one of
                    "top 1": Switch, eq. 2 · "top k": the `choices` loudest, gates as they are (flaxformer) ·
                    "gshard": two, gates renormalised, the second at random in training · "no token left behind": as many
                    tries as `choices` (appendix B) · "expert choice": experts take tokens · "hash": by the word, gate 1 ·
                    "bias": the router's bias moves the choice and not the gate (needs a Config with router_bias)
    capacity        how eq. 3 is rounded (equations.capacity.CAPACITIES), "unlimited" (dropless), a number of slots, or
                    None: the Config's expert_capacity
    eval_capacity_factor, train_capacity_factor, min_capacity    the rest of eq. 3
    group           whose tokens queue together: those of one "sequence", `group_tokens` tokens of the "packed" row (the
                    last group may be smaller), "everything", or equal parts of the padded batch as "flaxformer" (never
                    fewer than experts, zeros added where they do not divide) or "mesh-tf" cuts it
    order           who is seated first: "first come", "by gate" (batch-prioritised) or "random"
    decoder_router, decoder_order    the decoder's, where they differ
    pads            "removed" before the first layer; "routed" like any token; "zeroed": routed as vectors of zeros, which a
                    router without bias sends to expert 0 (flaxformer); "unseated": in the group, but without a slot (mesh-tf)
    dropped         what a token without a slot gets: "zero", or "identity", its own normed input times its gate
    train_policy    exploration in training: appendix C's four; "logit jitter" as fig. 15 draws it; "leaking jitter", which
                    the experts see too, as in transformers
    eval_policy     "argmax", or "sample"
    jitter, input_dropout, temperature    how much of it
    precision       "float32": nothing is rounded; "bfloat16": everything is, after every operation; "selective": everything
                    but the router (Switch, §2.4). The simulated ones need engine="equations"
    position_bias   "every block" has the stack's; or "block 0" alone
    loss_layers     the "sum" or "mean" of the layers' losses, or one loss of a stack's layers "concatenated"
    loss_tokens     the balance loss of the whole "batch", or the mean over "group"s or "sequence"s
    loss_pads       pads that are in the row are "counted" like tokens; "left out"; "zeroed": their probabilities are, and
                    still divided by (flaxformer's ignore_padding_tokens); "weighted": counted, and the loss times the share
                    of tokens that are none (mesh-tf)
    dropped_counts  where the balance loss counts a dropped token: at its own "choice", or at "expert 0"
    all_sparse_loss false where a stack whose layers are all sparse has no router losses
    balance_coef, z_coef, logit_z_coef    weights of the losses

    Raises ConfigError for what no model can do, a decoder that sees the future among it.
    """

    name: str = "custom"
    router: str = "top 1"
    decoder_router: str | None = None
    choices: int = 2
    capacity: str | int | None = "ceil"
    eval_capacity_factor: float = 2.0
    train_capacity_factor: float = 1.25
    min_capacity: int = 1
    group: str = "sequence"
    group_tokens: int | None = None
    order: str = "first come"
    decoder_order: str | None = None
    pads: str = "removed"
    dropped: str = "zero"
    train_policy: str = "argmax"
    eval_policy: str = "argmax"
    jitter: float | None = None
    input_dropout: float = 0.1
    temperature: float = 1.0
    precision: str = "float32"
    position_bias: str = "every block"
    loss_layers: str = "sum"
    loss_tokens: str = "batch"
    loss_pads: str = "counted"
    dropped_counts: str = "choice"
    all_sparse_loss: bool = True
    balance_coef: float | None = None
    z_coef: float | None = None
    logit_z_coef: float = 0.0

    def __post_init__(self) -> None:
        self.check_types()
        self._check_words()
        self._check_numbers()
        self._check_groups()
        self._check_routers()
        self._check_causality()

    def _check_words(self) -> None:
        plain = self.name.isprintable() and len(self.name) <= 80
        require(plain, f"Routing.name is {shortened(self.name)}, expected at most 80 printable characters")
        for name in (*WORDS, "decoder_router", "decoder_order"):
            value, choices = getattr(self, name), WORDS[name.removeprefix("decoder_")]
            known = ", ".join(map(repr, choices))
            good = value in choices or (name.startswith("decoder_") and value is None)
            require(good, f"Routing.{name} is {shortened(value)}, expected one of {known}")

    def _check_numbers(self) -> None:
        capacity, rules = self.capacity, ", ".join(map(repr, CAPACITIES))
        require(
            capacity in (*CAPACITIES, "unlimited") if isinstance(capacity, str) else capacity is None or capacity >= 0,
            f"Routing.capacity is {shortened(capacity)}, expected {rules}, 'unlimited', a number of slots or None",
        )
        for name in ("eval_capacity_factor", "train_capacity_factor"):
            require(getattr(self, name) > 0, f"Routing.{name} is {getattr(self, name)}, expected above 0")
        for name, least in {"min_capacity": 0, "temperature": 0, "choices": 1}.items():
            require(getattr(self, name) >= least, f"Routing.{name} is {getattr(self, name)}, expected at least {least}")
        for name in ("jitter", "input_dropout"):
            value = getattr(self, name)
            require(value is None or 0 <= value < 1, f"Routing.{name} is {value}, expected 0 or more and below 1")

    def _check_groups(self) -> None:
        counted = self.group in ("packed", "flaxformer", "mesh-tf")
        size, wanted = self.group_tokens, "a number of 1 or more" if counted else "None"
        fits = size is not None and size >= 1 if counted else size is None
        require(fits, f"Routing.group_tokens is {size}, expected {wanted} for the group {self.group!r}")
        require(
            not (self.group in ("flaxformer", "mesh-tf") and self.pads == "removed"),
            f"Routing.pads is 'removed', expected pads that stay for the group {self.group!r}, which cuts the padded batch",
        )

    def _check_routers(self) -> None:
        """Refuse what a router would pass over."""
        for stack in ("encoder", "decoder"):
            router = self.of(stack).router
            needs = {
                "train_policy": ("sample", router == "top 1"),
                "eval_policy": ("sample", router == "top 1"),
                "dropped": ("identity", not self.of(stack).several),
                "dropped_counts": ("expert 0", not self.of(stack).several),
            }
            for name, (value, possible) in needs.items():
                idle = getattr(self, name) == value and not possible
                require(not idle, f"Routing.{name} is {value!r}, which the router {router!r} passes over")
            ordered = router not in ("no token left behind", "expert choice") and self.capacity != "unlimited"
            order, why = (
                self.of(stack).order,
                "capacity 'unlimited'" if self.capacity == "unlimited" else f"the router {router!r}",
            )
            require(ordered or order == "first come", f"Routing.order is {order!r}, which {why} passes over")

    def _check_causality(self) -> None:
        if self.capacity == "unlimited":
            return
        decoder = self.of("decoder")
        require(
            decoder.router in ("top 1", "hash", "bias"),
            f"the router {decoder.router!r} would let the decoder see the future, expected decoder_router 'top 1', 'hash' or "
            "'bias' (or capacity 'unlimited')",
        )
        require(
            decoder.order == "first come",
            f"the order {decoder.order!r} would let the decoder see the future, expected decoder_order 'first come'",
        )

    def of(self, stack: str) -> Routing:
        """The choices of one stack, "encoder" or "decoder"."""
        own = {"router": self.decoder_router, "order": self.decoder_order}
        other: dict[str, Any] = {name: value for name, value in own.items() if value is not None}
        if stack == "encoder" or not other:
            return self
        return replace(self, **other, decoder_router=None, decoder_order=None)

    @property
    def several(self) -> bool:
        """May a token have several experts?"""
        return self.router in ("top k", "gshard", "no token left behind", "expert choice")

    @property
    def needs_bias(self) -> bool:
        """Does a router go by the Config's router_bias?"""
        return "bias" in (self.router, self.decoder_router)

    def draws(self, training: bool) -> str | None:
        """Which choice needs random numbers, if any does."""
        stacks = self, self.of("decoder")
        policy = self.train_policy if training else self.eval_policy
        if any(routing.order == "random" for routing in stacks):
            return "order 'random'"
        if training and any(routing.router == "gshard" for routing in stacks):
            return "router 'gshard'"
        silent = policy == "argmax" or ("jitter" in policy and self.jitter == 0)
        return None if silent else f"policy {policy!r}"

    @classmethod
    def paper(cls) -> Routing:
        """Fedus, Zoph, Shazeer, as written: eq. 3 rounded up, one sentence a group, pads not routed, α = 0.01."""
        return cls(name="paper", train_policy="input jitter", jitter=0.01, balance_coef=0.01, z_coef=0.0)

    @classmethod
    def mesh_tf(cls, group_tokens: int = 1024) -> Routing:
        """The code that trained the paper's models, on one device: the batch is one group unless it is a large one.

        Source: mesh_tensorflow/transformer/moe.py, da90793; its defaults but for moe_gating="switch".
        """
        return cls(
            name="mesh-tf",
            capacity="floor up to T",
            min_capacity=4,
            group="mesh-tf",
            group_tokens=group_tokens,
            pads="unseated",
            train_policy="input jitter",
            jitter=0.01,
            loss_tokens="group",
            loss_pads="weighted",
            balance_coef=0.01,
            z_coef=0.0,
        )

    @classmethod
    def flaxformer(cls, group_tokens: int = 8192) -> Routing:
        """The code that the released checkpoints come from: never fewer groups than experts, pads as vectors of zeros.

        Of the released models base has 8192 tokens a group, large and XXL 4096, C 2048. XXL evaluates with a capacity
        factor of 4, C trains with 1, and both have a min_capacity of 2: `dataclasses.replace` says so.

        Source: flaxformer/architectures/moe, 399ea3a, and its t5x/configs/moe.
        """
        return cls(
            name="flaxformer",
            capacity="round",
            min_capacity=4,
            group="flaxformer",
            group_tokens=group_tokens,
            pads="zeroed",
            loss_layers="mean",
            loss_tokens="group",
            balance_coef=0.01,
            z_coef=0.0,
            logit_z_coef=1e-4,
        )

    @classmethod
    def huggingface(cls, version: str = "5.23") -> Routing:
        """What transformers computes.

        "5.23" (from 5.18) drops to zero. "5.0" (to 5.14) is broken, on purpose: the capacity is never enforced (one of 0 in
        the Config drops all the same there, and does not here), only block 0 has a position bias, and there are no
        router losses; 5.15 to 5.17 have the bias again. "4.57" (from 4.52) counts dropped tokens at expert 0; "4.25" (to 4.41,
        and 4.46 to 4.51) also passes them on as gate × normed input, and is meant without the jitter that it had in
        evaluation to 4.36. No preset has the experts that 4.42 to 4.45 skip by mistake, nor the dense layers that versions
        to 4.36 build where all should be sparse.

        Source: transformers 5.23.0, 5.0.0, 4.57.6 and 4.25.1, each by running it.
        """
        if not isinstance(version, str) or version not in _HUGGINGFACE_VERSIONS:
            known = ", ".join(_HUGGINGFACE_VERSIONS)
            raise ConfigError(f"Routing.huggingface has no version {shortened(version)}, expected one of {known}")
        common: dict[str, Any] = {
            "capacity": None,
            "pads": "routed",
            "train_policy": "leaking jitter",
            "loss_layers": "concatenated",
            "loss_tokens": "sequence",
            "all_sparse_loss": False,
        }
        return cls(name=f"huggingface {version}", **common | _HUGGINGFACE_VERSIONS[version])

    @classmethod
    def named(cls, text: str) -> Routing:
        """A preset by name, with changes behind commas: "flaxformer", "huggingface:4.57", "paper,capacity=1,order=first come".

        Raises ConfigError for an unknown preset or field.
        """
        require(isinstance(text, str), f"a routing is {shortened(text)}, expected a text")
        name, *changes = text.split(",")
        known = ", ".join(PRESETS)
        require(name in PRESETS, f"{shortened(name)} is no routing, expected one of {known}, and changes as ',field=value'")
        fit = all("=" in change for change in changes)
        require(fit, f"the changes of {shortened(text)} are not all of the form field=value")
        pairs = [change.partition("=")[::2] for change in changes]
        changed = {field.strip(): _value(value) for field, value in pairs}
        require(len(changed) == len(pairs), f"the changes of {shortened(text)} name a field twice")
        unknown = sorted(set(changed) - {field.name for field in fields(cls)})
        require(not unknown, f"a Routing has no field {shortened(unknown[0]) if unknown else ''}, see `switchnp routing`")
        return replace(PRESETS[name](), **({"name": shortened(text)[1:-1]} | changed if changed else {}))

    @classmethod
    def renewed(cls, settings: dict[str, Any]) -> dict[str, Any]:
        """Early files name one scope of the losses where there are two choices now, and know no training."""
        older = {"layer": ("sum", "batch"), "stack": ("concatenated", "sequence")}
        scope = settings.get("loss_scope")
        if not isinstance(scope, str) or scope not in older:
            return settings
        layers, tokens = older[scope]
        rest = {name: value for name, value in settings.items() if name != "loss_scope"}
        preset = PRESETS.get(str(settings.get("name")).replace(" ", ":"))
        return (asdict(preset()) if preset else {}) | {"loss_layers": layers, "loss_tokens": tokens, **rest}


_HUGGINGFACE_VERSIONS: dict[str, dict[str, Any]] = {
    "5.23": {},
    "5.0": {"capacity": "unlimited", "position_bias": "block 0", "balance_coef": 0.0, "z_coef": 0.0},
    "4.57": {"dropped_counts": "expert 0"},
    "4.25": {"dropped_counts": "expert 0", "dropped": "identity"},
}
PRESETS: dict[str, Callable[[], Routing]] = {
    "paper": Routing.paper,
    "mesh-tf": Routing.mesh_tf,
    "flaxformer": Routing.flaxformer,
    "huggingface": Routing.huggingface,
    **{f"huggingface:{version}": partial(Routing.huggingface, version) for version in _HUGGINGFACE_VERSIONS},
}
"""The presets by the names that the command line has for them."""


def _value(text: str) -> Any:
    """A field's value as the command line writes it: JSON where it is JSON, otherwise words."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text.strip()
