"""What a forward pass answers, and what it costs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from . import network, objective

__all__ = ["Output", "losses_of"]


@dataclass(frozen=True, eq=False)
class Output:
    """What a forward pass answers. B sentences, T words of the decoder, S of the encoder, V of the vocabulary.

    The losses are those before their coefficients; `cross_entropy`, `logit_z_loss` and `loss` are None without labels. `loss` is
    the cross-entropy plus all others times their coefficients; where a routing takes the mean over layers, each stack's is
    its own mean, and `loss` has the mean over the layers of both (`objective.total_loss`).
    """

    logits: NDArray[Any]
    encoder_last_hidden_state: NDArray[Any]
    decoder_last_hidden_state: NDArray[Any]
    encoder_balance_loss: float
    decoder_balance_loss: float
    encoder_z_loss: float
    decoder_z_loss: float
    cross_entropy: float | None
    logit_z_loss: float | None
    loss: float | None


def losses_of(ops: Any, config: Any, routing: Any, logits_tv: Any, target_t: Any, *stacks: Any) -> dict[str, Any]:
    """The losses of an Output; `stacks` are the encoder and the decoder, each (arrays of its pass, its Row)."""
    losses = []
    for (a, row), name in zip(stacks, ("encoder", "decoder"), strict=True):
        own = routing.of(name)
        losses.append(network.stack_losses(ops, own, a, network.groups_of(ops, config, own, row)))
    cross_entropy = logit_z = loss = None
    if target_t is not None:
        cross_entropy, logit_z = float(ops.cross_entropy(logits_tv, target_t)), float(ops.logit_z(logits_tv, target_t))
        loss = objective.total_loss(config, routing, cross_entropy, logit_z, *losses)
    return {
        "encoder_balance_loss": objective.stack_loss(routing, losses[0].balances),
        "decoder_balance_loss": objective.stack_loss(routing, losses[1].balances),
        "encoder_z_loss": objective.stack_loss(routing, losses[0].zs),
        "decoder_z_loss": objective.stack_loss(routing, losses[1].zs),
        "cross_entropy": cross_entropy,
        "logit_z_loss": logit_z,
        "loss": loss,
    }
