"""The same text under two routings: which tokens part, by how much, and why."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from .errors import InputError
from .model import SwitchTransformer
from .routing import Routing
from .tree import Tree

__all__ = ["Comparison", "Difference", "Seat", "compare", "seats"]


class Seat(NamedTuple):
    """Where one token sits in one Switch layer: its experts, how much of each answer it takes, and its slots, -1 for none."""

    experts: tuple[int, ...]
    gates: tuple[float, ...]
    slots: tuple[int, ...]

    @property
    def kept(self) -> tuple[int, ...]:
        """The experts that answer."""
        return tuple(expert for expert, slot in zip(self.experts, self.slots, strict=True) if slot >= 0)

    def __str__(self) -> str:
        if self.kept:
            first = next(gate for gate, slot in zip(self.gates, self.slots, strict=True) if slot >= 0)
            return f"{_named(self.kept)} ({first:.3f})"
        return f"{self.experts[0]} full ({self.gates[0]:.3f})" if self.experts else "none"


class Difference(NamedTuple):
    """One token in one Switch layer under both routings; `moved` is how far the stream behind the layer is off, relatively."""

    stack: str
    layer: int
    place: int
    token: str
    a: Seat
    b: Seat
    moved: float
    why: str


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """What two routings make of one text; the decoder is given the first one's answer under both.

    settings    the fields in which they differ, (first, second) by name
    answers     what each says when it speaks for itself
    tokens      every token of every Switch layer
    logits      the largest difference of the logits
    flips       how often the best expert is another one
    ties        how often the two best experts are exactly alike under the second
    gate_error  the largest difference of a gate where the experts are the same
    dropped     tokens without a slot under each
    """

    names: tuple[str, str]
    settings: dict[str, tuple[Any, Any]]
    answers: tuple[Any, Any]
    tokens: tuple[Difference, ...]
    logits: float
    flips: int
    ties: int
    gate_error: float
    dropped: tuple[int, int]

    @property
    def parted(self) -> tuple[Difference, ...]:
        """The tokens that are not routed alike, or whose stream is off by more than rounding."""
        return tuple(token for token in self.tokens if token.why)

    def __str__(self) -> str:
        lines = [f"{name}: {a} | {b}" for name, (a, b) in self.settings.items()]
        lines += [f"{name} answers: {answer}" for name, answer in zip(self.names, self.answers, strict=True)]
        wide = [max(16, min(len(name), 28)) for name in self.names]
        first, second = (f"{name[:width]:<{width}}" for name, width in zip(self.names, wide, strict=True))
        if self.parted:
            lines += [f"{'stack':<8}{'layer':>5}  {'token':<16} {first} {second} {'moved':>7}  why"]
        for stack, layer, _, word, a, b, moved, why in self.parted:
            seated = f"{a!s:<{wide[0]}} {b!s:<{wide[1]}}"
            lines.append(f"{stack:<8}{layer:>5}  {word:<16} {seated} {moved:>7.1e}  {why}")
        count = f"{len(self.parted)} of {len(self.tokens)} tokens of Switch layers part"
        lines += [f"{count}; dropped {self.dropped[0]} and {self.dropped[1]}; {self.flips} ask another expert, {self.ties} ties"]
        lines += [f"largest difference: gate {self.gate_error:.2g}, logits {self.logits:.2g}"]
        return "\n".join(lines)


def compare(model: SwitchTransformer, first: Routing, second: Routing, text_or_ids: str | ArrayLike, seed: int = 0) -> Comparison:
    """One text, or the ids of one sentence, under two routings of the same model.

    A routing in simulated precision runs on the equations, another on the model's engine. What draws at random draws from
    `seed`.

    Raises ConfigError, InputError or TokenizerError as the model does.
    """
    for routing in (first, second):
        if not isinstance(routing, Routing):
            raise InputError(f"a routing is {routing!a:.80}, expected a switchnp.Routing such as Routing.paper()")
    if isinstance(seed, bool) or not isinstance(seed, (int, np.integer)) or seed < 0:
        raise InputError(f"seed is {seed!a:.80}, expected a whole number of 0 or more")
    models = [_under(model, routing) for routing in (first, second)]
    _check_alone(text_or_ids)
    answers = [each.generate(text_or_ids, rng=np.random.default_rng(seed)) for each in models]
    given = models[0].trace(text_or_ids, rng=np.random.default_rng(seed)).decoder.ids_t[None]
    a, b = (each.trace(text_or_ids, decoder_input_ids=given, rng=np.random.default_rng(seed)) for each in models)
    tokens = tuple(_differences(model, a, b, (first, second)))
    fields = [(name, value, asdict(second)[name]) for name, value in asdict(first).items() if name != "name"]
    return Comparison(
        names=(first.name, second.name),
        settings={name: (ours, theirs) for name, ours, theirs in fields if ours != theirs},
        answers=(_answer(answers[0]), _answer(answers[1])),
        tokens=tokens,
        logits=float(np.abs(np.asarray(a.decoder.logits_tv) - np.asarray(b.decoder.logits_tv)).max()),
        dropped=(sum(not token.a.kept for token in tokens), sum(not token.b.kept for token in tokens)),
        gate_error=max((_apart(it.a, it.b) for it in tokens if it.a.experts == it.b.experts), default=0.0),
        **_choices_made(a, b),
    )


def seats(a: Tree, T: int, routing: Routing) -> list[Seat]:
    """The Seats of the first T tokens of a Switch layer's trace (zeros that a routing adds stand behind them).

    Where experts choose, a token's experts are those that took it.
    """
    columns = [a[f"{name}_tn"] if f"{name}_tn" in a else a[f"{name}_t"][:, None] for name in ("expert", "gate", "slot")]
    named = columns[2] >= 0 if routing.router == "expert choice" else np.ones_like(columns[2], bool)
    return [Seat(*(tuple(column[t][named[t]].tolist()) for column in columns)) for t in range(T)]


def _check_alone(text_or_ids: Any) -> None:
    several = not isinstance(text_or_ids, str) and any(not isinstance(it, (int, np.integer)) for it in np.ravel(text_or_ids))
    if several or np.ndim(text_or_ids) > 1:
        raise InputError("several sentences are compared at once, expected one text or the ids of one sentence")


def _under(model: SwitchTransformer, routing: Routing) -> SwitchTransformer:
    engine = model.engine if routing.precision == "float32" else "equations"
    return SwitchTransformer(model.config, model.params, routing, model.tokenizer, engine, model.provenance)


def _switches(trace: Tree) -> Iterator[tuple[str, int, Tree]]:
    for stack in ("encoder", "decoder"):
        for layer, block in enumerate(trace[stack].blocks):
            if "switch" in block:
                yield stack, layer, block.switch


def _differences(model: SwitchTransformer, first: Tree, second: Tree, routings: tuple[Routing, Routing]) -> Iterator[Difference]:
    for (stack, layer, a), (_, _, b) in zip(_switches(first), _switches(second), strict=True):
        ids = first[stack].ids_t.tolist()
        words = model.tokenizer.pieces(ids) if model.tokenizer is not None else list(map(str, ids))
        heard_t, moved_t = _off(a.n_td[: len(ids)], b.n_td[: len(ids)]), _off(a.x_td, b.x_td)
        own = routings[0].of(stack), routings[1].of(stack)
        sides = [seats(it, len(ids), routing) for it, routing in zip((a, b), own, strict=True)]
        for t, (ours, theirs) in enumerate(zip(*sides, strict=True)):
            why = _why(own, ours, theirs, float(heard_t[t]), float(moved_t[t]))
            yield Difference(stack, layer, t, words[t], ours, theirs, float(moved_t[t]), why)


ROUNDING = 1e-5
"""Two float32 passes may be off by so much, relatively, and still be one computation."""


def _why(routings: tuple[Routing, Routing], a: Seat, b: Seat, heard: float, moved: float) -> str:
    """The first reason that explains the difference; nothing where there is none."""
    already = f"its input is off by {heard:.1e} already" if heard > ROUNDING else ""
    if a.kept == b.kept:
        if moved <= ROUNDING:
            return ""
        if not a.kept and routings[0].dropped != routings[1].dropped:
            return "no room, but one passes it on times its gate"
        if a.experts == b.experts and not already and _apart(a, b) > ROUNDING:
            return f"its gate is {b.gates[0]:.3f} instead of {a.gates[0]:.3f}"
        return already or "its expert answers in another precision"
    full = [
        f"expert {expert} is full under {routing.name}"
        for routing, seat, other in zip(routings, (a, b), (b, a), strict=True)
        for expert in other.kept
        if expert in seat.experts and expert not in seat.kept
    ]
    if full:
        return " and ".join(full)
    other = "the router is another" if routings[0].router != routings[1].router else "an expert is drawn at random"
    return f"goes to {_named(b.kept)} instead of {_named(a.kept)}, {already or f'for {other}'}"


def _choices_made(a: Tree, b: Tree) -> dict[str, int]:
    """How often the best expert is another one, and how often the second pass cannot tell the best two apart."""
    flips = ties = 0
    for (_, _, ours), (_, _, theirs) in zip(_switches(a), _switches(b), strict=True):
        T = len(ours.x_td)
        best_tn = np.sort(np.asarray(theirs.p_te[:T]), axis=1)[:, -2:]
        flips += int((ours.p_te[:T].argmax(axis=1) != theirs.p_te[:T].argmax(axis=1)).sum())
        ties += int((best_tn[:, 0] == best_tn[:, 1]).sum()) if best_tn.shape[1] == 2 else 0
    return {"flips": flips, "ties": ties}


def _apart(a: Seat, b: Seat) -> float:
    """The largest difference of two tokens' gates."""
    return max((abs(ours - theirs) for ours, theirs in zip(a.gates, b.gates, strict=False)), default=0.0)


def _named(experts: tuple[int, ...]) -> str:
    return "+".join(map(str, experts)) or "none"


def _off(a_td: Any, b_td: Any) -> Any:
    """How far two streams are apart, token by token, relative to the first; not in the precision that is simulated."""
    a_td, b_td = np.asarray(a_td), np.asarray(b_td)
    scale_t = np.linalg.norm(a_td, axis=1)
    return np.linalg.norm(a_td - b_td, axis=1) / np.where(scale_t > 0, scale_t, 1)


def _answer(answer: Any) -> Any:
    return answer if isinstance(answer, str) else np.asarray(answer).tolist()
