"""Short-horizon bias on a noisy quadratic (Wu et al., ICLR 2018), beside its closed form."""

from __future__ import annotations

from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor
from torch.nn.functional import pad

import torchopt

SETTINGS = {'steps': 128, 'horizons': (1, 16), 'dims': 50, 'runs': 64, 'rounds': 50}
SMALL = {'steps': 16, 'horizons': (2, 4), 'dims': 5, 'runs': 64, 'rounds': 20}
SEEDS = 5
PAPER: dict[str, str] = {}
ROWS = [
    (f'final loss, {horizon}, {source}', f'{horizon}, {source}')
    for horizon in ('shortest horizon', 'middle horizon', 'whole run')
    for source in ('unrolled', 'closed form')
] + [('first meta-gradient through the whole run, relative error', 'error')]


def curvatures(params: Tensor) -> Tensor:
    return 1 / torch.arange(1, params.shape[-1] + 1, dtype=params.dtype)


def sgd_step(params: Tensor, rate: Tensor, _: None) -> tuple[Tensor, None]:
    minimum = torch.randn_like(params) / curvatures(params).sqrt()  # every batch has its own
    sgd = torchopt.sgd(rate)
    gradient = curvatures(params) * (params - minimum)
    updates, _ = sgd.update(gradient, sgd.init(params), inplace=False)
    return torchopt.apply_updates(params, updates, inplace=False), None


def unrolled(rates: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
    """Take noisy steps; return the loss in the end, a mean over runs, and the parameters."""
    params, _ = torchopt.unroll(sgd_step, params, rates)
    return (curvatures(params) * params.square()).sum(-1).mean() / 2, params


def expected(rates: Tensor, squares: Tensor) -> tuple[Tensor, Tensor]:
    """Return the expected loss after all steps, and the expected squares of the parameters."""
    kept = (1 - rates[:, None] * curvatures(squares)).square().flip(0).cumprod(0).flip(0)
    kept_after = pad(kept, (0, 0, 0, 1), value=1.0)
    noise = (rates.square()[:, None] * kept_after[1:]).sum(0) * curvatures(squares)
    squares = kept_after[0] * squares + noise
    return (curvatures(squares) * squares).sum() / 2, squares


def learn(objective: Any, start: Tensor, horizon: int, steps: int, rounds: int) -> Any:
    """Learn the rates of the next steps, take these steps, and so on to the end of the run.

    Returns all rates, and the first meta-gradient.
    """
    rates, first = [], None
    log_rates = torch.full((horizon,), -1.0, dtype=torch.float64)
    for _ in range(steps // horizon):
        outer = torchopt.adam(0.1)
        state = outer.init(log_rates)
        for _ in range(rounds):
            log_rates = log_rates.detach().requires_grad_()
            (gradient,) = torch.autograd.grad(objective(log_rates.exp(), start)[0], log_rates)
            first = gradient if first is None else first
            updates, state = outer.update(gradient, state, inplace=False)
            log_rates = torchopt.apply_updates(log_rates, updates, inplace=False)
        rates.append(log_rates.detach().exp())
        start = objective(rates[-1], start)[1].detach()
    return torch.cat(rates), first


def run(seed: int, steps: int, horizons: tuple[int, int], dims: int, runs: int, rounds: int) -> Any:
    torch.manual_seed(seed)
    squares, result = torch.ones(dims, dtype=torch.float64), {}
    names = ('shortest horizon', 'middle horizon', 'whole run')
    for name, horizon in zip(names, (*horizons, steps)):
        found, sampled = learn(unrolled, squares.expand(runs, -1), horizon, steps, rounds)
        best, exact = learn(expected, squares, horizon, steps, rounds)
        for key, rates in ((f'{name}, unrolled', found), (f'{name}, closed form', best)):
            losses = [expected(rates[:end], squares)[0].item() for end in range(1, steps + 1)]
            result |= {key: losses[-1], f'curves, {key}': (rates.tolist(), losses)}
    return {**result, 'error': ((sampled - exact).norm() / exact.norm()).item()}


def draw(runs: list[dict[str, Any]], figure: Figure) -> None:
    axes = figure.subplots(1, 2)
    for number, (_, key) in enumerate(ROWS[:-1]):
        horizon, source = key.split(', ')
        style = {'color': f'C{number // 2}', 'label': horizon if number % 2 == 0 else None}
        style |= {'linestyle': ':', 'linewidth': 3} if source == 'closed form' else {'linewidth': 1}
        for part, side in enumerate(axes):
            mean = torch.tensor([run[f'curves, {key}'][part] for run in runs]).mean(0)
            side.loglog(range(1, len(mean) + 1), mean, **style)
    axes[0].set(xlabel='step', ylabel='learning rate')
    axes[1].set(xlabel='step', ylabel='expected loss')
    axes[0].plot([], [], ':', linewidth=3, color='0.53', label='by the closed form')
    axes[0].legend(loc='lower left')
