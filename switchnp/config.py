"""The numbers of a model, frozen and validated."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from .errors import ConfigError
from .records import Record, require, shortened, whole

__all__ = ["ACTIVATIONS", "PRESETS", "Config"]

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
class Config(Record):
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
        self.check_types()
        for name in _COUNTS:
            require(getattr(self, name) >= 1, f"{name} is {getattr(self, name)}, expected at least 1")
        require(self.expert_capacity >= 0, f"expert_capacity is {self.expert_capacity}, expected at least 0")
        for name in ("dropout_rate", "router_jitter_noise"):
            require(0 <= getattr(self, name) < 1, f"{name} is {getattr(self, name)}, expected 0 or more and below 1")
        require(self.layer_norm_epsilon > 0, f"layer_norm_epsilon is {self.layer_norm_epsilon}, expected above 0")
        for name in ("pad_token_id", "eos_token_id", "decoder_start_token_id"):
            value = getattr(self, name)
            require(0 <= value < self.vocab_size, f"{name} is {value}, expected an id below {self.vocab_size}")
        known = ", ".join(ACTIVATIONS)
        require(self.dense_act_fn in ACTIVATIONS, f"dense_act_fn is {shortened(self.dense_act_fn)}, expected one of {known}")
        self._check_buckets()
        for stack, count in (("encoder", self.num_layers), ("decoder", self.num_decoder_layers)):
            self._check_sparse(f"sparse_{stack}_layers", count)
        require(
            not (self.tie_word_embeddings and self.separate_embeddings),
            "separate_embeddings is true, expected false where tie_word_embeddings is true",
        )

    def _check_buckets(self) -> None:
        buckets, distance = self.relative_attention_num_buckets, self.relative_attention_max_distance
        require(buckets >= 4, f"relative_attention_num_buckets is {buckets}, expected at least 4")
        require(
            distance > buckets // 2,
            f"relative_attention_max_distance is {distance}, expected more than half of the {buckets} buckets",
        )

    def _check_sparse(self, name: str, count: int) -> None:
        layers = getattr(self, name)
        good = all(0 <= layer < count for layer in layers) and list(layers) == sorted(set(layers))
        require(good, f"{name} is {shortened(layers)}, expected rising layer numbers below {count}")

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
            raise ConfigError(f"{shortened(name)} is no published model, expected one of {', '.join(PRESETS)}")
        return PRESETS[name]

    @classmethod
    def from_huggingface(cls, settings: Mapping[str, Any]) -> Config:
        """What Hugging Face reads from a config.json: its aliases, its defaults, its sparse-step arithmetic.

        Keys that it stores and never uses are passed over, feed_forward_proj and is_gated_act among them: it builds no
        gated layer, so only tensors can tell. An encoder_sparse_step in the file replaces the derived one.

        Source: SwitchTransformersConfig of transformers 4.32 to 5.23.
        """
        require(isinstance(settings, Mapping), f"a config.json is a {type(settings).__name__}, expected names and values")
        given = {_ALIASES.get(key, key): value for key, value in settings.items()}
        model_type = given.get("model_type", "switch_transformers")
        require(model_type == "switch_transformers", f"model_type is {shortened(model_type)}, expected 'switch_transformers'")
        chosen = _HUGGINGFACE_DEFAULTS | {name: given[name] for name in _FIELDS if name in given}
        if chosen["num_decoder_layers"] is None:
            chosen["num_decoder_layers"] = chosen["num_layers"]
        if chosen.get("decoder_start_token_id", 0) is None:
            del chosen["decoder_start_token_id"]
        for stack, count in (("encoder", "num_layers"), ("decoder", "num_decoder_layers")):
            sparse = given.get(f"num_sparse_{stack}_layers", 3)
            chosen[f"sparse_{stack}_layers"] = _sparse_layers(chosen[count], sparse, given.get(f"{stack}_sparse_step"))
        return cls(**chosen)


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


def _sparse_layers(layers: Any, sparse: Any, stored_step: Any) -> tuple[int, ...]:
    """The layers that Hugging Face makes sparse: i % step == 1, or all of them where the step is 1."""
    for name, value in (("a number of layers", layers), ("a number of sparse layers", sparse)):
        require(whole(value) and 0 <= value <= 100_000, f"{name} is {shortened(value)}, expected a whole number up to 100000")
    step = layers // sparse if sparse > 0 else layers
    if stored_step is not None:
        require(whole(stored_step), f"a stored sparse step is {shortened(stored_step)}, expected a whole number")
        step = stored_step
    return tuple(i for i in range(layers) if step == 1 or (step > 1 and i % step == 1))


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
