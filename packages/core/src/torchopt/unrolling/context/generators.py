"""Generators that a step holds: their draws are not replayed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from torchopt.unrolling.context.closures import captured_generators
from torchopt.unrolling.leaves import Leaves


@contextmanager
def require_no_draws(step: Callable[..., Any], consts: Leaves) -> Iterator[None]:
    """Raise if ``step`` draws, in the block, numbers that a second run would not draw again.

    Raises:
        RuntimeError: a generator that ``step`` holds, or that is among ``consts``, has advanced.
    """
    generators = [
        *captured_generators(step),
        *(('consts', leaf) for leaf in consts if isinstance(leaf, torch.Generator)),
    ]
    before = [generator.get_state() for _, generator in generators]
    yield
    for (name, generator), state in zip(generators, before):
        if not torch.equal(state, generator.get_state()):
            raise RuntimeError(
                f'the step draws from a torch.Generator of its own ({name}), which is not set back '
                "when the step is run again: draw from torch's own generators (torch.manual_seed), "
                'pass the numbers through xs, or use backward=Stored()'
            )
