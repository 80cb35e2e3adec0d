"""Hooks inside of a gradient: they belong to its own backward pass."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import torch

from torchopt.unrolling.inner_gradients.attention import ComposedAttention
from torchopt.unrolling.inner_gradients.level import Level

_TENSOR: Any = torch.Tensor
_READ_NODE = _TENSOR.grad_fn.__get__
_HOOKS: tuple[Any, ...] = (
    _TENSOR.register_hook,
    _TENSOR.register_post_accumulate_grad_hook,
)
# What torch's modules do for their backward hooks is done there.
_HOOKS_OF_MODULES = ('torch.nn.modules.module', 'torch.utils.hooks')


class InsideLevel(ComposedAttention):
    """The mode under which a function runs whose gradient torch.autograd takes.

    An outer backward pass goes through the graph of the function, too, and would call its hooks
    again, on what is not a gradient of the function.
    """

    def __init__(self, level: Level) -> None:
        super().__init__()
        self._level = level

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Call ``func``; a hook that it sets on a tensor of the level ends with the level.

        Raises:
            RuntimeError: a module has backward hooks, which are not hooks of tensors.
        """
        if func in _HOOKS and self._level.is_inside(args[0]):
            self._level.is_opaque = True
            return func(args[0], self._until_the_end(*args[1:], **(kwargs or {})))
        if func == _READ_NODE:
            self._require_no_hooks(sys._getframe(1).f_globals.get('__name__'))
        if func in self.replaced:
            return super().__torch_function__(func, types, args, kwargs)
        # Every operation comes through here.
        return func(*args, **(kwargs or {}))

    def _require_no_hooks(self, reader: Any) -> None:
        if reader in _HOOKS_OF_MODULES:
            raise RuntimeError(
                'a module with backward hooks (register_full_backward_hook) runs in a function '
                'whose gradient is taken, and its hooks would be called in the outer backward '
                'pass, too: remove them, or set a hook on a tensor in the function'
            )
        # A hook may be set on the node.
        self._level.is_opaque |= not str(reader).startswith('torchopt.')

    def _until_the_end(self, hook: Callable[..., Any]) -> Callable[..., Any]:
        def called(value: torch.Tensor) -> Any:
            return None if self._level.has_ended else hook(value)

        return called
