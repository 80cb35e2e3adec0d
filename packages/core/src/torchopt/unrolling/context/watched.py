"""Tensors and modules that reach a step past its arguments: a change is found, and refused."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from torchopt import pytree
from torchopt.authoring.describe import describe
from torchopt.unrolling.context.wording import STEP, Wording

_HOOKS = ('_forward_pre_hooks', '_forward_hooks', '_backward_pre_hooks', '_backward_hooks')


class WatchedTensor(NamedTuple):
    """A tensor that a step can see, as it was at one time.

    Attributes:
        name: The tensor's name in the source of the step.
        tensor: The tensor itself.
        version: How often it had been written to; None where torch does not count.
        address: Where its memory was, which assigning to ``data`` changes; 0 where it has none.
        requires_grad: Whether it required grad.
    """

    name: str
    tensor: torch.Tensor
    version: int | None
    address: int
    requires_grad: bool

    @classmethod
    def of(cls, name: str, tensor: torch.Tensor) -> WatchedTensor:
        """Look at ``tensor`` now."""
        version = None if tensor.is_inference() else tensor._version
        try:
            address = tensor.data_ptr()
        except RuntimeError:  # such as a sparse tensor
            address = 0
        return cls(name, tensor, version, address, tensor.requires_grad)

    def change(self, now: WatchedTensor | None) -> str | None:
        """Say what happened to this tensor, given what its name stands for now."""
        if now is None or now.tensor is not self.tensor:
            return 'replaced'
        if now.version != self.version:
            return 'written to'
        if now.address != self.address:
            return 'given other data'
        if now.requires_grad != self.requires_grad:
            return f'switched to requires_grad={now.requires_grad}'
        return None


def written(before: Iterable[WatchedTensor]) -> list[WatchedTensor]:
    """Return the tensors that were written to since ``before``."""
    return [old for old in before if old.change(WatchedTensor.of(*old[:2])) is not None]


class Change(NamedTuple):
    """A change of a watched tensor.

    Attributes:
        name: The tensor's name.
        what: What happened to it.
        tensors: The tensor, and the one that took its place.
    """

    name: str
    what: str
    tensors: tuple[torch.Tensor, ...]


def changes(before: Iterable[WatchedTensor], now: Iterable[WatchedTensor]) -> list[Change]:
    """Compare what a step could see with what it can see now."""
    by_name: dict[str, list[WatchedTensor]] = {}
    for watched in now:
        by_name.setdefault(watched.name, []).append(watched)
    found = []
    for old in before:
        candidates = by_name.get(old.name, [])
        # Two functions may use one name for two tensors.
        same = [new for new in candidates if new.tensor is old.tensor]
        what = old.change(same[0] if same else None)
        if what is not None:
            tensors = [new.tensor for new in candidates if not same]
            found.append(Change(old.name, what, (old.tensor, *tensors)))
    return found


class RefusedUse(TorchFunctionMode):
    """Raises where torch reads one of the changed tensors.

    A step can see more than it uses: parameters of a module whose tensors it replaces, for
    example. Those may change.
    """

    def __init__(self, changed: list[Change], wording: Wording = STEP) -> None:
        super().__init__()
        self._wording = wording
        self._changed = {id(tensor): change for change in changed for tensor in change.tensors}

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Call ``func``, and raise if it read a changed tensor."""
        kwargs = kwargs or {}
        used = self._used(args, kwargs)
        if used is None:
            return func(*args, **kwargs)
        if getattr(func, '__name__', '') == '__get__':
            # Shape, dtype and the like are properties without an element of the tensor.
            value = func(*args, **kwargs)
            if not isinstance(value, torch.Tensor):
                return value
        place, through, otherwise = self._wording
        raise RuntimeError(
            f'{used.name}, {describe(used.tensors[0])}, which {place} uses but does not '
            f'receive as an argument, was {used.what} after the forward pass. The backward pass '
            f'runs {place} again and would differentiate another function: change the tensor after '
            f'the backward pass, pass a clone of it {through}, or {otherwise}'
        )

    def _used(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Change | None:
        arguments: Any = (args, kwargs)
        leaves: list[Any] = pytree.tree_leaves(arguments)
        for leaf in leaves:
            change = self._changed.get(id(leaf))
            if change is not None:
                return change
        return None


class WatchedModule(NamedTuple):
    """What a module runs beside its own code, as it was at one time.

    Attributes:
        name: The module's name in the source of the step.
        module: The module itself.
        parts: Its class, its own ``forward`` if it has one, its submodules and its hooks.
    """

    name: str
    module: nn.Module
    parts: tuple[Any, ...]

    @classmethod
    def of(cls, name: str, module: nn.Module) -> WatchedModule:
        """Look at ``module`` now."""
        return cls(name, module, tuple(_parts(module)))

    def is_changed(self) -> bool:
        """Tell whether any part is another object now."""
        now = tuple(_parts(self.module))
        return len(now) != len(self.parts) or any(a is not b for a, b in zip(now, self.parts))


def _parts(module: nn.Module) -> Iterator[Any]:
    own = vars(module)
    yield type(module)
    yield own.get('forward')
    yield from own['_modules'].values()
    for hooks in _HOOKS:
        yield from own.get(hooks, {}).values()


def require_unchanged(modules: Iterable[WatchedModule], wording: Wording = STEP) -> None:
    """Raise if a module has another class, ``forward``, submodule or hook than before.

    Raises:
        RuntimeError: it has; the message names it.
    """
    for watched in modules:
        if watched.is_changed():
            raise RuntimeError(
                f'{watched.name} ({type(watched.module).__name__}), which {wording.place} uses, '
                'has got another class, forward, submodule or hook since the forward pass. The '
                f'backward pass runs {wording.place} again and would differentiate another '
                'function: change the module after the backward pass, or ' + wording.otherwise
            )
