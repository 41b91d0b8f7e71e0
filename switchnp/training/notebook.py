"""`switchnp.train`: teach a model a few pairs, here and now."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral
from typing import Any

from ..data.batches import Batches
from ..data.mixtures import Mixture, Task
from ..errors import InputError, TokenizerError
from ..model import SwitchTransformer
from ..optimizers import OPTIMIZERS
from ..records import frozen
from ..schedules import Schedule
from .progress import bar
from .recipe import TrainingPart, check_names
from .trainer import Trainer, learner

__all__ = ["train"]


LONGEST = 1 << 20
"""No pair is too long."""
SETTINGS = {"clip", "dropout", "expert_dropout", "smoothing", "accumulate", "worse"}


def train(
    model: SwitchTransformer,
    pairs: Sequence[tuple[str, str]],
    steps: int = 200,
    *,
    examples: int = 16,
    rate: float | Schedule = 1e-3,
    optimizer: str = "adamw",
    seed: int = 0,
    progress: bool = True,
    **training: Any,
) -> list[dict[str, Any]]:
    """Teach a model pairs of prompt and answer; return what was measured at each step, for `plots.metrics_of`.

    The model learns in place: its weights are float32 afterwards, and the same engine answers with them. Ctrl-C ends it after
    the step that is being taken, and what was learnt stays.

    examples    pairs a step
    rate        the learning rate, or a Schedule
    optimizer   "adamw" or "adafactor"
    training    dropout, expert_dropout, smoothing, clip, accumulate, worse (`training.recipe.TrainingPart`)

    Raises TrainingError where the loss is no number or leaves all sense; ConfigError and InputError for wrong arguments.
    """
    if not isinstance(model, SwitchTransformer):
        raise InputError(f"model is of type {type(model).__name__}, expected what switchnp.load gives")
    if isinstance(steps, bool) or not isinstance(steps, Integral) or steps < 1:
        raise InputError(f"steps is {steps!a:.80}, expected a whole number of 1 or more")
    check_names("switchnp.train", training, SETTINGS)
    schedule = rate if isinstance(rate, Schedule) else Schedule(peak=frozen(rate))
    part = TrainingPart(**{name: frozen(value) for name, value in training.items()})
    trainer = _trainer(model, pairs, examples, optimizer, schedule, part, seed)
    history = []
    try:
        with bar(steps, shown=progress) as show:
            while trainer.step < steps and not show.stopping:
                history.append(trainer.take())
                show.step(history[-1])
    finally:
        if trainer.whole:
            model.params = trainer.model.params
    return history


def _trainer(
    model: SwitchTransformer,
    pairs: Sequence[tuple[str, str]],
    examples: int,
    optimizer: str,
    schedule: Schedule,
    part: TrainingPart,
    seed: int,
) -> Trainer:
    if model.tokenizer is None:
        raise TokenizerError("this model has no tokenizer, expected one to read pairs of texts")
    if not isinstance(pairs, Sequence) or isinstance(examples, bool) or not isinstance(examples, Integral):
        raise InputError(f"pairs is {pairs!a:.40} and examples {examples!a:.40}, expected a list of pairs and a whole number")
    if not isinstance(optimizer, str) or optimizer not in OPTIMIZERS:
        raise InputError(f"optimizer is {optimizer!a:.80}, expected one of {', '.join(OPTIMIZERS)}")
    student = learner(model)
    mixture = Mixture([Task("pairs", list(pairs))], model.tokenizer, seed, max_inputs=LONGEST, max_targets=LONGEST)
    batches = Batches(mixture, examples=int(examples))
    return Trainer(student, batches, OPTIMIZERS[optimizer](student.params), schedule, part, seed)
