"""The forward pass of a checkpointed loop: from its beginning, or from where it was interrupted."""

from __future__ import annotations

import copy

import torch

from torchopt.unrolling.context.generators import require_no_draws
from torchopt.unrolling.context.random_state import RandomState
from torchopt.unrolling.context.reachable import captured_state
from torchopt.unrolling.context.surroundings import Surroundings
from torchopt.unrolling.inner_gradients.cache import GradientCache
from torchopt.unrolling.leaves import Leaves
from torchopt.unrolling.loop import Loop
from torchopt.unrolling.steps.call import StepResult
from torchopt.unrolling.steps.checkpoint import Checkpoint
from torchopt.unrolling.storage.base import End, Resumed
from torchopt.unrolling.storage.identity import Circumstances
from torchopt.unrolling.storage.tape import Tape
from torchopt.unrolling.strategies.record import Record, Schedule
from torchopt.unrolling.sweep import Start, Sweep, stacked, sweep


def run_keeping_nothing(record: Record, loop: Loop, tensors: list[torch.Tensor]) -> Sweep:
    """Run all steps for their results alone."""
    record.engine.begin(loop, (part for _, part in captured_state(loop.step)))
    random: RandomState | None = None

    def advance(number: int, carry: Leaves, x: Leaves) -> StepResult:
        nonlocal random
        checkpoint = Checkpoint.capture(number, carry, tensors, random)
        random = checkpoint.random
        return record.engine.run(loop, checkpoint, x)

    return sweep(loop, advance)


def run_keeping_checkpoints(
    record: Record, loop: Loop, tensors: list[torch.Tensor], needed: tuple[bool, ...]
) -> Sweep:
    """Run all steps, and keep what the backward pass needs."""
    schedule, order = record.schedule, record.schedule.gradient_order
    surroundings = record.surroundings = Surroundings(loop.step, loop.consts, loop.data_fn)
    record.engine.begin(loop, surroundings.modules)
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
        with require_no_draws(loop.step, loop.consts, tensors, loop.data_fn) as excuse:
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
    record: Record, loop: Loop, resumed: Resumed | None, tape: Tape, tensors: list[torch.Tensor]
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
        if not record.engine.is_direct(number, backward=False):
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
    record: Record, loop: Loop, resumed: Resumed, end: End, tensors: list[torch.Tensor]
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
            result = record.engine.run(loop, first, loop.rows()(0))
        record.surroundings.require_not_written(loop.first)
        ys = stacked(record.journal.earlier_ys(end.taken, first, result))
        structure = result.y_structure
    attributes.resume(resumed.attributes, end.taken)
    end.random.restore()
    return Sweep(end.carry, ys, structure, end.taken)
