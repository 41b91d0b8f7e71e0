"""What any function owes its caller."""

from dataclasses import replace

import numpy as np

from .property import BOTH, Property, entering, same
from .subject import Broken

__all__ = ["PROPERTIES"]

PROPERTIES: list[Property] = []
claim = entering(PROPERTIES)


@claim("call", "it answers with finite arrays of the promised shapes and kinds", *BOTH)
def _answers(subject, case, rng):
    subject(case)


@claim("pure", "it leaves the arrays that it is given as they were", *BOTH)
def _leaves_inputs_alone(subject, case, rng):
    subject(case)
    for name, after in subject.handed.items():
        if not np.array_equal(subject.inputs[name], after):
            raise Broken(f"{name} is modified in place", **{f"after_{name}": after})


@claim("E11", "asked the same it says the same: jitter is for training", *BOTH)
def _repeats_itself(subject, case, rng):
    before = subject(case)
    subject(replace(case, x_td=case.x_td[::-1]))
    for name, after in subject(case).items():
        same(name, after, before[name], "the same inputs gave before")
