"""What is stored before a step, so that the step can be run again."""

from __future__ import annotations

from typing import NamedTuple

import torch

from torchopt.unrolling.context.random_state import RandomState
from torchopt.unrolling.inner_gradients.cache import GradientCache
from torchopt.unrolling.leaves import Leaves
from torchopt.unrolling.steps.call import versions
from torchopt.unrolling.steps.comparison import Outcome


class Checkpoint(NamedTuple):
    """The carry before a step, and what else a second run needs.

    Attributes:
        number: Number of the step.
        carry: Leaves of the carry, without history.
        random: State of the generators.
        versions: How often each tensor of the carry had been written to.
        cache: The inner gradients that the step computed, if they are kept.
        outcome: A part of the next carry, if a second run is to be compared with it.
    """

    number: int
    carry: Leaves
    random: RandomState
    versions: list[int]
    cache: GradientCache | None = None
    outcome: Outcome | None = None

    @classmethod
    def capture(
        cls,
        number: int,
        carry: Leaves,
        tensors: list[torch.Tensor],
        last: RandomState | None,
        cache: GradientCache | None = None,
    ) -> Checkpoint:
        """Return the checkpoint before a step that runs now.

        Args:
            number: Number of the step.
            carry: Leaves of the carry.
            tensors: Tensors on all devices whose generators the step may use.
            last: State of the generators before an earlier step; shared if nothing was drawn.
            cache: What the inner gradients of the step will be kept in.
        """
        return cls(number, carry, RandomState.capture(tensors, last), versions(carry), cache)

    def is_modified(self) -> bool:
        """Tell whether a tensor of the carry has been written to since."""
        return versions(self.carry) != self.versions
