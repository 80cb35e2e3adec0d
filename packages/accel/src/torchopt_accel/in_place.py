"""Steps in place, one after the other: one look at all tensors, one launch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import chain
from typing import Any

import torch

from torchopt.authoring.shards import PLAIN
from torchopt.authoring.steps import count_steps, next_steps
from torchopt.authoring.torch_internals import transforming
from torchopt.typing import OptState
from torchopt_accel import kernels
from torchopt_accel.choice import by_kind, kernel_exists
from torchopt_accel.internals import HAS_TABLE, dispatching, forward_mode, increment_versions
from torchopt_accel.kernels import DTYPES, RULES, address, stride_of
from torchopt_accel.platform import C
from torchopt_accel.progress import fit_kernels, next_numbers, rate_of
from torchopt_accel.reading import rate_on, vector_on
from torchopt_accel.roles import Mismatch
from torchopt_accel.scalars import Maybe, rate_at
from torchopt_accel.specs import Spec
from torchopt_accel.step import read_step

Commit = Callable[[], None]


class InPlace:
    """Steps of one list of parameters, written where parameters and state lie.

    From one step to the next it keeps which leaves go into one launch, and memory for their
    addresses, but no tensor. One call reads and compares all tensors of a launch: types, shapes,
    dtypes, devices, strides, addresses and overlaps. A step that this call does not take goes
    through :class:`torchopt_accel.step.Step`, as every step does in a torch that has no table of
    its tensors, before 2.10.

    Args:
        spec: The kernel and its numbers.
    """

    def __init__(self, spec: Spec) -> None:
        self._spec = spec
        self._launches: list[_Launch] = []

    def __call__(
        self, gradients: list[Maybe], state: OptState, params: list[torch.Tensor]
    ) -> Commit | None:
        """Validate a step; return the function that takes it, or None if kernels can't take it.

        Args:
            gradients: One entry per parameter; None where there is no gradient.
            state: The optimizer's state.
            params: The parameters.
        """
        if torch.compiler.is_compiling() or transforming():
            return None
        try:
            commit = self._at_once(gradients, state, params)
            if commit is not None:
                return commit
            found = read_step(self._spec, gradients, state, params, apply=True)
            return None if found is None else found.prepare()
        except Mismatch:
            return None

    def set_lr(self, lr: float) -> None:
        """Take another learning rate, where it was a number before."""
        self._spec = self._spec.with_lr(lr)
        for launch in self._launches:
            launch.kernel.hyper = self._spec.hyper

    def _at_once(
        self, gradients: list[Maybe], state: OptState, params: list[torch.Tensor]
    ) -> Commit | None:
        if not HAS_TABLE or dispatching() or forward_mode():
            return None
        parts = self._spec.read(state)
        trees, steps, seen, numbers = parts
        if steps is not None and (steps.dtype != torch.int64 or steps.shape != (len(params),)):
            return None
        if numbers and not (
            fit_kernels(numbers, len(params)) and not any([x.requires_grad for x in numbers])
        ):
            return None
        rows: list[list[Any]] = [gradients, params, *trees]
        if not self._found(rows):
            self._launches = _launches(self._spec, params)
            if not self._found(rows):
                return None
        if any([gradient is None for gradient in gradients]):
            present = [leaf for leaf, gradient in enumerate(gradients) if gradient is not None]
            rows = [[row[leaf] for leaf in present] for row in rows]
        tensors: list[torch.Tensor] = [*chain.from_iterable(rows)]
        if any(map(torch.Tensor.is_neg, tensors)):
            return None
        written = tensors[len(rows[0]) :]
        lr = rate_of(self._spec, parts)
        rates = [None if lr is None else launch.rate(lr) for launch in self._launches]
        number: Maybe = None
        new_numbers: Sequence[torch.Tensor] = ()
        if numbers and steps is not None:
            number = numbers[0]
            new_numbers = next_numbers(self._spec, parts, next_steps(steps, gradients), gradients)

        def commit() -> None:
            if steps is not None:
                count_steps(steps, gradients)
            if seen is not None:
                seen.add_(1)
            increment_versions(written)
            for launch, rate in zip(self._launches, rates):
                launch.run(rate, steps, number)
            for old, new in zip(numbers, new_numbers):
                old.copy_(new)

        return commit

    def _found(self, rows: list[list[Any]]) -> bool:
        """Find out where everything lies; tell whether all launches can take it."""
        return bool(self._launches) and all([launch.read(rows) for launch in self._launches])


class _Launch:
    """The leaves that go into one launch: one dtype, one device."""

    def __init__(
        self, spec: Spec, dtype: torch.dtype, device: torch.device, leaves: Sequence[int]
    ) -> None:
        self.device = device
        self._rule = spec.rule
        self._present = 0
        self._leaves = leaves
        self.kernel = C.InPlace(
            RULES[spec.rule].number,
            DTYPES[dtype],
            device.type == 'cpu',
            device.index or 0,
            spec.hyper,
            leaves,
        )

    def read(self, rows: list[list[Any]]) -> bool:
        """Find out where everything lies; tell whether one launch can take it."""
        self._present = self.kernel.read(PLAIN, rows)
        return self._present >= 0

    def rate(self, lr: torch.Tensor) -> torch.Tensor:
        """Return the learning rate of these leaves on their device."""
        return rate_on(self.device, rate_at(lr, self._leaves), len(self._leaves))

    def run(self, rate: Maybe, steps: Maybe, numbers: Maybe) -> None:
        """Write what :meth:`read` has found."""
        if self._present == 0:
            return
        # These names keep what they are in alive until the kernel has been launched.
        if steps is not None:
            steps = vector_on(self.device, steps)
        if numbers is not None:
            numbers = vector_on(self.device, numbers)
        self.kernel.take(address(steps), address(numbers), address(rate), stride_of(rate))
        kernels.launch_in_place(self._rule, self.kernel, self.device)


def _launches(spec: Spec, params: Sequence[Any]) -> list[_Launch]:
    """Return one launch per dtype and device; none if no kernel takes one of them."""
    groups = by_kind(params, range(len(params)))
    if not all([kernel_exists(dtype, device) for dtype, device in groups]):
        return []
    return [_Launch(spec, dtype, device, leaves) for (dtype, device), leaves in groups.items()]
