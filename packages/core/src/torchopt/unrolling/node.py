"""The whole loop as one autograd node, whose backward pass differentiates a step at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch

from torchopt import pytree
from torchopt.unrolling.closures import captured_generators
from torchopt.unrolling.derivatives import Cotangents, partial_derivatives
from torchopt.unrolling.engine import (
    Engine,
    Point,
    Pulled,
    wanted_of,
)
from torchopt.unrolling.inner_gradient import Tape
from torchopt.unrolling.internals import retains_graph
from torchopt.unrolling.leaves import Leaves, fill, frame_of, tensors_of, versions
from torchopt.unrolling.loop import Loop, Sweep, hollow, rows_of, sweep, tensor_inputs, with_inputs
from torchopt.unrolling.random_state import Autocast, RandomState, preserved
from torchopt.unrolling.stored import stored_sweep


class Memory(Protocol):
    """Which points of the loop are kept, and how the others are found again.

    Attributes:
        name: What the user calls it.
        differentiable_again: Whether the backward pass may be differentiated.
    """

    name: str
    differentiable_again: bool

    def new_tape(self) -> Tape | None:
        """Return what the inner gradients of one step are to be kept on, if they are."""
        ...

    def keep(self, points: list[Point], point: Point) -> None:
        """Add ``point`` to the ``points`` that are kept, or drop it, or drop some of them."""
        ...

    def reverse(
        self, points: list[Point], taken: int, advance: Callable[[Point], Point]
    ) -> Iterator[Point]:
        """Yield the points of all ``taken`` steps, from the last to the first.

        ``points`` may be emptied on the way.
        """
        ...


def run_as_node(loop: Loop, memory: Memory, engine: Engine) -> tuple[Any, Any]:
    """Run ``loop`` with the backward pass that ``memory`` pays for."""
    inputs = tensor_inputs(loop)
    run = _Run(hollow(loop), memory, engine, Autocast.capture(inputs))
    apply: Any = _Unrolled.apply
    supply = iter(apply(run, loop, *inputs))
    result = run.result
    return result._replace(carry=fill(result.carry, supply), ys=fill(result.ys, supply)).unflatten(
        loop
    )


@dataclass
class _Run:
    """What the forward pass hands on beside tensors, which autograd keeps."""

    loop: Loop
    memory: Memory
    engine: Engine
    autocast: Autocast
    points: list[Point] | None = field(default_factory=list)
    result: Sweep = field(init=False)

    def take_points(self) -> list[Point]:
        """Return the points; unless the graph is retained, they are nowhere else any more.

        So that each can be freed as soon as the backward pass is through with it.
        """
        if self.points is None:
            raise RuntimeError(
                'trying to go backward through unroll a second time, or after an error: pass '
                'retain_graph=True the first time, or run it again'
            )
        if retains_graph():
            return list(self.points)
        points, self.points = self.points, None
        return points


class _Unrolled(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, run: _Run, loop: Loop, *inputs: torch.Tensor) -> tuple[Any, ...]:
        detached = [tensor.detach() for tensor in inputs]
        loop = with_inputs(run.loop, detached)._replace(until=loop.until, progress=loop.progress)
        differentiated = any(ctx.needs_input_grad)
        points: list[Point] = []
        current: list[Point] = []
        x = rows_of(loop.xs)

        def visit(number: int, carry: Leaves) -> None:
            last = current.pop().random if current else None
            tape = run.memory.new_tape() if differentiated else None
            random = RandomState.capture(detached, last)
            current.append(Point(number, carry, random, versions(carry), tape))
            if differentiated:
                run.memory.keep(points, current[-1])

        def advance(number: int, carry: Leaves) -> tuple[Leaves, Leaves, pytree.PyTreeSpec]:
            return run.engine.advance(loop, current[-1], x(number))

        with run.autocast.replayed(), require_no_draws(loop if differentiated else None):
            result = sweep(loop, advance, visit)
        run.result = result._replace(carry=frame_of(result.carry), ys=frame_of(result.ys))
        run.points = points
        ctx.run = run
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*inputs)
        return tuple(tensors_of([*result.carry, *result.ys]))

    @staticmethod
    def backward(ctx: Any, *cotangents: torch.Tensor | None) -> tuple[Any, ...]:
        run: _Run = ctx.run
        inputs = list(ctx.saved_tensors)
        needed = ctx.needs_input_grad[2:]
        with preserved(inputs), run.autocast.replayed():
            if torch.is_grad_enabled():
                return None, None, *_differentiable_pull(run, inputs, needed, cotangents)
            loop = with_inputs(run.loop, [tensor.detach() for tensor in inputs])
            return None, None, *_pull_through(run, loop, needed, cotangents)


@contextmanager
def require_no_draws(loop: Loop | None) -> Iterator[None]:
    """Raise if random numbers were drawn in the block that would be others when drawn again.

    Raises:
        RuntimeError: ``loop``, if given, has drawn from a generator that it sees.
    """
    sources: list[tuple[str, torch.Generator]] = []
    if loop is not None:
        sources.extend(captured_generators(loop.step))
        sources.extend(
            ('consts', leaf) for leaf in loop.consts if isinstance(leaf, torch.Generator)
        )
    before = [generator.get_state() for _, generator in sources]
    yield
    for (name, generator), state in zip(sources, before):
        if not torch.equal(state, generator.get_state()):
            raise RuntimeError(
                f'the step draws from a torch.Generator of its own ({name}), which is not set back '
                "when the step is run again: draw from torch's own generators (torch.manual_seed), "
                'pass the numbers through xs, or use backward=Stored()'
            )


def _pull_through(
    run: _Run, loop: Loop, needed: tuple[bool, ...], cotangents: Cotangents
) -> Cotangents:
    """Pull the cotangents of the outputs through one step after the other."""
    points = run.take_points()
    of_carry, of_x, of_consts = _grouped(loop, needed)
    x = rows_of(loop.xs)
    supply = iter(cotangents)
    carry_bar: Cotangents = [next(supply) for _ in tensors_of(loop.carry)]
    y_bars = list(supply)
    x_bars = [
        torch.zeros_like(tensor) if need else None
        for tensor, need in zip(tensors_of(loop.xs), of_x)
    ]
    consts_bar: Cotangents = [None] * len(of_consts)

    def advance(point: Point) -> Point:
        point.random.restore()
        carry, _, _ = run.engine.advance(loop, point, x(point.number))
        random = RandomState.capture(tensor_inputs(loop), point.random)
        return Point(point.number + 1, carry, random, versions(carry))

    for point in run.memory.reverse(points, run.result.taken, advance):
        if versions(point.carry) != point.versions:
            raise RuntimeError(
                f'the carry before {loop.called(point.number)} of unroll was modified by an '
                'in-place operation after the forward pass, whose backward pass needs it: '
                'modify a clone'
            )
        y_bar = [bar if bar is None else bar[point.number] for bar in y_bars]
        wanted = Pulled(
            _where(of_carry, loop.carry) if point.number == 0 else wanted_of(point.carry),
            _where(of_x, loop.xs),
            _where(of_consts, loop.consts),
        )
        point.random.restore()
        pulled = run.engine.pull(loop, point, x(point.number), carry_bar, y_bar, wanted)
        carry_bar = pulled.carry
        for total, bar in zip(x_bars, pulled.x):
            if total is not None and bar is not None:
                total[point.number] = bar
        consts_bar = [_sum(total, bar) for total, bar in zip(consts_bar, pulled.consts)]
    return [*carry_bar, *x_bars, *consts_bar]


def _differentiable_pull(
    run: _Run, inputs: list[torch.Tensor], needed: tuple[bool, ...], cotangents: Cotangents
) -> Cotangents:
    """Do the same through the plain graph, so that it can be differentiated."""
    if not run.memory.differentiable_again:
        raise RuntimeError(
            f'the backward pass of unroll(..., backward={run.memory.name}(...)) cannot '
            'be differentiated again (create_graph=True): use Stored() or Recomputed()'
        )
    # Views, since one input may have been computed from another.
    fresh = [tensor.view_as(tensor) if need else tensor for tensor, need in zip(inputs, needed)]
    if run.points:
        run.points[0].random.restore()
    loop = with_inputs(run.loop, fresh)._replace(length=run.result.taken)
    result = stored_sweep(loop)
    outputs = tensors_of([*result.carry, *result.ys])
    wanted = [tensor for tensor, need in zip(fresh, needed) if need]
    found = iter(partial_derivatives(outputs, cotangents, wanted, create_graph=True))
    return [next(found) if need else None for need in needed]


def _grouped(loop: Loop, needed: tuple[bool, ...]) -> list[list[bool]]:
    supply = iter(needed)
    return [[next(supply) for _ in tensors_of(part)] for part in (loop.carry, loop.xs, loop.consts)]


def _where(mask: list[bool], leaves: Leaves) -> Cotangents:
    return [tensor if need else None for need, tensor in zip(mask, tensors_of(leaves))]


def _sum(total: torch.Tensor | None, bar: torch.Tensor | None) -> torch.Tensor | None:
    return bar if total is None else total if bar is None else total + bar
