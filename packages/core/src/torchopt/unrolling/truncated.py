"""The gradient of the last steps only."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch

from torchopt import pytree
from torchopt.unrolling.leaves import Leaves, detached, flatten, map_tensors, require_alike
from torchopt.unrolling.loop import Loop, Sweep, rows_of, sweep, tensor_inputs, without_history
from torchopt.unrolling.node import require_no_draws
from torchopt.unrolling.random_state import RandomState
from torchopt.unrolling.stored import Stored
from torchopt.unrolling.strategy import Strategy, run_with


@dataclass(frozen=True)
class Truncated(Strategy):
    """Differentiate through the last ``steps`` steps; what comes before is a constant.

    A biased gradient in bounded memory, as in truncated backpropagation through time (Williams
    and Peng, *An Efficient Gradient-Based Algorithm for On-Line Training of Recurrent Network
    Trajectories*, Neural Computation 2, 1990). The prefix runs without a graph and costs no
    memory. With ``until`` the last carries are kept until the end is known, and the last steps
    are then run once more, with their graph.

    Attributes:
        steps: Number of steps, at least 1; with all steps or more the gradient is the full one.
        backward: How the backward pass through them is paid for.

    Raises:
        ValueError: ``steps`` is less than 1.
    """

    # The prefix is; the rest is the other strategy's.
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
            return run_with(self.backward, loop)
        head = _without_graph(_part(loop, 0, prefix))
        tail = _part(loop, prefix, loop.length)._replace(carry=head.carry)
        carry, ys = run_with(self.backward, tail)
        return carry, _joined(head, ys, loop.called(prefix))

    def _run_again(self, loop: Loop) -> tuple[Any, Any]:
        window: deque[tuple[Leaves, RandomState]] = deque(maxlen=self.steps)
        inputs = tensor_inputs(loop)

        def remember(number: int, carry: Leaves) -> None:
            last = window[-1][1] if window else None
            window.append((carry, RandomState.capture(inputs, last)))

        with require_no_draws(loop):
            head = _without_graph(loop, remember)
        if not window:
            return head._replace(carry=loop.carry).unflatten(loop)
        prefix = head.taken - len(window)
        carry, random = window[0]
        window.clear()
        tail = _part(loop, prefix, head.taken)._replace(
            carry=carry if prefix else loop.carry, until=None, progress=None
        )
        random.restore()
        final, ys = run_with(self.backward, tail)
        before = [None if y is None else y[:prefix] for y in head.ys]
        return final, _joined(head._replace(ys=before, taken=prefix), ys, loop.called(prefix))


def _part(loop: Loop, first: int, end: int) -> Loop:
    """Return the steps of ``loop`` from ``first`` to before ``end``."""
    xs = [None if x is None else x[first:end] for x in loop.xs]
    return loop._replace(xs=xs, length=end - first, first=loop.first + first)


def _without_graph(loop: Loop, visit: Callable[[int, Leaves], object] | None = None) -> Sweep:
    """Run ``loop`` on constants."""
    loop = without_history(loop)
    x = rows_of(loop.xs)

    def advance(number: int, carry: Leaves) -> tuple[Leaves, Leaves, pytree.PyTreeSpec]:
        # With grad mode on, as with the last steps, for steps that differentiate on their own.
        with torch.enable_grad():
            new_carry, y, structure = loop.run_step(number, carry, x(number), loop.consts)
        return detached(new_carry), detached(y), structure

    return sweep(loop, advance, visit)


def _joined(head: Sweep, tail: Any, place: str) -> Any:
    """Return the ``y`` of all steps, of which those of ``tail`` begin at ``place``."""
    leaves, structure = flatten(tail)
    assert head.structure is not None
    if head.taken:
        first, following = (map_tensors(lambda y: y[0], ys) for ys in (head.ys, leaves))
        require_alike(first, head.structure, following, structure, name='y', step=place)
    joined = [None if b is None else torch.cat([a, b]) for a, b in zip(head.ys, leaves)]
    return pytree.tree_unflatten(structure, joined)
