"""The backward pass of a checkpointed loop: one step at a time, or as one graph."""

from __future__ import annotations

from contextlib import nullcontext

import torch

from torchopt.unrolling.leaves import Leaves, is_differentiable, tensors_of
from torchopt.unrolling.loop import Loop
from torchopt.unrolling.steps.call import StepResult, call_step
from torchopt.unrolling.steps.checkpoint import Checkpoint
from torchopt.unrolling.steps.comparison import Outcome, comparable
from torchopt.unrolling.steps.eager import Eager
from torchopt.unrolling.storage.tape import Tape
from torchopt.unrolling.strategies.record import Record
from torchopt.unrolling.sweep import sweep
from torchopt.unrolling.vjp import Cotangents, vjp


def vjp_step_by_step(
    record: Record,
    loop: Loop,
    tape: Tape,
    needed: tuple[bool, ...],
    cotangents: Cotangents,
) -> Cotangents:
    """Return the cotangents of the loop's inputs, from one step's vjp after the other."""
    engine, row = record.engine, loop.rows()
    engine.turn_back(observed=record.observer is not None)
    inputs = loop.tensors()
    carry_end = len(tensors_of(loop.carry))
    xs_end = carry_end + len(tensors_of(loop.xs))
    # Data by number are arguments of a step, but no inputs of the loop.
    constants = [False] * (0 if loop.data is None else loop.data.count)
    # The first step needs what the caller needs; every other the cotangents of its whole carry.
    needed_first = [*needed[:carry_end], *constants, *needed[carry_end:]]
    needed_later = [*map(is_differentiable, inputs[:carry_end]), *needed_first[carry_end:]]

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
    is_compared = record.schedule.keeps_all and engine.compares
    compared = comparable(loop.carry) if is_compared else []
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
        tape.retain(sorted({*tape.numbers} & {*kept}))
    for checkpoint in record.schedule.reverse(tape, taken, advance):
        number = checkpoint.number
        if checkpoint.is_modified():
            raise RuntimeError(
                f'the carry before step {loop.first + number} of unroll was modified by an '
                'in-place operation after the forward pass, and the backward pass needs it: '
                'modify a clone'
            )
        if record.observer is not None:
            record.observer(number, carry_cotangents)
        y_cotangents = [None if stacked is None else stacked[number] for stacked in ys_cotangents]
        if changed:
            # One run more, of the step itself: a compiled one would not show what it uses.
            checkpoint.random.restore()
            with surroundings.replayed(number, changed):
                Eager().run(loop, checkpoint._replace(cache=None), row(number))
        checkpoint.random.restore()
        is_direct = engine.is_direct(number, backward=True)
        with nullcontext() if is_direct else surroundings.replayed(number):
            found = engine.vjp(
                loop,
                checkpoint._replace(outcome=outcome),
                row(number),
                [*carry_cotangents, *y_cotangents],
                needed_later if number else needed_first,
            )
        found = [*found[:carry_end], *found[carry_end + len(constants) :]]
        outcome = Outcome.of(compared, checkpoint.carry) if compared else None
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


def vjp_with_graph(
    record: Record, inputs: list[torch.Tensor], needed: tuple[bool, ...], cotangents: Cotangents
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
            if changed and loop.data is not None:
                loop.data.leaves(loop.first + number)  # must not use them either
            return call_step(loop, number, [*carry, *x, *loop.consts])

    result = sweep(loop, advance)
    wanted = [tensor for tensor, need in zip(fresh, needed) if need]
    outputs = tensors_of([*result.carry, *result.ys])
    found = iter(vjp(outputs, cotangents, wanted, create_graph=True))
    return [next(found) if need else None for need in needed]
