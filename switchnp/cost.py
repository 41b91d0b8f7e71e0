"""What a forward pass costs, counted exactly and before it runs: operations, bytes, slots, and what a mesh of cores sends.

A layer is a list of einsums, and an einsum is the names of its arrays; a name carries its axes, so the names are enough:

    FLOPs = 2 (product of the lengths of all letters)      a multiply-add is two
    bytes = (product of the lengths of a name's letters) (bytes of a number)

Every array is read or written once for each einsum that it is in: nothing is fused, nothing stays in a cache.

Not counted: softmax, norms, activations, biases, gates and residuals, each a few operations a number; looking up words; the
seats themselves (`equations.seating`), which are logic; losses. All numbers are Python integers or Fractions: exact.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from numbers import Integral
from typing import Any

from . import equations, layers
from .config import Config
from .errors import InputError
from .routing import Routing

__all__ = [
    "BYTES",
    "DISPATCHES",
    "SCHEMES",
    "Cost",
    "Share",
    "attention",
    "dense",
    "forward",
    "head",
    "parallel",
    "per_token",
    "queue_length",
    "stack",
    "switch",
    "total",
]

BYTES = {"bfloat16": 2, "float32": 4, "float64": 8}
"""Bytes of one number. The router's logits never have fewer than four."""

DISPATCHES = ("einsum", "gather", "sort")
"""How tokens reach their experts: by eq. 7 into padded queues; by indices into the same queues; without any padding."""

SCHEMES = ("data", "model", "model+data", "expert+data", "expert+model+data")
"""How Switch §5 divides a layer among cores."""


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What one layer costs, or several together.

    path         the place of the layer's weights in the tree, e.g. encoder/blocks/1/switch
    by_equation  FLOPs under the name of the equation that does them
    weights      bytes of weights read
    activations  bytes of arrays read and written by the einsums
    slots        rows of all experts' queues, E C; 0 where nothing is routed
    kept         tokens that sit in them
    """

    path: str
    by_equation: Mapping[str, int]
    weights: int
    activations: int
    slots: int = 0
    kept: int = 0

    @property
    def flops(self) -> int:
        """All of them."""
        return sum(self.by_equation.values())

    @property
    def padded(self) -> int:
        """Slots that nobody sits in, computed all the same unless the dispatch is by "sort"."""
        return self.slots - self.kept


def total(costs: Iterable[Cost], path: str = "") -> Cost:
    """Several costs as one."""
    costs = list(costs)
    by_equation: Counter[str] = Counter()
    for cost in costs:
        by_equation.update(cost.by_equation)
    sums = {name: sum(getattr(cost, name) for cost in costs) for name in ("weights", "activations", "slots", "kept")}
    return Cost(path=path, by_equation=dict(by_equation), **sums)


_ATTENTION = (
    ("split_heads", "n_td wq_dhk q_thk"),
    ("split_heads", "n_sd wk_dhk k_shk"),
    ("split_heads", "n_sd wv_dhk v_shk"),
    ("attention_weights", "q_thk k_shk look_hts"),
    ("attend", "look_hts v_shk o_thk"),
    ("merge_heads", "o_thk wo_hkd y_td"),
)
_DENSE = {
    False: (("ffn", "n_td wi_df h_tf"), ("ffn", "h_tf wo_fd y_td")),
    True: (("gated_ffn", "n_td wi0_df h_tf"), ("gated_ffn", "n_td wi1_df h_tf"), ("gated_ffn", "h_tf wo_fd y_td")),
}
_HEAD = {True: (("unembed", "x_td embedding_vd logits_tv"),), False: (("head", "x_td head_vd logits_tv"),)}
_ROUTER = (("router_logits", "n_td wr_de h_te"),)
_DISPATCH, _COMBINE = (("dispatch", "seat_tec n_td x_ecd"),), (("combine", "seat_tec y_ecd y_td"),)


def attention(config: Config, T: int, S: int, *, dtype: str = "float32", path: str = "attention") -> Cost:
    """T tokens look at S: four projections, and two products of every pair.

        FLOPs = 4 D H K (T + S) + 4 T S H K

    All T S pairs are computed, also those that a decoder then hides.

    Source: the einsums of equations/attention.py.
    """
    return _counted(path, _ATTENTION, config.axes | _whole(T=T, S=S), dtype, "norm_d")


def dense(config: Config, T: int, *, dtype: str = "float32", path: str = "dense") -> Cost:
    """T tokens through the dense layer, up and back.

        FLOPs = 4 T D F    or, gated, 6 T D F

    Source: Switch, §2.1; the einsums of equations/feedforward.py.
    """
    return _counted(path, _DENSE[config.is_gated_act], config.axes | _whole(T=T), dtype, "norm_d")


def switch(
    config: Config,
    T: int,
    C: int,
    *,
    dispatch: str = "einsum",
    kept: int | None = None,
    dtype: str = "float32",
    path: str = "switch",
) -> Cost:
    """T tokens, one group, through a Switch layer whose experts take C each.

        router               2 T D E
        dispatch, combine    2 T E C D each by einsum, none by indices
        experts              4 E C D F on padded queues, 4 kept D F by "sort"; gated, 6

    With C = cf T / E the einsums are 2 cf T^2 D: quadratic in the group, and the experts do not depend on E.

    Source: Switch, eqs. 1, 2 and 7 and §2.2.

    kept    tokens that found a slot; None is the most there can be, min(T, E C). By "sort" as many experts' weights are read
            as can have a token, min(E, kept)
    """
    _one_of("dispatch", dispatch, DISPATCHES)
    lengths = config.axes | _whole(T=T, C=C)
    slots = config.num_experts * lengths["c"]
    most = min(lengths["t"], slots)
    kept = most if kept is None else _whole(kept=kept)["kept"]
    _require(kept <= most, f"kept is {kept}, expected at most {most}")
    router = _counted("", _ROUTER, lengths, dtype, "norm_d", *["br_e"] * config.router_bias)
    return replace(total([router, *_experts(config, lengths, dispatch, kept, dtype)], path), slots=slots, kept=kept)


def head(config: Config, T: int, *, dtype: str = "float32", path: str = "head") -> Cost:
    """T tokens back to words.

        FLOPs = 2 T D V

    Source: T5; the einsum of equations/embedding.py.
    """
    return _counted(path, _HEAD[config.tie_word_embeddings], config.axes | _whole(T=T), dtype)


def stack(config: Config, T: int, *, dtype: str = "float32", path: str = "encoder") -> Cost:
    """What a stack does outside its blocks: T rows of the table of words, the table of distances, the last norm.

    Source: T5; equations/embedding.py and equations/position.py.
    """
    lengths = config.axes | _whole(T=T)
    own = _counted(path, (), lengths, dtype, "bias_rh", "norm_d")
    rows = BYTES[dtype] * lengths["t"] * config.d_model
    return replace(own, by_equation={"embed": 0}, weights=own.weights + rows, activations=rows)


def queue_length(config: Config, T: int, *, capacity_factor: Any = 2.0, capacity: int | None = None) -> int:
    """C for a group of T tokens as the model has it: eq. 3 rounded up, at least 1, or a constant; never more than T.

        C = min(ceil(T / E * capacity factor), T)

    Source: Switch, eq. 3; `layers.capacity`.
    """
    choice = {"eval_capacity_factor": float(_factor(capacity_factor))} if capacity is None else _whole(capacity=capacity)
    return layers.capacity(equations, config, Routing(**choice), _whole(T=T)["t"])


def forward(
    config: Config,
    source_tokens: int,
    target_tokens: int,
    *,
    capacity_factor: Any = 2.0,
    capacity: int | None = None,
    dispatch: str = "einsum",
    dtype: str = "float32",
) -> list[Cost]:
    """One sentence through encoder, decoder and head: every layer by its path, without a cache of keys and values.

    `total` adds them up. A batch of B such sentences does B times the operations, for each is a group of its own, and reads
    the weights once.

    Source: the equations as network.encode, network.decode and network.logits call them.
    """
    S, T = _whole(source_tokens=source_tokens, target_tokens=target_tokens).values()

    def block(path: str, tokens: int, seen: Mapping[str, int], sparse: bool) -> list[Cost]:
        attentions = [attention(config, tokens, s, dtype=dtype, path=f"{path}/{name}") for name, s in seen.items()]
        if not sparse:
            return [*attentions, dense(config, tokens, dtype=dtype, path=f"{path}/dense")]
        C = queue_length(config, tokens, capacity_factor=capacity_factor, capacity=capacity)
        return [*attentions, switch(config, tokens, C, dispatch=dispatch, dtype=dtype, path=f"{path}/switch")]

    costs = [stack(config, S, dtype=dtype, path="encoder")]
    for i in range(config.num_layers):
        costs += block(f"encoder/blocks/{i}", S, {"attention": S}, i in config.sparse_encoder_layers)
    costs += [stack(config, T, dtype=dtype, path="decoder")]
    for i in range(config.num_decoder_layers):
        costs += block(f"decoder/blocks/{i}", T, {"attention": T, "cross": S}, i in config.sparse_decoder_layers)
    return [*costs, head(config, T, dtype=dtype)]


def per_token(config: Config, capacity_factor: Any = 1) -> dict[str, Fraction]:
    """FLOPs that one more "source" or "target" token brings, however many there are; C is eq. 3 without rounding.

        a Switch layer    2 D E + cf 4 D F    so that FLOPs(N) - FLOPs(1) = 2 D (N - 1) for each

    Not in it: what grows with the length of the sentence, scores and the dispatch by einsum. A source token also pays for its
    keys and values in every decoder block. A cf of 1.25 is exact; Fraction(6, 5) is too, and 1.2 is the nearest float.

    Source: Switch, §2.2 and §3 (FLOPs per token do not depend on the number of experts but through the router).
    """
    looks, is_seen = attention(config, 1, 0).flops, attention(config, 0, 1).flops
    feedforward = dense(config, 1).flops
    extra = switch(config, 1, 0).flops + (Fraction(_factor(capacity_factor)) - 1) * feedforward
    source = config.num_layers * (looks + is_seen + feedforward) + config.num_decoder_layers * is_seen
    target = config.num_decoder_layers * (2 * looks + is_seen + feedforward) + head(config, 1).flops
    return {
        "source": source + len(config.sparse_encoder_layers) * extra,
        "target": target + len(config.sparse_decoder_layers) * extra,
    }


@dataclass(frozen=True, kw_only=True)
class Share:
    """What one core of an n × m mesh does for one dense or Switch layer, in one forward pass.

    tokens      tokens that the core holds
    weights     how many weights it holds
    cost        what it computes
    all_reduce  bytes of its partial sums, added up over the m cores of its row; the backward pass moves as many again
    all_to_all  bytes of its queues, out and back over the n cores of its column, 1/n of which stay; backward as many again
    gradients   how many weight gradients it adds up over n after the backward pass
    """

    tokens: int
    weights: int
    cost: Cost
    all_reduce: int
    all_to_all: int
    gradients: int


def parallel(
    config: Config,
    tokens: int,
    n: int,
    m: int,
    scheme: str,
    *,
    capacity_factor: Any = 1.25,
    capacity: int | None = None,
    dtype: str = "bfloat16",
) -> Share:
    """One core's share of a layer: n cores divide the B tokens and the experts, m cores divide d_ff.

        data, model       a dense layer: B/n tokens, F/m of its width
                          all-reduce [B/n, D] where m > 1
        expert            a Switch layer: B/n tokens are one group, E/n experts, C = cf B / (n E)
                          all-to-all [E, C, D] out and back where n > 1
        expert and model  all-reduce [B/n, D] as well: combine is linear, so partial sums may be added behind it

    The paper has n = E, one expert a core; here n may be any divisor of E.

    Source: Switch, §5 and eq. 7.
    """
    B, n, m = _mesh(config, tokens, n, m, scheme)
    rows, size = B // n, BYTES[_one_of("dtype", dtype, BYTES)]
    width = replace(config, d_ff=config.d_ff // m)
    feedforward = (3 if config.is_gated_act else 2) * width.d_model * width.d_ff
    if "expert" in scheme:
        C = queue_length(config, rows, capacity_factor=capacity_factor, capacity=capacity)
        cost, experts = switch(width, rows, C, dtype=dtype), config.num_experts // n * feedforward
        shared = config.num_experts * (config.d_model + config.router_bias) + config.d_model
    else:
        cost, experts, shared = dense(width, rows, dtype=dtype), 0, feedforward + config.d_model
    return Share(
        tokens=rows,
        weights=shared + experts,
        cost=replace(cost, weights=size * (shared + experts)),
        all_reduce=size * rows * config.d_model if m > 1 else 0,
        all_to_all=2 * size * cost.slots * config.d_model if n > 1 else 0,
        gradients=shared if n > 1 else 0,
    )


def _experts(config: Config, lengths: Mapping[str, int], dispatch: str, kept: int, dtype: str) -> list[Cost]:
    """Out, through the experts and home."""
    size, E, T, C = BYTES[dtype] * config.d_model, config.num_experts, lengths["t"], lengths["c"]
    queues = _counted("", _in_queues(config), lengths, dtype)
    if dispatch == "einsum":
        return [_counted("", _DISPATCH, lengths, dtype), queues, _counted("", _COMBINE, lengths, dtype)]
    moved = {"dispatch": 0, "combine": 0}
    if dispatch == "gather":
        return [queues, Cost(path="", by_equation=moved, weights=0, activations=size * (2 * kept + E * C + T))]
    one = _counted("", _DENSE[config.is_gated_act], {**lengths, "t": kept}, dtype)
    by_equation = {name.replace("ffn", "expert_ffn"): flops for name, flops in one.by_equation.items()}
    rows = replace(one, by_equation=by_equation, weights=min(E, kept) * one.weights)
    return [rows, Cost(path="", by_equation=moved, weights=0, activations=size * (3 * kept + T))]


def _in_queues(config: Config) -> list[tuple[str, str]]:
    """The dense layer's einsums with an axis of experts: a token t becomes a seat ec, and a weight has its e."""

    def seated(name: str) -> str:
        stem, axes = name.rsplit("_", 1)
        return f"{stem}_{axes.replace('t', 'ec') if 't' in axes else 'e' + axes}"

    operations = _DENSE[config.is_gated_act]
    return [(name.replace("ffn", "expert_ffn"), " ".join(map(seated, arrays.split()))) for name, arrays in operations]


def _counted(path: str, operations: Iterable[tuple[str, str]], lengths: Mapping[str, int], dtype: str, *also: str) -> Cost:
    """The cost of einsums that are given by the names of their arrays, result last, and of weights that are only read."""
    _one_of("dtype", dtype, BYTES)
    by_equation: Counter[str] = Counter()
    for equation, names in operations:
        letters = set("".join(name.rsplit("_", 1)[1] for name in names.split()))
        by_equation[equation] += 2 * math.prod(lengths[letter] for letter in letters)
    arrays = [name for _, names in operations for name in names.split()]
    read = [name for name in arrays if name.startswith(("w", "embedding", "head"))]
    weights = sum(_size(name, lengths, dtype) for name in (*read, *also))
    activations = sum(_size(name, lengths, dtype) for name in arrays if name not in read)
    return Cost(path=path, by_equation=dict(by_equation), weights=weights, activations=activations)


def _size(name: str, lengths: Mapping[str, int], dtype: str) -> int:
    numbers = math.prod(lengths[letter] for letter in name.rsplit("_", 1)[1])
    return numbers * max(BYTES[dtype], 4 if name == "h_te" else 0)


def _mesh(config: Config, tokens: Any, n: Any, m: Any, scheme: str) -> tuple[int, int, int]:
    B, n, m = _whole(tokens=tokens, n=n, m=m).values()
    _one_of("scheme", scheme, SCHEMES)
    _require(min(n, m) >= 1, f"the mesh is {n} × {m}, expected at least 1 × 1")
    _require("model" in scheme or m == 1, f"m is {m}, expected 1 for the scheme {scheme}")
    _require("data" in scheme or n == 1, f"n is {n}, expected 1 for the scheme {scheme}")
    experts = config.num_experts if "expert" in scheme else 0
    for what, length, cores in (("tokens", B, n), ("num_experts", experts, n), ("d_ff", config.d_ff, m)):
        _require(length % cores == 0, f"{what} is {length}, expected a multiple of {cores} for a mesh of {n} × {m}")
    return B, n, m


def _whole(**numbers: Any) -> dict[str, int]:
    """Whole numbers, 0 or more, by name; a capital is the length of its small letter."""
    for name, number in numbers.items():
        good = isinstance(number, Integral) and not isinstance(number, bool) and int(number) >= 0
        _require(good, f"{name} is {number!a:.80}, expected a whole number of 0 or more")
    return {name.lower() if len(name) == 1 else name: int(number) for name, number in numbers.items()}


def _factor(factor: Any) -> Any:
    good = isinstance(factor, (int, float, Fraction)) and not isinstance(factor, bool) and 0 < factor < 10**15
    _require(good, f"capacity_factor is {factor!a:.80}, expected a number above 0 and below 10^15")
    return factor


def _one_of(name: str, value: Any, choices: Collection[str]) -> str:
    _require(isinstance(value, str) and value in choices, f"{name} is {value!a:.80}, expected one of {', '.join(choices)}")
    return value


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise InputError(message)
