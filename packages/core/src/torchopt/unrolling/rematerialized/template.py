"""The pure function behind all blocks of equal code, which is what gets compiled."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Hashable, Sequence
from typing import Any, cast

import torch
from torch import nn

from torchopt import pytree
from torchopt.unrolling.context.autocast import Autocast
from torchopt.unrolling.leaves import Leaves, flatten, is_placeholder, tensors_of
from torchopt.unrolling.rematerialized.code_of import code_of, shared_parts, value_of
from torchopt.unrolling.rematerialized.derivatives import FlatFunction, Results
from torchopt.unrolling.rematerialized.held_tensors import HeldTensors
from torchopt.unrolling.steps.compilation import Backend, RenewableCompilation

# Kinds of blocks that are kept.
_MOST_TEMPLATES = 64
_templates: dict[Hashable, Template] = {}


def template_for(
    fn: Any,
    held: HeldTensors,
    arguments: Leaves,
    structure: pytree.PyTreeSpec,
    autocast: Autocast,
    input_count: int,
) -> Template:
    """Return the template of a block, the same one for all that do the same.

    The arguments are those of :class:`Template`.
    """
    constants = tuple(map(value_of, arguments))
    key = (code_of(fn), tuple(held.places()), constants, structure, autocast)
    if key not in _templates:
        while len(_templates) >= _MOST_TEMPLATES:
            del _templates[next(iter(_templates))]
        _templates[key] = Template(fn, held, arguments, structure, autocast, input_count)
    return _templates[key]


class Template:
    """A block without its tensors, and the compiled derivatives of it.

    Args:
        fn: The module, of which a copy without tensors is made; or another function.
        held: The tensors of the module.
        arguments: Leaves of the arguments, with placeholders for the tensors.
        structure: Their tree.
        autocast: The settings of the call.
        input_count: How many tensors the block takes.

    Attributes:
        input_count: How many tensors the block takes.
    """

    def __init__(
        self,
        fn: Any,
        held: HeldTensors,
        arguments: Leaves,
        structure: pytree.PyTreeSpec,
        autocast: Autocast,
        input_count: int,
    ) -> None:
        self.input_count = input_count
        self._fn = _without_tensors(fn, held) if isinstance(fn, nn.Module) else fn
        self._places = held.places()
        self._held_count = held.count
        self._buffers = [held.is_constant(position) for position in range(self._held_count)]
        # Trees, because Dynamo cannot unflatten with a structure that was made outside.
        numbers = itertools.count(self._held_count)
        numbered = [next(numbers) if is_placeholder(leaf) else None for leaf in arguments]
        constants = [None if is_placeholder(leaf) else leaf for leaf in arguments]
        self._numbers: Any = pytree.tree_unflatten(structure, numbered)
        self._constants: Any = pytree.tree_unflatten(structure, constants)
        self._autocast = [setting for setting in autocast.settings if setting[1]]
        self._compiled: dict[
            tuple[FlatFunction[Any], Backend], tuple[FlatFunction[Any], RenewableCompilation]
        ] = {}

    @property
    def root(self) -> Template:
        """The template itself."""
        return self

    def on(self, root: Any) -> Any:
        """Return ``root``."""
        return root

    def run(
        self, fn: FlatFunction[Any], backend: Backend, tensors: Sequence[torch.Tensor]
    ) -> Results:
        """Return ``fn(*tensors)`` for a derivative of a block, compiled for all such blocks."""
        own: FlatFunction[Any] = fn.on(self)
        if (own, backend) not in self._compiled:
            self._compiled[own, backend] = (
                own,
                RenewableCompilation(cast(Any, _call), backend, 'a derivative of a block of remat'),
            )
        # The function that Dynamo has seen first, whose guards hold.
        first, compiled = self._compiled[own, backend]
        results: Results = compiled(first, *tensors)
        return results

    def __call__(self, *tensors: torch.Tensor) -> Results:
        """Return the results of the block, without the buffers that it writes."""
        return self._under(self._autocast, tensors)

    def _under(
        self, autocast: list[tuple[str, bool, torch.dtype]], tensors: tuple[torch.Tensor, ...]
    ) -> Results:
        if autocast:
            kind, _, dtype = autocast[0]
            with torch.autocast(kind, dtype=dtype, cache_enabled=False):
                return self._under(autocast[1:], tensors)
        given: Any = pytree.tree_map(
            lambda number, constant: constant if number is None else tensors[number],
            self._numbers,
            self._constants,
            none_is_leaf=True,
        )
        args, kwargs = given
        if isinstance(self._fn, nn.Module):
            # A block may write into its buffers; those of the caller must not change.
            held = [
                tensor.clone() if is_buffer else tensor
                for tensor, is_buffer in zip(tensors, self._buffers)
            ]
            replaced = {name: held[position] for name, position in self._places}
            result = torch.func.functional_call(self._fn, replaced, args, kwargs, tie_weights=False)
        else:
            result = self._fn(*args, **kwargs)
        return tuple(tensors_of(flatten(result)[0]))


def _call(fn: FlatFunction[Any], *tensors: torch.Tensor) -> Results:
    return fn(*tensors)


def _without_tensors(module: nn.Module, held: HeldTensors) -> nn.Module:
    """Return a copy of ``module`` that holds no memory."""
    memo: dict[int, Any] = {
        id(tensor): nn.Parameter(torch.empty_like(tensor, device='meta'), requires_grad=False)
        for tensor in held.tensors
    }
    # What the key of the template names by its identity is the same in the copy.
    memo.update((id(part), part) for part in shared_parts(module))
    return copy.deepcopy(module, memo)
