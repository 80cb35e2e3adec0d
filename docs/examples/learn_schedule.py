"""Learning a whole schedule of learning rates by its gradient through 1,000 training steps.

A network learns digits by SGD on small batches. Its learning rates are interpolated between a few
points, which are learned by the gradient of the loss on held-out digits after the last step. This
gradient has to go through the whole training: with few steps, low rates look best (Wu et al.,
"Understanding Short-Horizon Bias in Stochastic Meta-Optimization", ICLR 2018:
https://arxiv.org/abs/1803.02021).

    python learn_schedule.py
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import torch
from peak_memory import peak_memory
from sklearn.datasets import load_digits
from torch import Tensor
from torch.nn.functional import cross_entropy, interpolate
from tqdm import tqdm

import torchopt
from torchopt.unrolling import Snapshots, Stored, Strategy, grad

POINTS, BATCH = 21, 4
CONSTANT_RATES = [0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0]

digits = load_digits()
order = torch.randperm(len(digits.target), generator=torch.Generator().manual_seed(0))
images = torch.tensor(digits.data, dtype=torch.float32)[order] / 16
labels = torch.tensor(digits.target)[order]
TRAINING, HELD_OUT, TEST = slice(0, 1000), slice(1000, 1400), slice(1400, None)


def initial(random: torch.Generator) -> dict[str, Tensor]:
    return {
        'hidden': torch.randn(64, 128, generator=random) / 8,
        'hidden_bias': torch.zeros(128),
        'out': torch.randn(128, 10, generator=random) / 12,
        'out_bias': torch.zeros(10),
    }


def loss(params: dict[str, Tensor], images: Tensor, labels: Tensor) -> Tensor:
    hidden = torch.tanh(images @ params['hidden'] + params['hidden_bias'])
    return cross_entropy(hidden @ params['out'] + params['out_bias'], labels)


def sgd_step(params: dict[str, Tensor], x: dict[str, Tensor], _: None) -> tuple[Any, None]:
    gradients = grad(loss)(params, images[TRAINING][x['batch']], labels[TRAINING][x['batch']])
    return {name: params[name] - x['rate'] * gradients[name] for name in params}, None


def train(rates: Tensor, seed: int, backward: Strategy) -> dict[str, Tensor]:
    """Train a new network with these rates."""
    random = torch.Generator().manual_seed(seed)
    batches = torch.randint(1000, (len(rates), BATCH), generator=random)
    xs = {'rate': rates, 'batch': batches}
    return torchopt.unroll(sgd_step, initial(random), xs, backward=backward)[0]


def rates_of(log_rates: Tensor, steps: int) -> Tensor:
    lines = interpolate(log_rates[None, None], steps, mode='linear', align_corners=True)
    return lines[0, 0].exp()


def meta_gradient(log_rates: Tensor, steps: int, seed: int, backward: Strategy) -> Tensor:
    log_rates = log_rates.detach().requires_grad_()
    params = train(rates_of(log_rates, steps), seed, backward)
    held_out = loss(params, images[HELD_OUT], labels[HELD_OUT])
    return torch.autograd.grad(held_out, log_rates)[0]


def learn(start: float, steps: int, rounds: int) -> Tensor:
    """Return the learned rates; every round trains a new network."""
    log_rates = torch.full((POINTS,), start).log()
    outer = torchopt.adam(0.1)
    state = outer.init(log_rates)
    for seed in tqdm(range(rounds), desc='learning the schedule', leave=False):
        gradient = meta_gradient(log_rates, steps, seed, Snapshots())
        updates, state = outer.update(gradient, state, inplace=False)
        log_rates = torchopt.apply_updates(log_rates, updates, inplace=False)
    return rates_of(log_rates, steps)


@torch.no_grad()
def mean_loss(rates: Tensor, part: slice, seeds: range) -> float:
    losses = [loss(train(rates, seed, Stored()), images[part], labels[part]) for seed in seeds]
    return torch.stack(losses).mean().item()


def run(output: Path, steps: int = 1000, rounds: int = 30, networks: int = 10) -> None:
    torch.set_num_threads(1)
    tuning, testing = range(10_000, 10_000 + networks), range(20_000, 20_000 + networks)
    constant = [torch.full((steps,), rate) for rate in CONSTANT_RATES]
    best = min(constant, key=lambda rates: mean_loss(rates, HELD_OUT, tuning))
    learned = learn(best[0].item(), steps, rounds)
    print(f'test loss after {steps} steps, mean of {networks} networks')
    for name, rates in ((f'best constant rate, {best[0]:g}', best), ('learned schedule', learned)):
        print(f'  {name}: {mean_loss(rates, TEST, testing):.4f}')
    print('peak memory of one meta-gradient')
    for backward in (Stored(), Snapshots()):
        args, warm_up = ((best[:POINTS].log(), number, 0, backward) for number in (steps, 2))
        memory = peak_memory(meta_gradient, args, warm_up)
        print(f'  {backward}: {memory:.0f} MiB')
    figure, axes = plt.subplots(figsize=(7, 4), layout='constrained')
    axes.semilogy(torch.stack([learned, best], 1), label=['learned', 'best constant'])
    axes.set(xlabel='step', ylabel='learning rate')
    axes.legend()
    output.mkdir(parents=True, exist_ok=True)
    figure.savefig(output / 'learn_schedule.png', dpi=150)


if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--output', type=Path, default=Path('demo-output'), help='for the plot')
    run(parser.parse_args().output)
