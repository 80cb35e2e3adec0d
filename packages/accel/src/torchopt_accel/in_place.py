"""Steps in place, one after the other: one look at all tensors, one launch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from torchopt.authoring.shards import PLAIN
from torchopt.authoring.steps import count_steps
from torchopt.authoring.torch_internals import transforming
from torchopt.typing import OptState
from torchopt_accel import kernels
from torchopt_accel.internals import dispatching, forward_mode, increment_versions
from torchopt_accel.kernels import DTYPES, RULES, Maybe
from torchopt_accel.platform import C, runs_on
from torchopt_accel.reading import rate_on, steps_on
from torchopt_accel.roles import Mismatch
from torchopt_accel.specs import Spec
from torchopt_accel.step import by_kind, rate_of, read_step

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

    def _at_once(
        self, gradients: list[Maybe], state: OptState, params: list[torch.Tensor]
    ) -> Commit | None:
        if dispatching() or forward_mode():
            return None
        trees, steps, seen = self._spec.read(state)
        rows = [gradients, params, *trees]
        if steps is not None and steps.shape != (len(params),):
            return None
        if not self._read(rows):
            self._launches = _grouped(self._spec, params)
            if not self._read(rows):
                return None
        written = _written(rows)
        if any(map(torch.Tensor.is_neg, written)) or ...:
            return None
        rate = rate_of(self._spec, seen)
        rates = [rate_on(launch.device, rate, len(params)) for launch in self._launches]

        def commit() -> None:
            if steps is not None:
                count_steps(steps, gradients)
            if seen is not None:
                seen.add_(1)
            increment_versions(written)
            for launch, lr in zip(self._launches, rates):
                launch.run(steps, lr)

        return commit
