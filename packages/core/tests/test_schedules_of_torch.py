"""Schedules that the docs call equal to torch's schedulers are."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.optim import lr_scheduler

import torchopt

LR, LOW = 0.3, 0.02
CYCLE = {
    'init_value': LR, 'peak_value': LR, 'warmup_steps': 0, 'decay_steps': 4, 'end_value': LOW,
}  # fmt: skip


def two_lines(optimizer: torch.optim.Optimizer) -> lr_scheduler.SequentialLR:
    lines = [
        lr_scheduler.LinearLR(optimizer, 0.2, 1.0, 3),
        lr_scheduler.LinearLR(optimizer, 1.0, 0.1, 5),
    ]
    return lr_scheduler.SequentialLR(optimizer, lines, [4])


PAIRS: dict[str, tuple[Callable[[Any], Any], Any]] = {
    'LinearLR': (
        lambda o: lr_scheduler.LinearLR(o, 0.2, 1.0, 4),
        torchopt.linear_schedule(LR * 0.2, LR, 4),
    ),
    'PolynomialLR': (
        lambda o: lr_scheduler.PolynomialLR(o, 5, 1.5),
        torchopt.polynomial_schedule(LR, 0.0, 1.5, 5),
    ),
    'ExponentialLR': (
        lambda o: lr_scheduler.ExponentialLR(o, 0.8),
        torchopt.exponential_decay(LR, 1, 0.8),
    ),
    'StepLR': (
        lambda o: lr_scheduler.StepLR(o, 3, 0.5),
        torchopt.exponential_decay(LR, 3, 0.5, staircase=True),
    ),
    'MultiStepLR': (
        lambda o: lr_scheduler.MultiStepLR(o, [2, 5], 0.5),
        torchopt.piecewise_constant_schedule(LR, {2: 0.5, 5: 0.5}),
    ),
    'CosineAnnealingLR': (
        lambda o: lr_scheduler.CosineAnnealingLR(o, 9, LOW),
        torchopt.cosine_decay_schedule(LR, 9, LOW / LR),
    ),
    'CosineAnnealingWarmRestarts': (
        lambda o: lr_scheduler.CosineAnnealingWarmRestarts(o, 4, eta_min=LOW),
        torchopt.sgdr_schedule([CYCLE] * 3),
    ),
    'SequentialLR': (
        two_lines,
        torchopt.join_schedules(
            [
                torchopt.linear_schedule(LR * 0.2, LR, 3),
                torchopt.linear_schedule(LR, LR * 0.1, 5),
            ],
            [4],
        ),
    ),
    'OneCycleLR': (
        lambda o: lr_scheduler.OneCycleLR(o, LR, 10 + 1, pct_start=(0.4 * 10 + 1) / (10 + 1)),
        torchopt.cosine_onecycle_schedule(10, LR, 0.4),
    ),
    # torch falls along one line from the peak to the end.
    'OneCycleLR-linear': (
        lambda o: lr_scheduler.OneCycleLR(
            o, LR, 11, pct_start=5 / 11, anneal_strategy='linear', div_factor=5, final_div_factor=50
        ),
        torchopt.piecewise_interpolate_schedule('linear', LR / 5, {4: 5.0, 10: 1 / 250}),
    ),
}


@pytest.mark.parametrize('name', PAIRS)
def test_equal_step_by_step(name: str) -> None:
    make, schedule = PAIRS[name]
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=LR)
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')  # SequentialLR warns about a call of its own
        scheduler = make(optimizer)
        for count in range(10):
            rate = optimizer.param_groups[0]['lr']
            assert schedule(count).item() == pytest.approx(rate, rel=1e-12, abs=1e-15), count
            optimizer.step()
            scheduler.step()
