"""Every carry stored, and one step at a time recomputed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, get_args

from torchopt.unrolling.inner_gradients.gradient_vjp import Order
from torchopt.unrolling.loop import Loop
from torchopt.unrolling.steps.checkpoint import Checkpoint
from torchopt.unrolling.steps.engine import Compilation, engine_for
from torchopt.unrolling.storage.choice import Place, storage_named
from torchopt.unrolling.storage.tape import Tape
from torchopt.unrolling.strategies.base import Strategy, options_of
from torchopt.unrolling.strategies.checkpointed import run_checkpointed
from torchopt.unrolling.strategies.reversal import Advance, reversed_checkpoints


@dataclass(frozen=True)
class Recomputed(Strategy):
    """Keep the carry before every step; the backward pass runs one step at a time again.

    The loop is one node of the graph. Memory: K carries and the graph of one step. Time: one more
    evaluation of every step. The backward pass can be differentiated again, which needs the memory
    of :class:`Stored`.

    Attributes:
        keep_gradients: Also keep what :func:`torchopt.unrolling.grad` returned in each step. A
            step is then differentiated in two parts, each of which needs less memory: first what
            follows the inner gradient, then the inner gradient itself.
        order: How a kept inner gradient is differentiated, see :data:`torchopt.unrolling.Order`.
            The fastest order depends on the device and the model.
        compile: Compile one step and its derivative, once for any number of steps; True, or the
            backend of ``torch.compile`` to do it with. True stands for ``'inductor'``; for a step
            with large convolutions on the CPU, for ``'aot_eager'``, which runs them as fast and
            compiles them in a tenth of the time.
        storage: Where carries are kept, see :data:`torchopt.unrolling.Place`: on their
            ``'device'``, in the memory of the ``'cpu'``, or on a
            :class:`~torchopt.unrolling.Disk`, where a killed run can go on.

    Raises:
        ValueError: ``keep_gradients`` and ``compile`` are both on (a compiled step cannot stop at
            its gradient), or ``order`` or ``storage`` is unknown.
    """

    keep_gradients: bool = False
    order: Order = 'reverse-over-reverse'
    compile: Compilation = False
    storage: Place = 'device'

    def __post_init__(self) -> None:
        storage_named(self.storage)
        if self.keep_gradients and self.compile:
            raise ValueError('Recomputed takes keep_gradients=True or compile=True, not both')
        if self.order not in get_args(Order):
            raise ValueError(f'order must be one of {get_args(Order)}, got {self.order!r}')

    def run(self, loop: Loop) -> tuple[Any, Any]:
        """Run ``loop``; return the trees ``(carry, ys)``."""
        schedule = _EveryStep(self.order if self.keep_gradients else None)
        storage = storage_named(self.storage)
        engine = engine_for(loop, self.compile, keeps_layout=storage.keeps_layout)
        return run_checkpointed(loop, schedule, engine, storage, options_of(self))


class _EveryStep:
    """The schedule that keeps the checkpoint of every step."""

    name = 'Recomputed'
    differentiable_again = True
    keeps_all = True

    def __init__(self, gradient_order: Order | None) -> None:
        self.gradient_order: Order | None = gradient_order

    def keep(self, numbers: list[int], number: int) -> None:
        numbers.append(number)

    def reverse(self, tape: Tape, taken: int, advance: Advance) -> Iterator[Checkpoint]:
        # Only where a file is missing, a step between has to run again.
        return reversed_checkpoints(tape, taken, taken, advance)
