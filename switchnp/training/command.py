"""The commands `switchnp train` and `switchnp distill`; nothing heavy is imported before they run."""

from __future__ import annotations

import argparse
import json

__all__ = ["distill", "train"]


def train(options: argparse.Namespace) -> str:
    """A model is trained as a recipe says; Ctrl-C saves, and --resume goes on to the bit."""
    return _carried_out(options, False)


def distill(options: argparse.Namespace) -> str:
    """A small dense student learns from a sparse teacher: [teacher] in a recipe like those of `switchnp train`."""
    return _carried_out(options, True)


def _carried_out(options: argparse.Namespace, taught: bool) -> str:
    from ..errors import ConfigError
    from .recipe import read_recipe
    from .run import carry_out

    recipe = read_recipe(options.recipe)
    if (recipe.teacher is not None) != taught:
        wanted = "switchnp distill with a [teacher]" if taught else "switchnp distill for a recipe with a [teacher]"
        raise ConfigError(f"the recipe has {'no' if taught else 'a'} [teacher], expected {wanted}")
    if options.steps is not None:
        recipe = recipe._replace(steps=options.steps)
    said = carry_out(recipe, options.resume)
    return json.dumps({"run": str(recipe.run), "said": said}, indent=1) if options.json else said
