"""A recipe carried out: steps, what is written down, evaluations, checkpoints, and where to go on."""

from __future__ import annotations

import json
import os

from .. import weights
from ..errors import ConfigError
from ..files import shown
from .checkpoints import Checkpoint, Folder
from .examination import Held, Report, examined
from .kitchen import born, examination, trainer_of
from .progress import Bar, bar
from .recipe import Recipe
from .trainer import Trainer

__all__ = ["Stopped", "carry_out"]


class Stopped(KeyboardInterrupt):
    """Somebody pressed Ctrl-C; everything is saved."""


def carry_out(recipe: Recipe, resume: bool = False) -> str:
    """Train until the recipe's last step, or patience ends; say in a line how it went.

    A folder that has checkpoints is refused without `resume`. Raises Stopped after Ctrl-C.
    """
    folder = Folder(recipe.run, recipe.training.keep)
    try:
        return _Run(recipe, folder, resume).to_the_end()
    finally:
        folder.close()


class _Run:
    def __init__(self, recipe: Recipe, folder: Folder, resume: bool) -> None:
        self._recipe, self._folder = recipe, folder
        there = folder.saved()
        if there and not resume:
            raise ConfigError(f"{shown(recipe.run)} has a run of {there[-1].step} steps, expected --resume or another folder")
        model = born(recipe)
        self._trainer: Trainer = trainer_of(recipe, model)
        self._held: list[Held] = examination(recipe, model)
        self._best: float | None = None
        self._impatience = 0
        if there:
            self._go_on(there[-1])
        folder.forget(self._trainer.step)

    def _go_on(self, checkpoint: Checkpoint) -> None:
        state = checkpoint.state()
        facts = json.loads(json.dumps(self._recipe.facts(), default=os.fspath))
        changed = [name for name, part in facts.items() if state["recipe"].get(name) != part]
        if changed:
            raise ConfigError(
                f"{', '.join(changed)} changed since {shown(checkpoint.path)}, expected the recipe that it was made by"
            )
        params, _ = weights.read(checkpoint.model)
        self._trainer.restore(state, checkpoint.moments(), params)
        self._best, self._impatience = state["best"], state["impatience"]

    def to_the_end(self) -> str:
        recipe, trainer, saved = self._recipe, self._trainer, self._trainer.step
        with bar(recipe.steps, min(trainer.step, recipe.steps), None) as show:
            while trainer.step < recipe.steps and not (show.stopping or self._patience_ended):
                self._one_step(show)
                if trainer.step % recipe.training.every == 0 or trainer.step in recipe.training.keep_at:
                    saved = self._save(trainer.step in recipe.training.keep_at)
            if saved != trainer.step or not self._folder.saved():
                self._save()
        if show.stopping:
            raise Stopped(f"stopped after step {trainer.step}, all is saved; the same command with --resume goes on")
        last = self._folder.saved()[-1]
        ended = "patience ended" if self._patience_ended else "done"
        return f"{ended} after step {trainer.step}: {shown(last.model)}"

    @property
    def _patience_ended(self) -> bool:
        patience = self._recipe.evaluation.patience
        return patience is not None and self._impatience >= patience

    def _one_step(self, show: Bar) -> None:
        there = self._folder.saved()[-1:]
        line = self._trainer.take(shown(there[0].path) if there else "none yet")
        self._folder.note(line)
        show.step(line)
        every = self._recipe.evaluation.every
        last = self._trainer.step == self._recipe.steps
        if self._held and (last or (every is not None and self._trainer.step % every == 0)):
            self._examine(show)

    def _examine(self, show: Bar) -> None:
        report: Report = examined(self._trainer.model, self._held)
        self._folder.note({"step": self._trainer.step, "evaluation": report.scores, "specialisation": report.specialisation})
        better = self._best is None or report.loss < self._best
        self._best, self._impatience = (report.loss, 0) if better else (self._best, self._impatience + 1)
        scores = {name: score["exact_match"] for name, score in report.scores.items() if score["exact_match"] is not None}
        right = ", ".join(f"{name} {share:.1%} right" for name, share in scores.items())
        show.say(f"step {self._trainer.step}: held-out loss {report.loss:.3f}" + (f", {right}" if right else ""))

    def _save(self, forever: bool = False) -> int:
        trainer, recipe = self._trainer, self._recipe
        facts = json.loads(json.dumps(recipe.facts(), default=os.fspath))
        state = trainer.state() | {"recipe": facts, "best": self._best, "impatience": self._impatience}
        return self._folder.save(trainer.step, trainer.model.save, trainer.optimizer.state(), state, forever).step
