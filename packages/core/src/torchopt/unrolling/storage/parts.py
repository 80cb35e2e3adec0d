"""Tensors taken apart into plain ones: a sharded tensor into this rank's shard, for example."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch

from torchopt.authoring.describe import describe


class Recipe(NamedTuple):
    """How plain tensors make up one tensor.

    Attributes:
        kind: The class of the tensor; None for another object, such as a device mesh.
        names: Names of the parts inside it; none for a plain tensor.
        inner: Their recipes.
        context: What the class needs to know beside them, such as placements; or the other object.
        size: Its shape, if there are tensors inside it.
        stride: Its strides, likewise.
    """

    kind: type | None
    names: tuple[str, ...] = ()
    inner: tuple[Recipe, ...] = ()
    context: Any = None
    size: tuple[int, ...] = ()
    stride: tuple[int, ...] = ()

    def build(self, plain: Iterator[torch.Tensor]) -> Any:
        """Return the tensor made of the next tensors in ``plain``."""
        if self.kind is None:
            return self.context
        if self.names:
            parts = {name: recipe.build(plain) for name, recipe in zip(self.names, self.inner)}
            kind: Any = self.kind
            return kind.__tensor_unflatten__(parts, self.context, self.size, self.stride)
        tensor = next(plain)
        return tensor if self.kind is torch.Tensor else tensor.as_subclass(self.kind)


_PLAIN = Recipe(torch.Tensor)


def take_apart(tensor: torch.Tensor) -> tuple[list[torch.Tensor], Recipe]:
    """Return the plain tensors that ``tensor`` consists of, and how they make it up.

    Subclasses tell that through torch's protocol ``__tensor_flatten__``. One that does not is taken
    for a plain tensor with a name of its own.

    Raises:
        TypeError: such a subclass has attributes, which would be lost.
    """
    kind: Any = type(tensor)
    if kind is torch.Tensor:
        return [tensor], _PLAIN
    if not hasattr(kind, '__tensor_flatten__'):
        if getattr(tensor, '__dict__', None):
            raise TypeError(
                f'{describe(tensor)}, is a {kind.__name__} with attributes, which would be lost '
                "where carries are copied: give the class torch's __tensor_flatten__ and "
                "__tensor_unflatten__, or use storage='device'"
            )
        return [tensor.as_subclass(torch.Tensor)], Recipe(kind)
    whole: Any = tensor
    names, context = whole.__tensor_flatten__()
    held = [getattr(tensor, name) for name in names]
    apart = [
        take_apart(part) if isinstance(part, torch.Tensor) else ([], Recipe(None, context=part))
        for part in held
    ]
    recipe = Recipe(
        kind,
        tuple(names),
        tuple(recipe for _, recipe in apart),
        context,
        tuple(tensor.shape),
        tuple(tensor.stride()),
    )
    return [part for parts, _ in apart for part in parts], recipe
