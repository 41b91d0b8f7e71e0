"""The loss of a batch and its gradient: forward with a tape, and the same list walked back."""

from functools import reduce
from typing import NamedTuple

import numpy as np

from . import adjoints, network, objective
from .layers import EVALUATION
from .tree import Tree

__all__ = ["CrossEntropy", "Distilled", "Losses", "loss_and_gradients"]


class CrossEntropy(NamedTuple):
    """What a model is to say: the words that did come, a share of each target spread over all words alike."""

    smoothing: float = 0.0

    def __call__(self, ops, logits_tv, target_t):
        """The loss, and its gradient."""
        loss = ops.smoothed_cross_entropy(logits_tv, target_t, self.smoothing)
        return loss, ops.smoothed_cross_entropy_vjp(1.0, loss, logits_tv, target_t, self.smoothing)[0]


WORDS = CrossEntropy()


class Distilled(NamedTuple):
    """What a student is to say: the words that did come, and a share of what the teacher thinks, its probabilities (T, V).

    Source: Switch, §4.2.
    """

    teacher_tv: np.ndarray
    share: float = 0.25

    def __call__(self, ops, logits_tv, target_t):
        """The loss, and its gradient."""
        loss = ops.distilled_cross_entropy(logits_tv, target_t, self.teacher_tv, self.share)
        return loss, ops.distilled_cross_entropy_vjp(1.0, loss, logits_tv, target_t, self.teacher_tv, self.share)[0]


class Losses(NamedTuple):
    """The loss that was made small, what it is the sum of, and the arrays on the way, for those who look.

    loss        all together, each times its coefficient
    task        the cross-entropy, or whatever stood in its place
    encoder, decoder    the router losses of each stack
    arrays      (encoder, decoder): the Trees of the passes
    logits_tv   how well each word would come next
    """

    loss: float
    task: float
    encoder: objective.RouterLosses
    decoder: objective.RouterLosses
    arrays: tuple
    logits_tv: np.ndarray


def loss_and_gradients(ops, config, routing, params, prompt_row, word_row, target_t, mode=EVALUATION, task=WORDS, share=1.0):
    """The Losses of answering prompts with words, and `share` times the gradient of their sum: a Tree of the weights' shape.

    What a choice of expert would change is not in it (2n in docs/equations.md): an expert is reached by the tokens that it kept.

    Source: Switch, eq. 2 and 4, and every mirror in `equations`.
    """
    tapes = network.Tape(), network.Tape()
    setup = ops, config, routing, params
    memory_td, encoder = network.encode(*setup, prompt_row, mode=mode, tape=tapes[0])
    last_td, decoder = network.decode(*setup, word_row, memory_td, prompt_row, mode=mode, tape=tapes[1])
    logits_tv = network.logits(ops, config, params, last_td)
    losses, dlogits_tv = _losses(ops, config, routing, (encoder, decoder), tapes, logits_tv, target_t, task)
    dlast_td, grads = _logits_vjp(ops, config, _scaled(dlogits_tv, share), logits_tv, params, last_td)
    count = len(losses.encoder.balances) + len(losses.decoder.balances)
    weights = [share * weight for weight in objective.coefficients(config, routing, count)]
    dmemory_td, grads.decoder = decode_vjp(*setup, dlast_td, decoder, tapes[1], weights, memory_td, mode)
    grads.encoder = encode_vjp(*setup, dmemory_td, encoder, tapes[0], weights, mode)
    return losses, _with_tables(ops, config, params, grads, prompt_row, word_row)


def encode_vjp(ops, config, routing, params, dmemory_td, a, tape, weights, mode):
    """Gradients of the encoder's weights; that of its words, dx_td, is with them."""
    stack, routing = params.encoder, routing.of("encoder")
    dx_td, grads = _ending_vjp(ops, config, stack, dmemory_td, a)
    router = _router_losses_vjp(ops, routing, a, tape, weights)
    dbiases = None
    for i, (x_td, p, b) in _backwards(a, stack):
        dblock = Tree()
        dx_td = _feedforward_vjp(ops, config, routing, dx_td, p, b, b.attention.x_td, tape, router, dblock, mode)
        dx_td, dblock.attention, db = adjoints.self_attention_vjp(
            ops, dx_td, b.attention, config, p.attention, x_td, tape.sights[i]
        )
        dbiases = _added(dbiases, db, i, tape)
        grads.blocks.insert(0, dblock)
    return _opening_vjp(ops, stack, dx_td, a, tape, dbiases, grads)


def decode_vjp(ops, config, routing, params, dlast_td, a, tape, weights, memory_sd, mode):
    """Gradients of the encoder's memory and of the decoder's weights; that of its words, dx_td, is with them."""
    stack, routing = params.decoder, routing.of("decoder")
    dx_td, grads = _ending_vjp(ops, config, stack, dlast_td, a)
    router = _router_losses_vjp(ops, routing, a, tape, weights)
    dmemory_sd, dbiases = np.zeros_like(memory_sd), None
    for i, (x_td, p, b) in _backwards(a, stack):
        dblock = Tree()
        dx_td = _feedforward_vjp(ops, config, routing, dx_td, p, b, b.cross.x_td, tape, router, dblock, mode)
        across = b.cross, config, p.cross, b.attention.x_td, memory_sd, tape.memory_sight
        dx_td, more_sd, dblock.cross = adjoints.cross_attention_vjp(ops, dx_td, *across)
        dmemory_sd = dmemory_sd + more_sd
        dx_td, dblock.attention, db = adjoints.self_attention_vjp(
            ops, dx_td, b.attention, config, p.attention, x_td, tape.sights[i]
        )
        dbiases = _added(dbiases, db, i, tape)
        grads.blocks.insert(0, dblock)
    return dmemory_sd, _opening_vjp(ops, stack, dx_td, a, tape, dbiases, grads)


def _losses(ops, config, routing, stacks, tapes, logits_tv, target_t, task):
    """The Losses, and the gradient of the logits."""
    loss, dlogits_tv = task(ops, logits_tv, target_t)
    logit_z = 0.0
    if routing.logit_z_coef:
        logit_z = ops.logit_z(logits_tv, target_t)
        dlogits_tv = dlogits_tv + ops.logit_z_vjp(routing.logit_z_coef, logit_z, logits_tv, target_t)[0]
    names = zip(stacks, ("encoder", "decoder"), tapes, strict=True)
    router = [network.stack_losses(ops, routing.of(name), stack, tape.groups) for stack, name, tape in names]
    total = objective.total_loss(config, routing, float(loss), float(logit_z), *router)
    return Losses(total, float(loss), *router, stacks, logits_tv), dlogits_tv


def _scaled(dlogits_tv, share):
    return dlogits_tv if share == 1 else dlogits_tv * dlogits_tv.dtype.type(share)


def _logits_vjp(ops, config, dlogits_tv, logits_tv, params, last_td):
    """The gradient of the decoder's last state, and those of the tables that made words of it."""
    if config.tie_word_embeddings:
        dlast_td, dtable_vd = ops.unembed_vjp(dlogits_tv, logits_tv, last_td, params.embedding_vd)
        return dlast_td, Tree(embedding_vd=dtable_vd)
    dlast_td, dhead_vd = ops.head_vjp(dlogits_tv, logits_tv, last_td, params.head_vd)
    return dlast_td, Tree(head_vd=dhead_vd)


def _with_tables(ops, config, params, grads, prompt_row, word_row):
    """What the words that came in say of their tables, added to the rest."""
    for stack, row in ((grads.encoder, prompt_row), (grads.decoder, word_row)):
        home, table_vd = network.table_of(config, grads, stack), network.table_of(config, params, params.encoder).embedding_vd
        (dtable_vd,) = ops.embed_vjp(stack.dx_td, None, row.ids_t, table_vd)
        home.embedding_vd = home.embedding_vd + dtable_vd if "embedding_vd" in home else dtable_vd
        del stack.dx_td
    return grads


def _router_losses_vjp(ops, routing, a, tape, weights):
    """(dp_te, dh_te) of each Switch layer, the last one last."""
    switches = network.switches(a)
    silent = len(switches) == len(a.blocks) and not routing.all_sparse_loss
    return objective.router_losses_vjp(ops, routing, switches, tape.groups, *((0, 0) if silent else weights))


def _backwards(a, stack):
    """From the last block to the first: its number, and what went in, its weights, its arrays."""
    inputs = [a.x_td, *(_output(b) for b in a.blocks[:-1])]
    return reversed(list(enumerate(zip(inputs, stack.blocks, a.blocks, strict=True))))


def _output(b):
    return b.switch.x_td if "switch" in b else b.dense.x_td


def _ending_vjp(ops, config, stack, dlast_td, a):
    dlast_td = dlast_td * a.keep_last_td if "keep_last_td" in a else dlast_td
    last_td = _output(a.blocks[-1])
    dx_td, dnorm_d = ops.rms_norm_vjp(dlast_td, None, last_td, stack.norm_d, config.layer_norm_epsilon)
    return dx_td, Tree(norm_d=dnorm_d, blocks=[])


def _feedforward_vjp(ops, config, routing, dx_td, p, b, x_td, tape, router, dblock, mode):
    if "switch" in p:
        heard = *router.pop(), b.switch, config, routing, p.switch, x_td, tape.groups, mode
        dx_td, dblock.switch = adjoints.switch_vjp(ops, dx_td, *heard)
    else:
        dx_td, dblock.dense = adjoints.dense_vjp(ops, dx_td, b.dense, config, p.dense, x_td)
    return dx_td


def _added(dbiases, more, i, tape):
    """Gradients of each sentence's bias over the blocks that share it."""
    if tape.sights[i] is not tape.sights[0]:
        return dbiases
    return more if dbiases is None else [one + other for one, other in zip(dbiases, more, strict=True)]


def _opening_vjp(ops, stack, dx_td, a, tape, dbiases, grads):
    """Back to the words and to the learned distances; sentences of one length and one mask share theirs."""
    grads.dx_td = dx_td * a.keep_td if "keep_td" in a else dx_td
    shared = {}
    for bias, dbias_hts in zip(tape.biases, dbiases, strict=True):
        shared.setdefault(id(bias), (bias, []))[1].append(dbias_hts)
    grads.bias_rh = np.zeros_like(stack.bias_rh)
    for bias, parts in shared.values():
        (dbias_hts,) = ops.hide_vjp(reduce(np.add, parts), None, bias.bias_hts, bias.see_ts)
        grads.bias_rh += ops.position_bias_vjp(dbias_hts, None, bias.bucket_ts, stack.bias_rh)[0]
    return grads
