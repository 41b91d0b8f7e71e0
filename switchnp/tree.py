"""Named arrays in a tree: weights, traces and gradients are all one of these.

tree.encoder.blocks[1].switch.wi_edf
tree["encoder/blocks/1/switch/wi_edf"]
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

__all__ = ["Tree"]


class Tree:
    """Children by name; a child is an array, another Tree, or a list of Trees."""

    def __init__(self, **children: Any) -> None:
        vars(self).update(children)

    @classmethod
    def of(cls, leaves: Mapping[str, Any]) -> Tree:
        """The tree whose leaves have these paths; numbers in a path count the items of a list."""
        nested: dict[str, Any] = {}
        for path, leaf in leaves.items():
            *groups, name = path.split("/")
            node = nested
            for group in groups:
                node = node.setdefault(group, {})
            node[name] = leaf
        return _planted(nested)

    def leaves(self) -> Iterator[tuple[str, Any]]:
        """Every (path, array), in name order, so that two trees of one shape pair up."""
        return _leaves(self, "")

    def map(self, function: Callable[..., Any]) -> Tree:
        """The same tree with `function(leaf)` in each leaf's place."""
        return _mapped(self, function)

    def __getitem__(self, path: str) -> Any:
        node: Any = self
        for part in path.split("/"):
            node = node[int(part)] if isinstance(node, list) else getattr(node, part)
        return node

    def __contains__(self, name: str) -> bool:
        return name in vars(self)

    def __iter__(self) -> Iterator[str]:
        return iter(vars(self))

    def __getattr__(self, name: str) -> Any:
        names = ", ".join(vars(self)) or "nothing"
        raise AttributeError(f"no {name!r} in this Tree, which has {names}")

    def __setattr__(self, name: str, child: Any) -> None:
        vars(self)[name] = child

    def __repr__(self) -> str:
        rows = [(path, getattr(leaf, "shape", leaf), getattr(leaf, "dtype", "")) for path, leaf in self.leaves()]
        width = max((len(path) for path, _, _ in rows), default=0)
        return "\n".join(f"{path:<{width}}  {shape}  {dtype}".rstrip() for path, shape, dtype in rows)


def _planted(nested: dict[str, Any]) -> Any:
    children = {name: _planted(child) if isinstance(child, dict) else child for name, child in nested.items()}
    if children and all(name.isdigit() for name in children):
        return [children[str(i)] for i in range(len(children))]
    return Tree(**children)


def _mapped(node: Any, function: Callable[..., Any]) -> Any:
    if isinstance(node, Tree):
        return Tree(**{name: _mapped(child, function) for name, child in vars(node).items()})
    if isinstance(node, list):
        return [_mapped(child, function) for child in node]
    return function(node)


def _leaves(node: Any, path: str) -> Iterator[tuple[str, Any]]:
    if isinstance(node, Tree):
        named = sorted(vars(node).items())
    elif isinstance(node, list):
        named = [(str(i), child) for i, child in enumerate(node)]
    else:
        yield path, node
        return
    for name, child in named:
        yield from _leaves(child, f"{path}/{name}" if path else name)
