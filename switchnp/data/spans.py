"""T5's span corruption: spans of a text go, a sentinel stands in each gap, and the answer says what went."""

from __future__ import annotations

from bisect import bisect
from collections.abc import Sequence

import numpy as np

from ..errors import InputError
from ..tokenizer import SENTINELS

__all__ = ["DENSITY", "MEAN_SPAN", "corrupt", "noise_spans", "raw_length", "restored", "span_counts"]

DENSITY = 0.15
MEAN_SPAN = 3.0


def span_counts(length: int, density: float = DENSITY, mean_span: float = MEAN_SPAN) -> tuple[int, int]:
    """How many of `length` tokens are noise, and how many spans they make.

        noise = clip(round(density L), 1, L - 1)
        spans = clip(round(noise / mean_span), 1, min(L - noise, 100))

    In float32 and with halves to even, as T5 computes them: at L = 190, 350, 390, ... float64 counts otherwise.
    There are 100 sentinels, so in long texts (from L = 2010 on) the spans get longer instead of more.

    Source: T5's preprocessors; §2.3 for the density. Raises InputError below 2 tokens: one stays, one goes.
    """
    if length < 2:
        raise InputError(f"a text of {length} tokens is to lose spans, expected at least 2 tokens")
    if not (0 < density < 1 and mean_span >= 1):
        raise InputError(f"spans of {mean_span} make up {density} of a text, expected 1 or more and a share between 0 and 1")
    noise = int(np.clip(np.rint(np.float32(length) * np.float32(density)), 1, length - 1))
    spans = int(np.clip(np.rint(np.float32(noise) / np.float32(mean_span)), 1, min(length - noise, SENTINELS)))
    return noise, spans


def noise_spans(
    length: int, rng: np.random.Generator, density: float = DENSITY, mean_span: float = MEAN_SPAN
) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    """Which tokens go: noise_t, (length,) of bool, in `span_counts` spans of which each follows a token that stays.

    Noise and what stays are cut into as many parts each, every way to cut alike likely, and the parts take turns: what
    stays, noise, ..., so that the first token always stays and the last always goes.

    Source: T5's random_spans_noise_mask, without its random roll. Raises InputError as `span_counts` does.
    """
    noise, spans = span_counts(length, density, mean_span)
    parts = np.stack([_segments(length - noise, spans, rng), _segments(noise, spans, rng)], axis=1)
    return np.repeat(np.tile([False, True], spans), parts.ravel())


def corrupt(
    ids: Sequence[int],
    vocab_size: int,
    eos: int,
    rng: np.random.Generator,
    density: float = DENSITY,
    mean_span: float = MEAN_SPAN,
) -> tuple[list[int], list[int]]:
    """The text with a sentinel in each gap, and each sentinel followed by what stood there; both end in `eos`.

        Thank you <extra_id_0> me to your party <extra_id_1> </s>
        <extra_id_0> for inviting <extra_id_1> last week </s>

    Sentinels descend from vocab_size - 1, which is <extra_id_0>; none stands behind the last span.

    Source: T5's span_corruption. Raises InputError for fewer than 2 tokens, and for a text that has sentinels itself.

    ids         of the text, without </s>
    vocab_size  pieces and sentinels, as `Tokenizer.vocab_size`
    """
    if len(ids) and max(ids) >= vocab_size - SENTINELS:
        raise InputError(
            f"the text has the id {max(ids)}, expected ids below the sentinels, which begin at {vocab_size - SENTINELS}"
        )
    sides: tuple[list[int], list[int]] = ([], [])
    sentinel, inside = vocab_size, False
    for i, noise in zip(ids, noise_spans(len(ids), rng, density, mean_span).tolist(), strict=True):
        if noise and not inside:
            sentinel -= 1
            sides[0].append(sentinel)
            sides[1].append(sentinel)
        sides[noise].append(i)
        inside = noise
    return [*sides[0], eos], [*sides[1], eos]


def restored(inputs: Sequence[int], targets: Sequence[int], vocab_size: int) -> list[int]:
    """The text that `corrupt` took apart; raises InputError where the sentinels of the two are not the same."""
    spans: dict[int, list[int]] = {}
    for i in targets[:-1]:
        if i >= vocab_size - SENTINELS:
            spans[i] = []
        elif spans:
            spans[next(reversed(spans))].append(i)
        else:
            raise InputError(f"the targets begin with the id {i}, expected a sentinel")
    gaps = [i for i in inputs[:-1] if i >= vocab_size - SENTINELS]
    if gaps != [*spans]:
        raise InputError(f"the inputs have the sentinels {gaps} and the targets {[*spans]}, expected the same")
    return [token for i in inputs[:-1] for token in spans.get(i, [i])]


def raw_length(
    max_inputs: int, max_targets: int | None = None, density: float = DENSITY, mean_span: float = MEAN_SPAN
) -> tuple[int, int]:
    """The most raw tokens whose inputs are at most `max_inputs` long once corrupted, </s> included, and their targets' length.

        inputs = L - noise + spans + 1,    targets = noise + spans + 1

    Source: T5's random_spans_helper, which knows no `max_targets`: 512 inputs are 568 raw tokens and 114 targets.
    Raises InputError where not even 2 raw tokens fit.
    """

    def lengths(raw: int) -> tuple[int, int]:
        noise, spans = span_counts(raw, density, mean_span)
        return raw - noise + spans + 1, noise + spans + 1

    def fits(raw: int) -> bool:
        inputs, targets = lengths(raw)
        return inputs <= max_inputs and (max_targets is None or targets <= max_targets)

    if not fits(2):
        raise InputError(f"there is room for {max_inputs} inputs and {max_targets} targets, expected at least 3 of each")
    raw = 2
    while fits(2 * raw):
        raw *= 2
    raw += bisect(range(raw, 2 * raw), False, key=lambda longer: not fits(longer)) - 1
    return raw, lengths(raw)[1]


def _segments(items: int, parts: int, rng: np.random.Generator) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """The lengths, at least 1, of so many parts of a row of items; every way to cut is alike likely."""
    cuts = np.sort(rng.permutation(items - 1)[: parts - 1]) + 1
    return np.diff(cuts, prepend=0, append=items)
