"""The numbers of a model (`Config`) and the choices of its routing (`Routing`), frozen and validated."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from .errors import ConfigError
from .strictjson import json_object

__all__ = ["ACTIVATIONS", "PRESETS", "ROUNDINGS", "Config", "Routing"]

ROUNDINGS = {"ceil": math.ceil, "floor": math.floor, "round": round}
"""How eq. 3 may be made a whole number."""

ACTIVATIONS = {
    "relu": "relu",
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "silu": "silu",
    "swish": "silu",
}
"""T5's names of activations and the equations that they mean."""


@dataclass(frozen=True, kw_only=True)
class Config:
    """The numbers of one model, by T5's field names.

    Which layers are sparse is said by explicit lists. `separate_embeddings` is true where encoder and decoder read
    different tables, as an untied model may after fine-tuning. Raises ConfigError with one sentence.

    Source: the Hugging Face and flaxformer configurations; docs/architecture.md says how the two are reconciled.
    """

    d_model: int
    d_ff: int
    d_kv: int
    num_heads: int
    num_layers: int
    num_decoder_layers: int
    num_experts: int
    sparse_encoder_layers: tuple[int, ...]
    sparse_decoder_layers: tuple[int, ...]
    vocab_size: int = 32128
    expert_capacity: int = 64
    dense_act_fn: str = "relu"
    is_gated_act: bool = False
    tie_word_embeddings: bool = True
    separate_embeddings: bool = False
    router_bias: bool = False
    relative_attention_num_buckets: int = 32
    relative_attention_max_distance: int = 128
    layer_norm_epsilon: float = 1e-6
    dropout_rate: float = 0.1
    router_jitter_noise: float = 0.01
    router_z_loss_coef: float = 0.001
    router_aux_loss_coef: float = 0.001
    pad_token_id: int = 0
    eos_token_id: int = 1
    decoder_start_token_id: int = 0

    def __post_init__(self) -> None:
        _check_types(self)
        for name in _COUNTS:
            _require(getattr(self, name) >= 1, f"{name} is {getattr(self, name)}, expected at least 1")
        _require(self.expert_capacity >= 0, f"expert_capacity is {self.expert_capacity}, expected at least 0")
        for name in ("dropout_rate", "router_jitter_noise"):
            _require(0 <= getattr(self, name) < 1, f"{name} is {getattr(self, name)}, expected 0 or more and below 1")
        _require(self.layer_norm_epsilon > 0, f"layer_norm_epsilon is {self.layer_norm_epsilon}, expected above 0")
        for name in ("pad_token_id", "eos_token_id", "decoder_start_token_id"):
            value = getattr(self, name)
            _require(0 <= value < self.vocab_size, f"{name} is {value}, expected an id below {self.vocab_size}")
        known = ", ".join(ACTIVATIONS)
        _require(self.dense_act_fn in ACTIVATIONS, f"dense_act_fn is {_short(self.dense_act_fn)}, expected one of {known}")
        self._check_buckets()
        for stack, count in (("encoder", self.num_layers), ("decoder", self.num_decoder_layers)):
            self._check_sparse(f"sparse_{stack}_layers", count)
        _require(
            not (self.tie_word_embeddings and self.separate_embeddings),
            "separate_embeddings is true, expected false where tie_word_embeddings is true",
        )

    def _check_buckets(self) -> None:
        buckets, distance = self.relative_attention_num_buckets, self.relative_attention_max_distance
        _require(buckets >= 4, f"relative_attention_num_buckets is {buckets}, expected at least 4")
        _require(
            distance > buckets // 2,
            f"relative_attention_max_distance is {distance}, expected more than half of the {buckets} buckets",
        )

    def _check_sparse(self, name: str, count: int) -> None:
        layers = getattr(self, name)
        good = all(0 <= layer < count for layer in layers) and list(layers) == sorted(set(layers))
        _require(good, f"{name} is {_short(layers)}, expected rising layer numbers below {count}")

    @property
    def axes(self) -> dict[str, int]:
        """The length of every axis that a weight's name may carry."""
        return {
            "d": self.d_model,
            "f": self.d_ff,
            "k": self.d_kv,
            "h": self.num_heads,
            "e": self.num_experts,
            "v": self.vocab_size,
            "r": self.relative_attention_num_buckets,
        }

    @property
    def num_parameters(self) -> int:
        """How many numbers the weights are, in closed form (no list of layers is built)."""
        D, V, E = self.d_model, self.vocab_size, self.num_experts
        attention = 4 * D * self.num_heads * self.d_kv + D
        expert = (3 if self.is_gated_act else 2) * D * self.d_ff
        router = E * (D + 1 if self.router_bias else D)

        def stack(layers: int, sparse: int, attentions: int) -> int:
            feedforward = (layers - sparse) * expert + sparse * (E * expert + router) + layers * D
            return layers * attentions * attention + feedforward + self.relative_attention_num_buckets * self.num_heads + D

        tables = 1 + (not self.tie_word_embeddings) + self.separate_embeddings
        encoder = stack(self.num_layers, len(self.sparse_encoder_layers), 1)
        decoder = stack(self.num_decoder_layers, len(self.sparse_decoder_layers), 2)
        return tables * V * D + encoder + decoder

    @classmethod
    def preset(cls, name: str) -> Config:
        """A published model by name, e.g. `Config.preset("switch-base-8")`; `PRESETS` lists them."""
        if not isinstance(name, str) or name not in PRESETS:
            raise ConfigError(f"{_short(name)} is no published model, expected one of {', '.join(PRESETS)}")
        return PRESETS[name]

    @classmethod
    def from_huggingface(cls, settings: Mapping[str, Any]) -> Config:
        """What Hugging Face reads from a config.json: its aliases, its defaults, its sparse-step arithmetic.

        Keys that it stores and never uses are passed over, feed_forward_proj and is_gated_act among them: it builds no
        gated layer, so only tensors can tell. An encoder_sparse_step in the file replaces the derived one.

        Source: SwitchTransformersConfig of transformers 4.32 to 5.23.
        """
        _require(isinstance(settings, Mapping), f"a config.json is a {type(settings).__name__}, expected names and values")
        given = {_ALIASES.get(key, key): value for key, value in settings.items()}
        model_type = given.get("model_type", "switch_transformers")
        _require(model_type == "switch_transformers", f"model_type is {_short(model_type)}, expected 'switch_transformers'")
        chosen = _HUGGINGFACE_DEFAULTS | {name: given[name] for name in _FIELDS if name in given}
        if chosen["num_decoder_layers"] is None:
            chosen["num_decoder_layers"] = chosen["num_layers"]
        if chosen.get("decoder_start_token_id", 0) is None:
            del chosen["decoder_start_token_id"]
        for stack, count in (("encoder", "num_layers"), ("decoder", "num_decoder_layers")):
            sparse = given.get(f"num_sparse_{stack}_layers", 3)
            chosen[f"sparse_{stack}_layers"] = _sparse_layers(chosen[count], sparse, given.get(f"{stack}_sparse_step"))
        return cls(**chosen)

    def to_json(self) -> str:
        """One line of JSON; `Config.from_json` reads it back."""
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> Config:
        """The Config that `to_json` wrote; raises ConfigError for anything else."""
        return _from_json(cls, text)


@dataclass(frozen=True, kw_only=True)
class Routing:
    """Every choice that implementations of the router make differently, written down.

    capacity        how eq. 3 is rounded: "ceil", "floor" or "round"; a number is that constant; None is the Config's
    eval_capacity_factor, train_capacity_factor, min_capacity    the rest of eq. 3
    group           whose tokens queue together: those of one "sequence"
    order           who is seated first: "first come"
    pads            "removed" before the first layer, or "routed" like any token (they take slots, count in the losses)
    dropped         what a token without a slot gets: "zero", or "identity", its own normed input times its gate
    loss_scope      "layer": each layer's loss over all tokens, summed over layers; "stack": a sequence's tokens of all
                    layers of a stack in one, averaged over sequences
    dropped_counts  where the balance loss counts a dropped token: at its own "choice", or at "expert 0"
    all_sparse_loss false where a stack whose layers are all sparse has no router losses
    balance_coef, z_coef    weights of the router losses; None is the Config's
    """

    name: str = "custom"
    capacity: str | int | None = "ceil"
    eval_capacity_factor: float = 2.0
    train_capacity_factor: float = 1.25
    min_capacity: int = 1
    group: str = "sequence"
    order: str = "first come"
    pads: str = "removed"
    dropped: str = "zero"
    loss_scope: str = "layer"
    dropped_counts: str = "choice"
    all_sparse_loss: bool = True
    balance_coef: float | None = None
    z_coef: float | None = None

    def __post_init__(self) -> None:
        _check_types(self)
        for name, choices in _CHOICES.items():
            value = getattr(self, name)
            _require(value in choices, f"Routing.{name} is {value!r}, expected one of {', '.join(map(repr, choices))}")
        capacity = self.capacity
        _require(
            capacity in ROUNDINGS if isinstance(capacity, str) else capacity is None or capacity >= 0,
            f"Routing.capacity is {capacity!r}, expected 'ceil', 'floor', 'round', a number of slots or None",
        )
        plain = self.name.isprintable() and len(self.name) <= 80
        _require(plain, f"Routing.name is {_short(self.name)}, expected at most 80 printable characters")
        for name in ("eval_capacity_factor", "train_capacity_factor"):
            _require(getattr(self, name) > 0, f"Routing.{name} is {getattr(self, name)}, expected above 0")
        _require(self.min_capacity >= 0, f"Routing.min_capacity is {self.min_capacity}, expected at least 0")

    @classmethod
    def paper(cls) -> Routing:
        """Fedus, Zoph, Shazeer, as written: eq. 3 rounded up, one sentence a group, pads not routed, α = 0.01."""
        return cls(name="paper", balance_coef=0.01, z_coef=0.0)

    @classmethod
    def huggingface(cls, version: str = "5.23") -> Routing:
        """What transformers computes in evaluation.

        "5.23" drops to zero; "4.57" (4.52 to 4.57) counts dropped tokens at expert 0; "4.25" (to 4.51) also passes
        them on as gate × normed input. Source: transformers 5.23.0, 4.57.6 and 4.25.1, each by running it.
        """
        if not isinstance(version, str) or version not in _HUGGINGFACE_VERSIONS:
            known = ", ".join(_HUGGINGFACE_VERSIONS)
            raise ConfigError(f"Routing.huggingface has no version {_short(version)}, expected one of {known}")
        common: dict[str, Any] = {"capacity": None, "pads": "routed", "loss_scope": "stack", "all_sparse_loss": False}
        return cls(name=f"huggingface {version}", **common, **_HUGGINGFACE_VERSIONS[version])

    def to_json(self) -> str:
        """One line of JSON; `Routing.from_json` reads it back."""
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> Routing:
        """The Routing that `to_json` wrote; raises ConfigError for anything else."""
        return _from_json(cls, text)


LARGEST = 10**15
_COUNTS = ("d_model", "d_ff", "d_kv", "num_heads", "num_layers", "num_decoder_layers", "num_experts", "vocab_size")
_FIELDS = {field.name for field in fields(Config)} - {
    "sparse_encoder_layers",
    "sparse_decoder_layers",
    "separate_embeddings",
    "is_gated_act",
}
_ALIASES = {"hidden_size": "d_model", "num_hidden_layers": "num_layers", "num_attention_heads": "num_heads"}
_HUGGINGFACE_DEFAULTS: dict[str, Any] = {
    "d_model": 768,
    "d_ff": 2048,
    "d_kv": 64,
    "num_heads": 12,
    "num_layers": 12,
    "num_decoder_layers": 12,
    "num_experts": 8,
}
_CHOICES: dict[str, tuple[str, ...]] = {
    "group": ("sequence",),
    "order": ("first come",),
    "pads": ("removed", "routed"),
    "dropped": ("zero", "identity"),
    "loss_scope": ("layer", "stack"),
    "dropped_counts": ("choice", "expert 0"),
}
_HUGGINGFACE_VERSIONS: dict[str, dict[str, Any]] = {
    "5.23": {},
    "4.57": {"dropped_counts": "expert 0"},
    "4.25": {"dropped_counts": "expert 0", "dropped": "identity"},
}


def _sparse_layers(layers: Any, sparse: Any, stored_step: Any) -> tuple[int, ...]:
    """The layers that Hugging Face makes sparse: i % step == 1, or all of them where the step is 1."""
    for name, value in (("a number of layers", layers), ("a number of sparse layers", sparse)):
        _require(_is_int(value) and 0 <= value <= 100_000, f"{name} is {_short(value)}, expected a whole number up to 100000")
    step = layers // sparse if sparse > 0 else layers
    if stored_step is not None:
        _require(_is_int(stored_step), f"a stored sparse step is {_short(stored_step)}, expected a whole number")
        step = stored_step
    return tuple(i for i in range(layers) if step == 1 or (step > 1 and i % step == 1))


def _from_json(cls: Any, text: str) -> Any:
    try:
        settings = json_object(text)
    except (ValueError, TypeError) as error:
        raise ConfigError(f"a {cls.__name__} is not good JSON: {_short(error)}") from None
    unknown = sorted(set(settings) - {field.name for field in fields(cls)})
    _require(not unknown, f"a {cls.__name__} has the unknown field {_short(unknown)}")
    settings = {name: tuple(value) if isinstance(value, list) else value for name, value in settings.items()}
    try:
        return cls(**settings)
    except TypeError as error:
        raise ConfigError(f"a {cls.__name__} lacks a field: {error}") from None


def _check_types(record: Any) -> None:
    for field in fields(record):
        value, kinds = getattr(record, field.name), str(field.type).split(" | ")
        fits = any(_TYPE_CHECKS[kind](value) for kind in kinds)
        wanted = " or ".join(_TYPE_NAMES[kind] for kind in kinds)
        _require(fits, f"{field.name} is {_short(value)}, expected {wanted}")


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) < LARGEST


def _is_float(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < LARGEST


_TYPE_CHECKS = {
    "int": _is_int,
    "float": _is_float,
    "bool": lambda value: isinstance(value, bool),
    "str": lambda value: isinstance(value, str),
    "None": lambda value: value is None,
    "tuple[int, ...]": lambda value: isinstance(value, tuple) and all(_is_int(item) for item in value),
}
_TYPE_NAMES = {
    "int": "a whole number below 10^15",
    "float": "a finite number below 10^15",
    "bool": "true or false",
    "str": "a text",
    "None": "nothing",
    "tuple[int, ...]": "a list of whole numbers",
}


def _short(value: Any) -> str:
    text = ascii(value) if not isinstance(value, Exception) else ascii(str(value))
    return text if len(text) <= 80 else text[:77] + "..."


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ConfigError(message)


def _released(d_model: int, d_ff: int, heads: int, layers: int, experts: int, sparse: tuple[int, ...], **more: Any) -> Config:
    return Config(
        d_model=d_model,
        d_ff=d_ff,
        d_kv=64,
        num_heads=heads,
        num_layers=layers,
        num_decoder_layers=layers,
        num_experts=experts,
        sparse_encoder_layers=sparse,
        sparse_decoder_layers=sparse,
        **more,
    )


_ODD_12, _ODD_24 = tuple(range(1, 12, 2)), tuple(range(1, 24, 2))
PRESETS: dict[str, Config] = {
    **{f"switch-base-{experts}": _released(768, 3072, 12, 12, experts, _ODD_12) for experts in (8, 16, 32, 64, 128, 256)},
    "switch-large-128": _released(1024, 4096, 16, 24, 128, _ODD_24),
    "switch-xxl-128": _released(
        4096, 10240, 64, 24, 128, _ODD_24, dense_act_fn="gelu_new", is_gated_act=True, tie_word_embeddings=False
    ),
    "switch-c-2048": _released(2080, 6144, 30, 15, 2048, tuple(range(15)), tie_word_embeddings=False),
}
"""The published models as they truly are (flaxformer's gin files), also where their config.json says otherwise."""
