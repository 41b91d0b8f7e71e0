"""Search for answers: greedy, by sampling, or by beams, one word at a time."""

import numpy as np

from .beams import beam_search
from .sampling import one_by_one, stream_of
from .task import Answer, Task
from .telling import told

__all__ = ["Answer", "Task", "search", "told"]


def search(voices, task):
    """The Answers to each prompt, `num_return_sequences` of each, prompt after prompt.

    voices  Voices of which each prompt has one
    task    a Task
    """
    row = voices.row
    if task.config.num_beams > 1:
        return beam_search(voices, task)
    count = task.config.num_return_sequences
    voices.keep(np.repeat(np.arange(row.sentences), count))
    if not task.config.do_sample:
        return one_by_one(voices, task)
    prompts = [row.ids_t[row.spans[b]][row.mask_t[row.spans[b]]].tolist() for b in voices.prompt_b]
    streams = [stream_of(task.config.seed, prompt, n % count) for n, prompt in enumerate(prompts)]
    return one_by_one(voices, task, streams)
