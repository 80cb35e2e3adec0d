"""The loop as one autograd node, whose backward pass differentiates one step at a time."""

from __future__ import annotations

from typing import Any

import torch

from torchopt.authoring.step_marks import mark_loop
from torchopt.authoring.torch_internals import retains_graph
from torchopt.unrolling.context.autocast import Autocast
from torchopt.unrolling.context.random_state import preserved
from torchopt.unrolling.leaves import fill, template_of, tensors_of
from torchopt.unrolling.loop import Loop
from torchopt.unrolling.steps.engine import Engine
from torchopt.unrolling.storage.base import Storage
from torchopt.unrolling.strategies.backward_pass import vjp_step_by_step, vjp_with_graph
from torchopt.unrolling.strategies.forward_pass import run_keeping_checkpoints, run_keeping_nothing
from torchopt.unrolling.strategies.record import Record, Schedule


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
    record = Record(loop.template(), schedule, engine, storage, options, Autocast.capture(inputs))
    apply: Any = _CheckpointedLoop.apply
    outputs = apply(record, loop, *inputs)
    result = record.result
    mark_loop(outputs, schedule.name, result.taken, len(tensors_of(loop.carry)))
    supply = iter(outputs)
    carry, ys = fill(result.carry, supply), fill(result.ys, supply)
    return result._replace(carry=carry, ys=ys).unflatten(loop)


class _CheckpointedLoop(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, record: Record, loop: Loop, *inputs: torch.Tensor) -> tuple[Any, ...]:
        tensors = [tensor.detach() for tensor in inputs]
        loop = record.template.filled(tensors)._replace(until=loop.until, progress=loop.progress)
        needed = ctx.needs_input_grad[2:]
        with record.autocast.applied():
            if any(needed):
                result = run_keeping_checkpoints(record, loop, tensors, needed)
            else:
                result = run_keeping_nothing(record, loop, tensors)
        record.result = result._replace(carry=template_of(result.carry), ys=template_of(result.ys))
        ctx.record = record
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*inputs)
        return tuple(tensors_of([*result.carry, *result.ys]))

    @staticmethod
    def backward(ctx: Any, *cotangents: torch.Tensor | None) -> tuple[Any, ...]:
        record: Record = ctx.record
        inputs = list(ctx.saved_tensors)
        needed = ctx.needs_input_grad[2:]
        with preserved(inputs), record.autocast.applied():
            if torch.is_grad_enabled():
                with_graph = vjp_with_graph(record, inputs, needed, cotangents)
                if record.tape is not None and not retains_graph():
                    record.take_tape()
                    record.journal.close(is_retained=False)
                return None, None, *with_graph
            loop = record.template.filled([tensor.detach() for tensor in inputs])
            tape, is_retained = record.take_tape(), record.tape is not None
            try:
                found = vjp_step_by_step(record, loop, tape, needed, cotangents)
                record.journal.close(is_retained=is_retained)
            except BaseException:
                record.journal.release()
                raise
            finally:
                tape.finish()
            return None, None, *found
