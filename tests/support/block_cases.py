"""Every building block with numbers to learn, each as a whole optimizer."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import torch

import torchopt
from torchopt import pytree
from torchopt import transform as t


@dataclasses.dataclass(frozen=True)
class BlockCase:
    """A building block, made from its numbers."""

    name: str
    build: Callable[..., torchopt.GradientTransformation]
    numbers: Mapping[str, float]
    needs_params: bool = False

    def __str__(self) -> str:
        return self.name

    def make(self, *numbers: Any) -> torchopt.GradientTransformation:
        """Make the optimizer; numbers that are left out have their sample values."""
        return self.build(*(numbers or self.numbers.values()))

    def tensors(self) -> list[torch.Tensor]:
        """The numbers as tensors that require grad."""
        values = self.numbers.values()
        return [torch.tensor(v, dtype=torch.float64, requires_grad=True) for v in values]


def matrices(of_matrices: torchopt.GradientTransformation) -> torchopt.GradientTransformation:
    """Descend along what a block for matrices makes of them, and the gradients of the others."""
    parts = {'matrix': of_matrices, 'other': torchopt.base.identity()}
    return torchopt.chain(t.partition(parts, by_dimension), t.scale(-0.1))


def by_dimension(params: Any) -> Any:
    return pytree.tree_map(
        lambda leaf: 'matrix' if leaf is not None and leaf.dim() >= 2 else 'other',
        params,
        none_is_leaf=True,
    )


def descending(block: torchopt.GradientTransformation) -> torchopt.GradientTransformation:
    return torchopt.chain(block, t.scale(-0.1))


def partitioned(lr: Any, momentum: Any) -> torchopt.GradientTransformation:
    parts = {
        'matrix': torchopt.adam(lr, eps=1e-3),
        'other': torchopt.sgd(lr, momentum=momentum),
    }
    return t.partition(parts, by_dimension)


def averaging(lr: Any, beta: Any, power: Any) -> torchopt.GradientTransformation:
    def warmup(count: torch.Tensor) -> Any:
        return lr * (count / 3).clamp_max(1)

    inner = torchopt.rmsprop(warmup, eps=1e-2)
    return torchopt.schedule_free(inner, warmup, beta=beta, weight_lr_power=power)


LR = {'lr': 0.1}
BLOCKS = [
    BlockCase(
        'accumulate_gradients',
        lambda lr: t.accumulate_gradients(torchopt.adam(lr, eps=1e-3), 2),
        LR,
    ),
    BlockCase('apply_if_finite', lambda lr: t.apply_if_finite(torchopt.adam(lr, eps=1e-3)), LR),
    BlockCase('averaged_momentum', lambda m: descending(t.averaged_momentum(m)), {'momentum': 0.8}),
    BlockCase(
        'clip_by_block_rms', lambda d: descending(t.clip_by_block_rms(d)), {'threshold': 0.5}
    ),
    BlockCase('clip_by_value', lambda d: descending(t.clip_by_value(d)), {'max_delta': 0.4}),
    BlockCase('ema', lambda decay: descending(t.ema(decay)), {'decay': 0.8}),
    BlockCase('ema-raw', lambda decay: descending(t.ema(decay, debias=False)), {'decay': 0.8}),
    BlockCase(
        'lookahead',
        lambda lr, slow: t.lookahead(torchopt.sgd(lr, momentum=0.5), 3, slow),
        {**LR, 'slow_step_size': 0.4},
        needs_params=True,
    ),
    BlockCase(
        'orthogonalize',
        lambda a, b, c: matrices(t.orthogonalize((a, b, c), 2)),
        {'a': 3.4, 'b': -4.8, 'c': 2.0},
    ),
    BlockCase('partition', partitioned, {**LR, 'momentum': 0.7}),
    BlockCase('scale_by_shape', lambda: matrices(t.scale_by_shape('match_rms_adamw')), {}),
    BlockCase(
        'scale_by_trust_ratio',
        lambda c, eps: descending(t.scale_by_trust_ratio(c, eps)),
        {'trust_coefficient': 0.7, 'eps': 0.1},
        needs_params=True,
    ),
    BlockCase(
        'schedule_free',
        averaging,
        {**LR, 'beta': 0.8, 'weight_lr_power': 1.5},
        needs_params=True,
    ),
]
"""Every building block."""
