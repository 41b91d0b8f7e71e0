"""Which tokens queue together, where a group is not a sentence."""

__all__ = ["filled_batch", "group_count"]


def group_count(tokens, group_tokens, multiple=1):
    """How many groups of equal size a row of tokens is cut into.

        G = the least multiple of `multiple` that divides tokens and is at least max(tokens // group_tokens, multiple)

    So a group may be larger than group_tokens, and flaxformer, where the multiple is the number of experts, has never
    fewer groups than experts.

    Source: flaxformer's moe_layers.py (multiple = E) and mesh-tf's moe.py (multiple = 1 on one device).

    Gradient: none, it is a count.

    tokens      a multiple of `multiple`
    """
    G = -(-max(tokens // group_tokens, multiple) // multiple) * multiple
    while tokens % G:
        G += multiple
    return G


def filled_batch(B, T, multiple):
    """B sentences of T tokens, made just large enough that their tokens are a multiple of this many.

        B + b or T + t, whichever adds fewer tokens; T + t where they are equal

    Source: flaxformer's moe_layers.py (the tokens added are vectors of zeros).

    Gradient: none, it is a count.
    """
    sentences = next(b for b in range(multiple) if (B + b) * T % multiple == 0)
    words = next(t for t in range(multiple) if B * (T + t) % multiple == 0)
    return (B + sentences, T) if sentences * T < B * words else (B, T + words)
