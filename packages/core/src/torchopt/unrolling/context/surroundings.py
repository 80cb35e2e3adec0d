"""The modules and tensors that a step sees beside its arguments."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn

from torchopt.authoring.describe import describe
from torchopt.unrolling.context.attributes import PlainAttributes
from torchopt.unrolling.context.reachable import captured_state
from torchopt.unrolling.context.watched import (
    Change,
    RefusedUse,
    WatchedModule,
    WatchedTensor,
    changes,
    require_unchanged,
    written,
)
from torchopt.unrolling.context.wording import STEP, Wording
from torchopt.unrolling.functional_loss import FunctionalLoss
from torchopt.unrolling.leaves import Leaves

_OF_DATA = 'xs: '


class Surroundings:
    """The modules and tensors that a step sees, from the forward to the backward pass.

    Plain attributes of modules, such as their mode, are replayed. A tensor that has changed is
    refused if the step uses it; a module that has changed is refused.
    """

    def __init__(
        self,
        step: Callable[..., Any],
        consts: Leaves,
        data: Callable[..., Any] | None = None,
        arguments: Iterable[torch.Tensor] = (),
        wording: Wording = STEP,
    ) -> None:
        """Look around.

        Args:
            step: The step, or another function that is run again.
            consts: Leaves of its constant arguments, among them modules.
            data: A function that makes data for it.
            arguments: Tensors that the step sees, but also receives as arguments.
            wording: How errors name the step.
        """
        self._step = step
        self._data = data
        self._wording = wording
        self._consts_modules = [leaf for leaf in consts if isinstance(leaf, nn.Module)]
        self._tensors, modules, own = self._seen()
        own.update(map(id, arguments))
        self._tensors = [watched for watched in self._tensors if id(watched.tensor) not in own]
        self._modules = [WatchedModule.of(name, module) for name, module in modules]
        self._attributes = PlainAttributes(module for _, module in modules)

    @property
    def tensors(self) -> list[tuple[str, torch.Tensor]]:
        """The tensors that the step sees, and their names; not those that the carry replaces.

        Neither are those here that its data are made from, which may be a whole data set.
        """
        found = ((watched.name, watched.tensor) for watched in self._tensors)
        return [(name, tensor) for name, tensor in found if not name.startswith(_OF_DATA)]

    @property
    def modules(self) -> list[nn.Module]:
        """The modules that the step sees, submodules included."""
        return [watched.module for watched in self._modules]

    @property
    def attributes(self) -> PlainAttributes:
        """The plain attributes of the modules that the step sees."""
        return self._attributes

    def observe(self, number: int) -> None:
        """Note what the step of this number finds."""
        self._attributes.observe(number)

    def require_not_written(self, step: int | None = None) -> None:
        """Raise if a tensor was written to since the loop began.

        Args:
            step: The number of the only step that was run since, for the message.

        Raises:
            RuntimeError: there is such a tensor; the message names it.
        """
        found = written(self._tensors)
        if found:
            name, tensor, *_ = found[0]
            place = self._wording.place if step is None else f'step {step}'
            cure = self._wording.otherwise
            if step is not None:
                cure = (
                    'let the carry hold the tensor (ModuleStep does that for the buffers of a '
                    f'module), return what is to be recorded as y, or {cure}'
                )
            raise RuntimeError(
                f'{place} writes in place into {name}, {describe(tensor)}, which it does not '
                f'receive as an argument, so that a second run would find another value: {cure}'
            )

    def changes(self) -> list[Change]:
        """Return the tensors that have changed, whether or not the step uses them.

        Raises:
            RuntimeError: a module has changed.
        """
        require_unchanged(self._modules, self._wording)
        return changes(self._tensors, self._seen()[0])

    @contextmanager
    def replayed(self, number: int, refused: list[Change] | None = None) -> Iterator[None]:
        """Run the block in the surroundings of the step of this number.

        Args:
            number: Number of the step.
            refused: Changed tensors, which the block must not use.

        Raises:
            RuntimeError: the block uses one of them; the message names it.
        """
        with ExitStack() as stack:
            stack.enter_context(self._attributes.replayed(number))
            if refused:
                stack.enter_context(RefusedUse(refused, self._wording))
            yield

    def _seen(self) -> tuple[list[WatchedTensor], list[tuple[str, nn.Module]], set[int]]:
        """Return the tensors, and every module with its name, submodules included.

        The last result tells which tensors the carry replaces, by their id.
        """
        tensors: dict[tuple[str, int], torch.Tensor] = {}
        modules: dict[int, tuple[str, nn.Module]] = {}
        own: set[int] = set()
        consts = (('consts', module) for module in self._consts_modules)
        data = () if self._data is None else captured_state(self._data)
        made_from = ((_OF_DATA + found, value) for found, value in data)
        for found, value in (*consts, *captured_state(self._step), *made_from):
            if isinstance(value, torch.Tensor):
                tensors[found, id(value)] = value
                continue
            # The name of its only child, "module", says enough.
            name = '' if isinstance(value, FunctionalLoss) else f'{found}.'
            for key, module in value.named_modules():
                modules.setdefault(id(module), ((name + key).strip('.') or found, module))
            for key, tensor in _tensors_of(value):
                tensors[name + key, id(tensor)] = tensor
            if isinstance(value, FunctionalLoss):
                # The carry holds the buffers and what is trained.
                own.update(map(id, value.buffers()))
                own.update(id(param) for param in value.parameters() if param.requires_grad)
        watched = [WatchedTensor.of(name, tensor) for (name, _), tensor in tensors.items()]
        return watched, list(modules.values()), own


def _tensors_of(module: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    # Each name of a tied tensor, because each may be given another tensor.
    yield from module.named_parameters(remove_duplicate=False)
    yield from module.named_buffers(remove_duplicate=False)
