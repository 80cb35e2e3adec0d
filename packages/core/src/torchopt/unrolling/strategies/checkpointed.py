"""The loop as one autograd node, whose backward pass differentiates one step at a time."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch

from torchopt.authoring.torch_internals import retains_graph
from torchopt.unrolling.context.autocast import Autocast
from torchopt.unrolling.context.generators import require_no_draws
from torchopt.unrolling.context.random_state import RandomState, preserved
from torchopt.unrolling.context.surroundings import Surroundings
from torchopt.unrolling.inner_gradients.cache import GradientCache
from torchopt.unrolling.inner_gradients.gradient_vjp import Order
from torchopt.unrolling.leaves import Leaves, fill, is_differentiable, template_of, tensors_of
from torchopt.unrolling.loop import Loop
from torchopt.unrolling.steps.call import StepResult, call_step
from torchopt.unrolling.steps.checkpoint import Checkpoint
from torchopt.unrolling.steps.comparison import Outcome, comparable
from torchopt.unrolling.steps.eager import Eager
from torchopt.unrolling.steps.engine import Engine
from torchopt.unrolling.storage.base import End, Journal, Resumed, Storage
from torchopt.unrolling.storage.identity import Circumstances
from torchopt.unrolling.storage.tape import Tape
from torchopt.unrolling.strategies.reversal import Advance
from torchopt.unrolling.sweep import Start, Sweep, rows_of, stacked, sweep
from torchopt.unrolling.vjp import Cotangents, vjp


class Schedule(Protocol):
    """Which checkpoints are kept, and how the backward pass finds the others.

    Attributes:
        name: The public name of the strategy.
        differentiable_again: Whether the backward pass may be differentiated.
        gradient_order: How kept inner gradients are differentiated; None: they are not kept.
        keeps_all: Whether the next carry of every step was kept, so that a second run of the step
            can be compared with it.
    """

    name: str
    differentiable_again: bool
    gradient_order: Order | None
    keeps_all: bool

    def keep(self, numbers: list[int], number: int) -> None:
        """Add ``number`` to the ``numbers`` of the checkpoints kept, or drop some of them."""
        ...

    def reverse(self, tape: Tape, taken: int, advance: Advance) -> Iterator[Checkpoint]:
        """Yield the checkpoints of all ``taken`` steps, from the last to the first.

        Args:
            tape: What was kept; emptied on the way, so that carries are freed early.
            taken: Number of steps.
            advance: Runs a step without a graph; returns the next checkpoint.
        """
        ...


def run_checkpointed(
    loop: Loop, schedule: Schedule, engine: Engine, storage: Storage, options: str
) -> tuple[Any, Any]:
    """Run ``loop`` as one node; return the trees ``(carry, ys)``.

    Args:
        loop: What to run.
        schedule: Which checkpoints are kept.
        engine: What runs and differentiates a step.
        storage: Where checkpoints are kept.
        options: The strategy and its options, by which a run is recognised.
    """
    inputs = loop.tensors()
    record = _Record(loop.template(), schedule, engine, storage, options, Autocast.capture(inputs))
    apply: Any = _CheckpointedLoop.apply
    supply = iter(apply(record, loop, *inputs))
    result = record.result
    carry, ys = fill(result.carry, supply), fill(result.ys, supply)
    return result._replace(carry=carry, ys=ys).unflatten(loop)


@dataclass
class _Record:
    """What the forward pass leaves for the backward pass, beside the tensors that autograd saves.

    Attributes:
        template: The loop without its tensors.
        schedule: Which checkpoints are kept.
        engine: What runs and differentiates a step.
        storage: Where checkpoints are kept.
        options: The strategy and its options.
        autocast: Settings of the forward pass.
        tape: What was kept; None once the backward pass has taken it.
        journal: What is written to go on from.
        random: The generators before the first step.
        result: Outcome of the forward pass, with placeholders for the tensors.
        surroundings: Modules and tensors that the step sees, if a backward pass may follow.
    """

    template: Loop
    schedule: Schedule
    engine: Engine
    storage: Storage
    options: str
    autocast: Autocast
    tape: Tape | None = None
    journal: Journal = field(default_factory=Journal)
    random: RandomState | None = None
    result: Sweep = field(init=False)
    surroundings: Surroundings = field(init=False)

    def take_tape(self) -> Tape:
        """Return the checkpoints, and give up this reference unless the graph is retained.

        Each can then be freed as soon as the backward pass is done with it.
        """
        if self.tape is None:
            raise RuntimeError(
                'trying to go backward through unroll a second time, or after an error: pass '
                'retain_graph=True the first time, or run it again'
            )
        if retains_graph():
            return self.tape.copy()
        tape, self.tape = self.tape, None
        return tape


class _CheckpointedLoop(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, record: _Record, loop: Loop, *inputs: torch.Tensor) -> tuple[Any, ...]:
        tensors = [tensor.detach() for tensor in inputs]
        loop = record.template.filled(tensors)._replace(until=loop.until, progress=loop.progress)
        needed = ctx.needs_input_grad[2:]
        with record.autocast.applied():
            if any(needed):
                result = _keeping_checkpoints(record, loop, tensors, needed)
            else:
                result = _keeping_nothing(record, loop, tensors)
        record.result = result._replace(carry=template_of(result.carry), ys=template_of(result.ys))
        ctx.record = record
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*inputs)
        return tuple(tensors_of([*result.carry, *result.ys]))

    @staticmethod
    def backward(ctx: Any, *cotangents: torch.Tensor | None) -> tuple[Any, ...]:
        record: _Record = ctx.record
        inputs = list(ctx.saved_tensors)
        needed = ctx.needs_input_grad[2:]
        with preserved(inputs), record.autocast.applied():
            if torch.is_grad_enabled():
                with_graph = _vjp_with_graph(record, inputs, needed, cotangents)
                if record.tape is not None and not retains_graph():
                    record.take_tape()
                    record.journal.close(is_retained=False)
                return None, None, *with_graph
            loop = record.template.filled([tensor.detach() for tensor in inputs])
            tape, is_retained = record.take_tape(), record.tape is not None
            try:
                found = _vjp_step_by_step(record, loop, tape, needed, cotangents)
                record.journal.close(is_retained=is_retained)
            except BaseException:
                record.journal.release()
                raise
            finally:
                tape.finish()
            return None, None, *found


def _keeping_nothing(record: _Record, loop: Loop, tensors: list[torch.Tensor]) -> Sweep:
    """Run all steps for their results alone."""
    random: RandomState | None = None

    def advance(number: int, carry: Leaves, x: Leaves) -> StepResult:
        nonlocal random
        checkpoint = Checkpoint.capture(number, carry, tensors, random)
        random = checkpoint.random
        return record.engine.run(loop, checkpoint, x)

    return sweep(loop, advance)


def _keeping_checkpoints(
    record: _Record, loop: Loop, tensors: list[torch.Tensor], needed: tuple[bool, ...]
) -> Sweep:
    """Run all steps, and keep what the backward pass needs."""
    schedule, order = record.schedule, record.schedule.gradient_order
    surroundings = record.surroundings = Surroundings(loop.step, loop.consts)
    circumstances = Circumstances(record.options, order, needed, record.autocast, surroundings)
    store, journal = record.storage.open(loop, circumstances)
    try:
        resumed = journal.resume(lambda number: _kept_before(copy.copy(schedule), number))
        record.tape = tape = Tape(store, resumed.kept if resumed is not None else ())
        record.journal = journal
        if resumed is not None:
            record.random = resumed.random
            if resumed.end is not None:
                return _ended_before(record, loop, resumed, resumed.end, tensors)
        with require_no_draws(loop.step, loop.consts, tensors) as excuse:
            loop = loop._replace(until=excuse(loop.until), progress=excuse(loop.progress))
            result = _run_all(record, loop, resumed, tape, tensors)
        surroundings.observe(result.taken)
        journal.ended(End(result.taken, result.carry, RandomState.capture(tensors)))
        return result
    except BaseException:
        journal.release()
        raise
    finally:
        store.finish()


def _run_all(
    record: _Record, loop: Loop, resumed: Resumed | None, tape: Tape, tensors: list[torch.Tensor]
) -> Sweep:
    """Run all steps that another process has not run before."""
    schedule, journal, surroundings = record.schedule, record.journal, record.surroundings
    order = schedule.gradient_order
    random: RandomState | None = None
    start = Start(0, loop.carry, [])
    if resumed is not None:
        again = resumed.checkpoint
        start = Start(again.number, again.carry, [])
        _kept_before(schedule, again.number)
        surroundings.attributes.resume(resumed.attributes, again.number)
        again.random.restore()

    def advance(number: int, carry: Leaves, x: Leaves) -> StepResult:
        nonlocal random
        cache = None if order is None else GradientCache(order)
        checkpoint = Checkpoint.capture(number, carry, tensors, random, cache)
        random = checkpoint.random
        if record.random is None:
            record.random = random
        is_kept = tape.offer(checkpoint, schedule.keep)
        surroundings.observe(number)
        result = record.engine.run(loop, checkpoint, x)
        if number == start.number:
            surroundings.require_not_written(loop.first + number)
            if resumed is not None:
                start.ys.extend(journal.earlier_ys(number, checkpoint, result))
        if is_kept:
            tape.settle(checkpoint, result)
        journal.stepped(checkpoint, result, is_kept=is_kept)
        return result

    return sweep(loop, advance, start)


def _kept_before(schedule: Schedule, number: int) -> list[int]:
    """Let ``schedule`` see all steps before ``number``; return which it keeps."""
    kept: list[int] = []
    for earlier in range(number):
        schedule.keep(kept, earlier)
    return kept


def _ended_before(
    record: _Record, loop: Loop, resumed: Resumed, end: End, tensors: list[torch.Tensor]
) -> Sweep:
    """Return the result of a forward pass that has ended in another process."""
    attributes = record.surroundings.attributes
    ys: Leaves = []
    structure = None
    if end.taken:
        # Files have no trees: one step shows what it returns, and that it is still the same step.
        order = record.schedule.gradient_order
        first = resumed.checkpoint._replace(cache=None if order is None else GradientCache(order))
        first.random.restore()
        with attributes.replayed(0):
            result = record.engine.run(loop, first, rows_of(loop.xs)(0))
        record.surroundings.require_not_written(loop.first)
        ys = stacked(record.journal.earlier_ys(end.taken, first, result))
        structure = result.y_structure
    attributes.resume(resumed.attributes, end.taken)
    end.random.restore()
    return Sweep(end.carry, ys, structure, end.taken)


def _vjp_step_by_step(
    record: _Record,
    loop: Loop,
    tape: Tape,
    needed: tuple[bool, ...],
    cotangents: Cotangents,
) -> Cotangents:
    """Return the cotangents of the loop's inputs, from one step's vjp after the other."""
    engine, row = record.engine, rows_of(loop.xs)
    inputs = loop.tensors()
    carry_end = len(tensors_of(loop.carry))
    xs_end = carry_end + len(tensors_of(loop.xs))
    # The first step needs what the caller needs; every other the cotangents of its whole carry.
    needed_later = (*map(is_differentiable, inputs[:carry_end]), *needed[carry_end:])

    carry_cotangents, ys_cotangents = cotangents[:carry_end], cotangents[carry_end:]
    # Made from a cotangent, because with is_grads_batched=True torch maps over all of them.
    like = next(tensor for tensor in (*cotangents, *inputs) if tensor is not None)
    xs_cotangents = [
        like.new_zeros(tensor.shape, dtype=tensor.dtype, device=tensor.device) if need else None
        for tensor, need in zip(inputs[carry_end:xs_end], needed[carry_end:xs_end])
    ]
    consts_cotangents: Cotangents = [None] * (len(inputs) - xs_end)
    surroundings = record.surroundings
    changed = surroundings.changes()
    compared = comparable(loop.carry) if record.schedule.keeps_all else []
    outcome: Outcome | None = None

    def advance(checkpoint: Checkpoint) -> Checkpoint:
        checkpoint.random.restore()
        number = checkpoint.number
        with surroundings.replayed(number):
            result = engine.run(loop, checkpoint, row(number))
        return Checkpoint.capture(number + 1, result.carry, inputs, checkpoint.random)

    journal, taken = record.journal, record.result.taken
    returned = journal.go_back(cotangents, xs_cotangents, needed)
    if returned is not None:
        taken, carry_cotangents, consts_cotangents, kept = returned
        tape.retain(number for number in tape.numbers if number in kept)
    for checkpoint in record.schedule.reverse(tape, taken, advance):
        number = checkpoint.number
        if checkpoint.is_modified():
            raise RuntimeError(
                f'the carry before step {loop.first + number} of unroll was modified by an '
                'in-place operation after the forward pass, and the backward pass needs it: '
                'modify a clone'
            )
        y_cotangents = [None if stacked is None else stacked[number] for stacked in ys_cotangents]
        if changed:
            # One run more, of the step itself: a compiled one would not show what it uses.
            checkpoint.random.restore()
            with surroundings.replayed(number, changed):
                Eager().run(loop, checkpoint._replace(cache=None), row(number))
        checkpoint.random.restore()
        with surroundings.replayed(number):
            found = engine.vjp(
                loop,
                checkpoint._replace(outcome=outcome),
                row(number),
                [*carry_cotangents, *y_cotangents],
                needed_later if number else needed,
            )
        outcome = Outcome.of(compared, checkpoint.carry)
        carry_cotangents = found[:carry_end]
        for total, cotangent in zip(xs_cotangents, found[carry_end:xs_end]):
            if total is not None and cotangent is not None:
                total[number] = cotangent
        consts_cotangents = [
            new if old is None else old if new is None else old + new
            for old, new in zip(consts_cotangents, found[xs_end:])
        ]
        journal.stepped_back(number, carry_cotangents, xs_cotangents, consts_cotangents)
        del checkpoint  # before the next one is found
    return [*carry_cotangents, *xs_cotangents, *consts_cotangents]


def _vjp_with_graph(
    record: _Record, inputs: list[torch.Tensor], needed: tuple[bool, ...], cotangents: Cotangents
) -> Cotangents:
    """Return the same through the plain graph of all steps, so that it can be differentiated."""
    if not record.schedule.differentiable_again:
        raise RuntimeError(
            f'the backward pass of unroll(..., backward={record.schedule.name}(...)) cannot '
            'be differentiated again (create_graph=True): use Stored() or Recomputed()'
        )
    # Views, because one input may have been computed from another.
    fresh = [tensor.view_as(tensor) if need else tensor for tensor, need in zip(inputs, needed)]
    if record.random is not None:
        record.random.restore()
    loop = record.template.filled(fresh)._replace(length=record.result.taken)
    changed = record.surroundings.changes()

    def advance(number: int, carry: Leaves, x: Leaves) -> StepResult:
        with record.surroundings.replayed(number, changed):
            return call_step(loop, number, [*carry, *x, *loop.consts])

    result = sweep(loop, advance)
    wanted = [tensor for tensor, need in zip(fresh, needed) if need]
    outputs = tensors_of([*result.carry, *result.ys])
    found = iter(vjp(outputs, cotangents, wanted, create_graph=True))
    return [next(found) if need else None for need in needed]
