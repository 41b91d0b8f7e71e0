"""Other people's checkpoints, each as a table of renames."""

from .huggingface import convert

__all__ = ["convert"]
