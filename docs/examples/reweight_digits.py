"""Learning to trust examples, with the object-oriented API.

Most labels of a training set of handwritten digits are wrong. A weight for every example is learned
by gradient descent on the loss of a few clean, held-out examples, differentiated through the
network's training steps. The idea is due to Ren, Zeng, Yang and Urtasun, "Learning to Reweight
Examples for Robust Deep Learning", ICML 2018: https://arxiv.org/abs/1803.09050

    python reweight_digits.py
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import NamedTuple

import matplotlib.pyplot as plt
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from tqdm import tqdm

import torchopt

NOISE, HELD_OUT, TEST = 0.6, 50, 500


class Examples(NamedTuple):
    images: Tensor
    labels: Tensor


class Split(NamedTuple):
    training: Examples
    corrupted: Tensor
    held_out: Examples
    test: Examples


def load(seed: int) -> Split:
    """Split the digits, and give most training examples a wrong label."""
    digits = load_digits()
    images, labels = torch.tensor(digits.data).float() / 16, torch.tensor(digits.target)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    test, held_out, training = order.split([TEST, HELD_OUT, len(labels) - TEST - HELD_OUT])
    corrupted = torch.rand(len(training)) < NOISE
    wrong = (labels[training] + torch.randint(1, 10, (len(training),))) % 10
    return Split(
        Examples(images[training], torch.where(corrupted, wrong, labels[training])),
        corrupted,
        Examples(images[held_out], labels[held_out]),
        Examples(images[test], labels[test]),
    )


def make_net() -> nn.Module:
    return nn.Sequential(nn.Linear(64, 100), nn.ReLU(), nn.Linear(100, 10))


def weighted_loss(net: nn.Module, examples: Examples, weights: Tensor) -> Tensor:
    losses = cross_entropy(net(examples.images), examples.labels, reduction='none')
    return (weights * losses).sum() / weights.detach().sum()


def learn_weights(data: Split, rounds: int = 100, inner_steps: int = 5) -> Tensor:
    """Return a weight between 0 and 1 for every training example."""
    net = make_net()
    logits = torch.zeros(len(data.training.labels), requires_grad=True)
    inner = torchopt.MetaSGD(net, lr=0.1, momentum=0.9)
    outer = torchopt.Adam([logits], lr=0.2)
    for _ in tqdm(range(rounds), desc='reweighting', leave=False):
        for _ in range(inner_steps):
            inner.step(weighted_loss(net, data.training, logits.sigmoid()))
        outer.zero_grad()
        cross_entropy(net(data.held_out.images), data.held_out.labels).backward()
        outer.step()
        # The next round starts from here, without the graph of this one.
        torchopt.stop_gradient(net)
        torchopt.stop_gradient(inner)
    return logits.detach().sigmoid()


def test_accuracy(data: Split, examples: Examples, weights: Tensor, steps: int = 300) -> float:
    """Train a new network on weighted examples; return its accuracy in percent."""
    net = make_net()
    optimizer = torchopt.Adam(net.parameters(), lr=3e-3)
    for _ in range(steps):
        optimizer.zero_grad()
        weighted_loss(net, examples, weights).backward()
        optimizer.step()
    right = net(data.test.images).argmax(dim=-1) == data.test.labels
    return 100 * right.float().mean().item()


def compare(seed: int, rounds: int = 100) -> tuple[dict[str, float], Tensor, Tensor]:
    """Return the accuracy of each training set, the weights, and a mask of the wrong labels."""
    torch.manual_seed(seed)
    data = load(seed)
    weights, equal = learn_weights(data, rounds), torch.ones(len(data.corrupted))
    both = Examples(*(torch.cat(pair) for pair in zip(data.training, data.held_out)))
    trust = torch.ones(HELD_OUT)
    accuracies = {
        'noisy labels': test_accuracy(data, data.training, equal),
        'noisy labels and the held-out examples': test_accuracy(
            data, both, torch.cat([equal, trust])
        ),
        'the held-out examples alone': test_accuracy(data, data.held_out, trust),
        'noisy labels, reweighted': test_accuracy(data, data.training, weights),
        'clean labels only': test_accuracy(data, data.training, (~data.corrupted).float()),
    }
    return accuracies, weights, data.corrupted


def save_plot(weights: Tensor, corrupted: Tensor, path: Path) -> None:
    figure, axes = plt.subplots(figsize=(7, 4), layout='constrained')
    bins = torch.linspace(0, 1, 31).tolist()
    axes.hist(weights[~corrupted], bins, alpha=0.7, label='right label')
    axes.hist(weights[corrupted], bins, alpha=0.7, label='wrong label')
    axes.set(xlabel='learned weight', ylabel='training examples', title='Whom to trust: one seed')
    axes.legend()
    figure.savefig(path, dpi=150)
    print(f'plot: {path.resolve()}')


def run(seeds: int, output: Path, rounds: int = 100) -> None:
    results = [compare(seed, rounds) for seed in tqdm(range(seeds), desc='seeds')]
    print(f'\nDigits, {NOISE:.0%} wrong labels, {HELD_OUT} clean held-out examples, {seeds} seeds')
    print(f'{"trained on":<42}test accuracy, mean ± standard deviation')
    for name in results[0][0]:
        values = torch.tensor([accuracies[name] for accuracies, *_ in results])
        print(f'{name:<42}{values.mean():.1f} ± {values.std():.1f} %')
    output.mkdir(parents=True, exist_ok=True)
    save_plot(*results[0][1:], output / 'reweight_digits.png')


if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--seeds', type=int, default=5)
    parser.add_argument('--output', type=Path, default=Path('demo-output'), help='for the plot')
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    run(arguments.seeds, arguments.output)
