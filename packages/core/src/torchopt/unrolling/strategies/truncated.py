"""The gradient of the last steps only."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch

from torchopt import pytree
from torchopt.authoring.step_marks import mark_cut
from torchopt.unrolling.context.generators import require_no_draws
from torchopt.unrolling.context.random_state import RandomState
from torchopt.unrolling.leaves import Leaves, detached, flatten, map_tensors
from torchopt.unrolling.loop import Loop
from torchopt.unrolling.steps.call import (
    StepResult,
    call_step,
    explaining_missing_graph,
    require_alike,
)
from torchopt.unrolling.strategies.base import Strategy, run_strategy
from torchopt.unrolling.strategies.stored import Stored
from torchopt.unrolling.sweep import Sweep, sweep


@dataclass(frozen=True)
class Truncated(Strategy):
    """Differentiate through the last ``steps`` steps; what comes before is a constant.

    A biased gradient in bounded memory, as in truncated backpropagation through time (Williams
    and Peng, *An Efficient Gradient-Based Algorithm for On-Line Training of Recurrent Network
    Trajectories*, Neural Computation 2, 1990). The steps before run without a graph and cost no
    memory. With ``until``, as many carries are kept until the end is known, and the last steps are
    then run once more, with their graph.

    Attributes:
        steps: Number of steps, at least 1; with all steps or more the gradient is the full one.
        backward: How the backward pass through them is paid for.

    Raises:
        ValueError: ``steps`` is less than 1.
    """

    # The steps without a graph are traceable; the others are the business of `backward`.
    traceable: ClassVar[bool] = True

    steps: int
    backward: Strategy = field(default_factory=Stored)

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f'steps must be at least 1, got {self.steps}')

    def run(self, loop: Loop) -> tuple[Any, Any]:
        """Run ``loop``; return the trees ``(carry, ys)``."""
        if loop.length is None or loop.until is not None:
            return self._run_again(loop)
        prefix = max(loop.length - self.steps, 0)
        if not prefix:
            return run_strategy(self.backward, loop)
        head = _without_graph(_part(loop, 0, prefix))
        tail = _part(loop, prefix, loop.length)._replace(carry=head.carry)
        carry, ys = run_strategy(self.backward, tail)
        mark_cut(flatten(carry)[0], prefix)
        return carry, _joined(head, ys, loop.first + prefix)

    def _run_again(self, loop: Loop) -> tuple[Any, Any]:
        window: deque[tuple[Leaves, RandomState]] = deque(maxlen=self.steps)
        inputs = loop.tensors()

        def remember(carry: Leaves) -> None:
            last = window[-1][1] if window else None
            window.append((carry, RandomState.capture(inputs, last)))

        with require_no_draws(loop.step, loop.consts, inputs, loop.data_fn) as excuse:
            watched = loop._replace(until=excuse(loop.until), progress=excuse(loop.progress))
            head = _without_graph(watched, remember)
        if not window:
            return head._replace(carry=loop.carry).unflatten(loop)
        prefix = head.taken - len(window)
        carry, random = window[0]
        window.clear()
        tail = _part(loop, prefix, head.taken)._replace(
            carry=carry if prefix else loop.carry, until=None, progress=None
        )
        random.restore()
        final, ys = run_strategy(self.backward, tail)
        if prefix:
            mark_cut(flatten(final)[0], prefix)
        head_ys = [None if y is None else y[:prefix] for y in head.ys]
        head = head._replace(ys=head_ys, taken=prefix)
        return final, _joined(head, ys, loop.first + prefix)


def _part(loop: Loop, first: int, end: int) -> Loop:
    """Return the steps of ``loop`` from ``first`` to before ``end``."""
    xs = [None if x is None else x[first:end] for x in loop.xs]
    return loop._replace(xs=xs, length=end - first, first=loop.first + first)


def _without_graph(loop: Loop, visit: Callable[[Leaves], object] | None = None) -> Sweep:
    """Run ``loop`` on constants; ``visit`` is called with the carry before every step."""
    loop = loop.as_constant()

    def advance(number: int, carry: Leaves, x: Leaves) -> StepResult:
        if visit is not None:
            visit(carry)
        # Grad mode is on, as in the last steps, for steps that differentiate on their own.
        with torch.enable_grad(), explaining_missing_graph(loop.first + number):
            result = call_step(loop, number, [*carry, *x, *loop.consts])
        return StepResult(detached(result.carry), detached(result.y), result.y_structure)

    return sweep(loop, advance)


def _joined(head: Sweep, tail: Any, step: int) -> Any:
    """Return the tree of all ``y``, given the tree of those that begin at ``step``."""
    leaves, structure = flatten(tail)
    assert head.structure is not None
    if head.taken:
        first, following = (map_tensors(lambda y: y[0], ys) for ys in (head.ys, leaves))
        require_alike(first, head.structure, following, structure, name='y', step=step)
    joined = [None if b is None else torch.cat([a, b]) for a, b in zip(head.ys, leaves)]
    return pytree.tree_unflatten(structure, joined)
