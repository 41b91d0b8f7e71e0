"""Search for an answer, one token at a time. Greedy here."""

import numpy as np

from . import layers, network
from .network import Row

__all__ = ["greedy"]


def greedy(ops, config, routing, params, row, max_new_tokens, use_cache=True, mode=layers.EVALUATION):
    """The likeliest next word, again and again, until every sentence has said `</s>`.

    With the cache the router sees one new word of each sentence a step, so a capacity of 1 or more never drops one whose sentence
    is a group of its own; without it, every step routes the whole answer anew, and may. The two agree wherever nothing is
    dropped or drawn. Where sentences queue together, answers depend on their company, as in the originals.

    row     the prompts
    return  ids (B, 1 + at most max_new_tokens), beginning with the start id, padded after `</s>`
    """
    memory_sd, _ = network.encode(ops, config, routing, params, row, mode=mode)
    pasts = layers.new_pasts(config) if use_cache else None
    answers = np.full((row.sentences, 1), config.decoder_start_token_id)
    ended = np.zeros(row.sentences, bool)
    while answers.shape[1] <= max_new_tokens and not ended.all():
        newest = answers[:, -1:] if use_cache else answers
        said = _row(newest, answers.shape[1] - newest.shape[1])
        last_td, _ = network.decode(ops, config, routing, params, said, memory_sd, row, pasts=pasts, mode=mode)
        logits_tv = network.logits(ops, config, params, last_td[[span.stop - 1 for span in said.spans]])
        next_word = np.where(ended, config.pad_token_id, logits_tv.argmax(axis=-1))
        answers = np.column_stack([answers, next_word])
        ended |= next_word == config.eos_token_id
    return answers


def _row(ids, first_position):
    B, T = ids.shape
    positions = np.tile(np.arange(first_position, first_position + T), B)
    return Row(ids.ravel(), np.repeat(np.arange(B), T), positions, np.ones(B * T, bool), B)
