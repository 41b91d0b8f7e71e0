"""A recipe carried out: steps, what is written down, evaluations, checkpoints, and where to go on."""

from __future__ import annotations

import json
import math
import os
import sys
from typing import Any

from .. import weights
from ..errors import ConfigError, TrainingError
from ..files import shown
from .checkpoints import Checkpoint, Folder
from .examination import Held, examined
from .heap import keep_what_is_freed
from .kitchen import born, examination, trainer_of
from .progress import Bar, bar
from .recipe import Recipe
from .trainer import Trainer

__all__ = ["Stopped", "carry_out"]


class Stopped(KeyboardInterrupt):
    """Somebody pressed Ctrl-C; everything is saved."""


def carry_out(recipe: Recipe, resume: bool = False) -> str:
    """Train until the recipe's last step, or patience ends; say in a line how it went.

    A folder that has checkpoints is refused without `resume`; a recipe that is refused makes none. Raises Stopped after Ctrl-C.
    """
    model = born(recipe)
    trainer, held = trainer_of(recipe, model), examination(recipe, model)
    folder = Folder(recipe.run, recipe.training.keep)
    keep_what_is_freed()
    try:
        return _Run(recipe, folder, trainer, held, resume).to_the_end()
    finally:
        folder.close()


class _Run:
    def __init__(self, recipe: Recipe, folder: Folder, trainer: Trainer, held: list[Held], resume: bool) -> None:
        self._recipe, self._folder, self._trainer, self._held = recipe, folder, trainer, held
        there = folder.saved()
        if there and not resume:
            raise ConfigError(f"{shown(recipe.run)} has a run of {there[-1].step} steps, expected --resume or another folder")
        self._best: list[float] | None = None
        self._impatience = self._examined = 0
        if there:
            self._go_on(there[-1])
        self._state = self._trainer.state()
        self._saved = self._reached
        folder.forget(self._trainer.step, best=self._best is not None)

    def _go_on(self, checkpoint: Checkpoint) -> None:
        state = checkpoint.state()
        facts = self._facts()
        changed = [name for name, part in facts.items() if state["recipe"].get(name) != part]
        if changed:
            raise ConfigError(
                f"{', '.join(changed)} changed since {shown(checkpoint.path)}, expected the recipe that it was made by"
            )
        params, _ = weights.read(checkpoint.model)
        self._trainer.restore(state, checkpoint.moments(), params)
        self._best, self._impatience = state["best"], state["impatience"]
        self._examined = state["examined"]

    def to_the_end(self) -> str:
        recipe, trainer = self._recipe, self._trainer
        with bar(recipe.steps, min(trainer.step, recipe.steps), None) as show:
            try:
                self._examine_if_due(show)
                while trainer.step < recipe.steps and not (show.stopping or self._patience_ended):
                    self._one_step(show)
                    self._examine_if_due(show)
                    if trainer.step % recipe.training.every == 0 or trainer.step in recipe.training.keep_at:
                        self._save()
            except TrainingError as error:
                raise TrainingError(f"{error}; {self._where_to_go_on()}") from None
            finally:
                if self._worth_saving(sys.exception()):
                    self._save()
        if show.stopping:
            raise Stopped(f"stopped after step {trainer.step}, all is saved; the same command with --resume goes on")
        last = self._folder.saved()[-1]
        ended = "patience ended" if self._patience_ended else "done"
        skipped = sum(trainer.batches.mixture.skipped.values())
        left_out = f" ({skipped} times an example was left out for its length)" if skipped else ""
        return f"{ended} after step {trainer.step}: {shown(last.model)}{self._better_before(last)}{left_out}"

    def _better_before(self, last: Checkpoint) -> str:
        if self._best is None or self._best[1] == last.step or not self._folder.best.exists():
            return ""
        loss, step = self._best
        return f"; the lowest held-out loss, {loss:.3f}, was after step {step}: {shown(self._folder.best)}"

    @property
    def _reached(self) -> tuple[int, int]:
        """The last whole step, and the last that was examined."""
        return self._state["step"], self._examined

    def _worth_saving(self, error: BaseException | None) -> bool:
        """Is there a last whole step, or its evaluation, that no checkpoint has, and weights that are still those of it?"""
        whole = self._trainer.whole and self._trainer.step == self._state["step"] and not isinstance(error, TrainingError)
        return whole and (self._reached != self._saved or (error is None and not self._folder.saved()))

    def _where_to_go_on(self) -> str:
        good = self._folder.last_good(self._trainer.watch.good or self._trainer.step)
        return f"the last good checkpoint is {shown(good.path) if good else 'none'}"

    def _facts(self) -> dict[str, Any]:
        """The recipe, and the teacher's weights, as JSON has them."""
        facts = json.loads(json.dumps(self._recipe.facts(), default=os.fspath))
        if self._recipe.teacher is not None:
            _, arrays = weights.read_header(self._recipe.path(self._recipe.teacher.file))
            facts["teacher"]["sha256"] = [array.sha256 for array in arrays]
        return dict(facts)

    @property
    def _patience_ended(self) -> bool:
        patience = self._recipe.evaluation.patience
        return patience is not None and self._impatience >= patience

    def _one_step(self, show: Bar) -> None:
        line = self._trainer.take()
        self._state = self._trainer.state()
        self._folder.note(line)
        show.step(line)

    def _examine_if_due(self, show: Bar) -> None:
        """Also after a resumption, where the step was saved and its evaluation was cut off."""
        step, every = self._trainer.step, self._recipe.evaluation.every
        due = step == self._recipe.steps or (every is not None and step % every == 0)
        if self._held and due and step != self._examined:
            self._examine(show)

    def _examine(self, show: Bar) -> None:
        report = examined(self._trainer.model, self._held)
        loss, step = report.loss, self._trainer.step
        if not math.isfinite(loss):
            raise TrainingError(f"step {step}: the held-out loss is no number")
        better = self._best is None or loss < self._best[0]
        if better:
            self._trainer.model.save(self._folder.best, force=True)
        self._folder.note({"step": step, "evaluation": report.scores, "specialisation": report.specialisation})
        self._best, self._impatience = ([loss, step], 0) if better else (self._best, self._impatience + 1)
        self._examined = step
        scores = {name: score["exact_match"] for name, score in report.scores.items() if score["exact_match"] is not None}
        right = ", ".join(f"{name} {share:.1%} right" for name, share in scores.items())
        show.say(f"step {step}: held-out loss {loss:.3f}" + (f", {right}" if right else ""))

    def _save(self) -> None:
        trainer = self._trainer
        state = self._state | {"recipe": self._facts(), "best": self._best}
        state |= {"impatience": self._impatience, "examined": self._examined}
        forever = trainer.step in self._recipe.training.keep_at
        self._folder.save(trainer.step, trainer.model.save, trainer.optimizer.state(), state, forever, trainer.watch.good)
        self._saved = self._reached
