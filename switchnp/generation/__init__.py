"""Search for answers: greedy, by sampling, or by beams, one word at a time."""

import numpy as np

from ..layers import EVALUATION
from .beams import beam_search
from .sampling import one_by_one, stream_of
from .task import Answer, Task
from .telling import told
from .voices import Voices

__all__ = ["Answer", "Task", "Voices", "search", "told"]


def search(ops, config, routing, params, row, task, use_cache=True, mode=EVALUATION):
    """The Answers to each prompt of a row, `num_return_sequences` of each, prompt after prompt.

    task    a Task
    """
    voices = Voices(ops, config, routing, params, row, use_cache, mode)
    if task.config.num_beams > 1:
        return beam_search(voices, task)
    count = task.config.num_return_sequences
    voices.keep(np.repeat(np.arange(row.sentences), count))
    if not task.config.do_sample:
        return one_by_one(voices, task)
    prompts = [row.ids_t[row.spans[b]][row.mask_t[row.spans[b]]].tolist() for b in voices.prompt_b]
    streams = [stream_of(task.config.seed, prompt, n % count) for n, prompt in enumerate(prompts)]
    return one_by_one(voices, task, streams)
