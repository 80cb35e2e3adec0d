"""The checkpoints of all steps, from the last to the first, where only some were kept."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from torchopt.unrolling.steps.checkpoint import Checkpoint
from torchopt.unrolling.storage.tape import Tape
from torchopt.unrolling.strategies import revolve

Advance = Callable[[Checkpoint], Checkpoint]
"""Runs a step without a graph; returns the next checkpoint."""


def reversed_checkpoints(
    tape: Tape, end: int, count: int, advance: Advance
) -> Iterator[Checkpoint]:
    """Yield the checkpoints from step ``end - 1`` to step 0.

    Args:
        tape: What was kept, from step 0 on; emptied on the way, so that carries are freed early.
        end: Number of steps.
        count: How many checkpoints may be kept at a time.
        advance: What finds the others.

    Raises:
        RuntimeError: the checkpoint of step 0 is missing.
    """
    if end and not (tape.numbers and tape.numbers[0] == 0):
        raise RuntimeError(
            'the carry before the first step of unroll is missing, such as from the folder of Disk:'
            ' run it again, in an empty folder'
        )
    while tape.numbers:
        length = end - tape.numbers[-1]
        if length == 1:
            end -= 1
            yield tape.pop()
            continue
        # A run that goes on after a kill may find more than it would have kept.
        free = max(count - len(tape.numbers), 0)
        checkpoint = tape.top()
        for _ in range(revolve.split(length, free + 1)):
            checkpoint = advance(checkpoint)
        if checkpoint.number < end - 1:
            tape.push(checkpoint)
            del checkpoint
        else:
            end -= 1
            yield checkpoint
            del checkpoint
