"""The ways of computing the metagradient of a training run, each with a folder for its files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import torchopt
from torchopt import unrolling
from training_runs import hand_written
from unrolls.problems import EPS_ROOT, LR, Problem, Transformer, problem_of, weighted_loss
from unrolls.ways import held_out_loss

Way = Callable[[Problem, Path], Tensor]


def transformer(steps: int) -> Problem:
    """2 layers of width 64 with 4 heads, batches of 8 of 128 sequences of 32 tokens."""
    net = Transformer(vocabulary=64, length=32, width=64, heads=4, layers=2)
    tokens = torch.randint(64, (160, 33))
    return problem_of(net, tokens[:, :-1], tokens[:, 1:], steps, batch=8)


def unrolled(mode: str, **options: Any) -> Way:
    """``torchopt.unroll`` with a strategy, given as source text, and a ``ModuleStep``.

    Args:
        mode: The strategy; it may use ``folder``.
        options: Keyword arguments of ``ModuleStep``.
    """

    def run(problem: Problem, folder: Path) -> Tensor:
        backward = eval(mode, {**vars(unrolling), 'folder': folder})

        def loss(net: nn.Module, batch: Tensor, weights: Tensor) -> Tensor:
            return weighted_loss(net(problem.inputs[batch]), problem.targets[batch], weights[batch])

        optimizer = torchopt.adamw(LR, eps_root=EPS_ROOT)
        inner = unrolling.ModuleStep(problem.net, optimizer, loss, **options)
        carry, _ = torchopt.unroll(
            inner, inner.init(), problem.batches, problem.weights, backward=backward
        )
        return torch.autograd.grad(held_out_loss(problem, carry.params), problem.weights)[0]

    return run


HAND_WRITTEN = 'a hand-written loop'
REFERENCE = 'Recomputed()'

WAYS: dict[str, Way] = {
    **{
        mode: unrolled(mode)
        for mode in (
            'Stored()',
            REFERENCE,
            "Recomputed(storage='cpu')",
            'Recomputed(storage=Disk(folder))',
            'Snapshots()',
            "Snapshots(storage='cpu')",
            'Snapshots(storage=Disk(folder))',
            'Snapshots(4)',
            'Truncated(10)',
        )
    },
    'Snapshots(), micro_batches=4': unrolled('Snapshots()', micro_batches=4),
    HAND_WRITTEN: hand_written.meta_gradient,
}


def ways_on(device: str) -> list[str]:
    """Return the names of the ways; on a CPU, its memory is where the carries are anyway."""
    return [name for name in WAYS if device == 'cuda' or "storage='cpu'" not in name]
