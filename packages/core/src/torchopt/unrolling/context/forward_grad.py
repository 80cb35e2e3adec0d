"""Where forward mode would differ from the graph: ``no_grad`` and hooks inside of a step."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from torch.overrides import TorchFunctionMode

from torchopt.authoring.torch_internals import (
    active_transforms,
    forward_grad_enabled,
    forward_grad_switch,
)

_HOOKS = ('register_hook', 'register_post_accumulate_grad_hook')


@contextmanager
def like_reverse_mode(*, hooks_in_gradients: bool) -> Iterator[None]:
    """Let the block, which runs under ``torch.func.jvp``, be differentiated as its graph would be.

    ``torch.no_grad()`` does not stop tangents by itself; in the block it does. Hooks of tensors are
    not called in forward mode, and raise.

    Each operation of the block passes through a Python function, which shows on tiny tensors only.

    Args:
        hooks_in_gradients: Whether a tensor may have a hook inside of ``torch.func.grad``. The hook
            is called there and belongs to the gradient that the block computes.

    Raises:
        RuntimeError: the block sets a hook on a tensor, or turns grad mode off in a place where
            that cannot be honoured.
    """
    before = forward_grad_enabled()
    mode = _LikeReverseMode(active_transforms(), hooks_in_gradients)
    try:
        with _made_current(mode), mode:
            yield
    finally:
        if forward_grad_enabled() != before:
            forward_grad_switch()(before)


class LikeReverseMode(NamedTuple):
    """The argument of a :func:`like_reverse_mode` that is active.

    Attributes:
        hooks_in_gradients: Whether a tensor may have a hook inside of ``torch.func.grad``.
    """

    hooks_in_gradients: bool

    @classmethod
    def active(cls) -> LikeReverseMode | None:
        """Return the innermost one; None without any."""
        mode = _current.mode
        return None if mode is None else cls(mode.hooks_in_gradients)


@contextmanager
def below_transforms() -> Iterator[None]:
    """Let no :func:`like_reverse_mode` act in the block.

    The block runs in an autograd.Function, below the transforms in which the mode was begun. What
    the block does with grad mode is then no concern of these transforms.
    """
    with _made_current(None):
        yield


class _Current(threading.local):
    mode: _LikeReverseMode | None = None


_current = _Current()


@contextmanager
def _made_current(mode: _LikeReverseMode | None) -> Iterator[None]:
    before, _current.mode = _current.mode, mode
    try:
        yield
    finally:
        _current.mode = before


class _LikeReverseMode(TorchFunctionMode):
    def __init__(self, transforms: list[str] | None, hooks_in_gradients: bool) -> None:
        super().__init__()
        self._transforms = transforms
        self.hooks_in_gradients = hooks_in_gradients
        # How many transforms were active where tangents were stopped.
        self._stopped: list[int] = []

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if _current.mode is not self:
            return func(*args, **(kwargs or {}))
        name = getattr(func, '__name__', '')
        if name in _HOOKS:
            self._require_no_hook(name)
        result = func(*args, **(kwargs or {}))
        if name == '_set_grad_enabled':
            self._follow(*args)
        return result

    def _require_no_hook(self, name: str) -> None:
        inner = active_transforms()
        if self.hooks_in_gradients and inner and inner[-1] == 'Grad':
            return
        raise RuntimeError(
            f'{name} is called on a tensor in forward mode (ForwardMode, or '
            "order='forward-over-reverse'), where the hook would not be called or not be "
            "differentiated: use Stored(), or Recomputed() with order='reverse-over-reverse'"
        )

    def _follow(self, enabled: bool) -> None:
        """Stop tangents where grad mode was turned off, and let them pass again afterwards."""
        inner, switch = active_transforms(), forward_grad_switch()
        if enabled:
            # A gradient that is taken under no_grad turns grad mode on for itself alone, one
            # transform further in.
            resumed = False
            while inner is not None and self._stopped and self._stopped[-1] >= len(inner):
                self._stopped.pop()
                resumed = True
            if resumed and not self._stopped:
                switch(True)
        # torch turns both modes off inside of an autograd.Function, and grad mode on and off again.
        elif forward_grad_enabled():
            if inner is None or self._transforms is None or switch is None:
                raise RuntimeError(
                    'grad mode is turned off in forward mode (ForwardMode, or '
                    "order='forward-over-reverse'), which this version of torch cannot honour: "
                    'detach() the results instead'
                )
            if 'Jvp' in inner[len(self._transforms) :]:
                raise RuntimeError(
                    'grad mode is turned off inside of a torch.func.jvp that is differentiated in '
                    "forward mode (ForwardMode, or order='forward-over-reverse'): detach() the "
                    'results instead, or use Stored() or Recomputed()'
                )
            switch(False)
            self._stopped.append(len(inner))
