"""Do two models of one shape say the same? Their experts, logits and answers on texts, side by side."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from .errors import InputError
from .model import SwitchTransformer
from .tree import Tree

__all__ = ["Fidelity", "measured"]


@dataclass(frozen=True, kw_only=True)
class Fidelity:
    """How near a second model comes to a first; the decoder is given the first one's greedy answer in both.

    routed          by Switch layer, the share of tokens that the same expert answers, or none in both
    largest, mean   difference of the logits, relative to the largest logit
    texts           how many there were
    agreed          how many of them have the same greedy answer
    """

    routed: dict[str, float]
    largest: float
    mean: float
    texts: int
    agreed: int

    def __str__(self) -> str:
        lines = [f"{layer:<28} {share:>8.2%} of tokens with the same expert" for layer, share in self.routed.items()]
        lines += [f"logits off by {self.largest:.2e} at most, {self.mean:.2e} in the mean, of the largest"]
        return "\n".join([*lines, f"greedy answers alike: {self.agreed} of {self.texts}"])


def measured(first: SwitchTransformer, second: SwitchTransformer, texts: Sequence[str | ArrayLike]) -> Fidelity:
    """The two models on texts, or on the ids of a sentence each.

    Raises InputError or TokenizerError as the models do.
    """
    if first.config != second.config:
        raise InputError("the two models have different Configs, expected one")
    if not texts:
        raise InputError("there is no text, expected one or more")
    alike: dict[str, list[bool]] = {}
    top, offs, agreed = 0.0, [], 0
    for text in texts:
        a, b, same = _heard(first, second, text)
        agreed += same
        for layer, ours, theirs in _layers(a, b):
            alike.setdefault(layer, []).extend(np.all(ours == theirs, axis=1).tolist())
        logits_tv = np.asarray(a.decoder.logits_tv)
        offs.append(np.abs(logits_tv - np.asarray(b.decoder.logits_tv)).ravel())
        top = max(top, float(np.abs(logits_tv).max()))
    off = np.concatenate(offs) / (top or 1.0)
    routed = {layer: float(np.mean(tokens)) for layer, tokens in alike.items()}
    return Fidelity(routed=routed, largest=float(off.max()), mean=float(off.mean()), texts=len(texts), agreed=agreed)


def _heard(first: SwitchTransformer, second: SwitchTransformer, text: Any) -> tuple[Tree, Tree, bool]:
    """Both passes over a text and the first one's answer, and whether the second answers the same."""
    a, b = _routes(first, text), _routes(second, text)
    same = np.array_equal(a.decoder.ids_t, b.decoder.ids_t)
    return a, b if same else _routes(second, text, a.decoder.ids_t[None]), same


def _routes(model: SwitchTransformer, text: Any, words: Any = None) -> Tree:
    return model.routes(text, decoder_input_ids=words, rng=np.random.default_rng(0))


def _layers(a: Tree, b: Tree) -> Iterator[tuple[str, Any, Any]]:
    """Each Switch layer's name, and who answers its tokens in either pass."""
    for stack in ("encoder", "decoder"):
        T = len(a[stack].ids_t)
        for layer, blocks in enumerate(zip(a[stack].blocks, b[stack].blocks, strict=True)):
            if "switch" in blocks[0]:
                yield f"{stack}/blocks/{layer}", *(_answering(block.switch)[:T] for block in blocks)


def _answering(switch: Tree) -> Any:
    """The experts of each token, -1 where there was no slot."""
    expert_tn, slot_tn = (
        switch[f"{name}_tn"] if f"{name}_tn" in switch else switch[f"{name}_t"][:, None] for name in ("expert", "slot")
    )
    return np.where(slot_tn >= 0, expert_tn, -1)
