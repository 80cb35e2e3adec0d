"""What the forward pass of a checkpointed loop leaves for the backward pass."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Protocol

from torchopt import pytree
from torchopt.authoring.observed_loops import Observer
from torchopt.authoring.state import without_states
from torchopt.authoring.torch_internals import retains_graph
from torchopt.unrolling.context.autocast import Autocast
from torchopt.unrolling.context.random_state import RandomState
from torchopt.unrolling.context.surroundings import Surroundings
from torchopt.unrolling.inner_gradients.gradient_vjp import Order
from torchopt.unrolling.leaves import is_placeholder
from torchopt.unrolling.loop import Loop
from torchopt.unrolling.steps.checkpoint import Checkpoint
from torchopt.unrolling.steps.engine import Engine
from torchopt.unrolling.storage.base import Journal, Storage
from torchopt.unrolling.storage.tape import Tape
from torchopt.unrolling.strategies.reversal import Advance
from torchopt.unrolling.sweep import Sweep


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


@dataclass
class Record:
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
        observer: Called in a backward pass with the number of each step and the cotangents of the
            carry after it, from the last step to the first; see :meth:`observed`.
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
    observer: Observer | None = None
    result: Sweep = field(init=False)
    surroundings: Surroundings = field(init=False)

    @contextmanager
    def observed(self, see: Observer) -> Iterator[None]:
        """Let backward passes report the cotangents of the parameters after every step.

        Parameters are what is left of the carry without optimizer states.
        """
        carry = self.template.carry
        positions = iter(range(len(carry)))
        numbers = [next(positions) if is_placeholder(leaf) else None for leaf in carry]
        tree = pytree.tree_unflatten(self.template.carry_structure, numbers)
        params = pytree.tree_leaves(without_states(tree))
        before = self.observer
        self.observer = lambda number, found: see(number, [found[position] for position in params])
        try:
            yield
        finally:
            self.observer = before

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
