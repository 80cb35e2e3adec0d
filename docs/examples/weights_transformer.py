"""Learning which examples to trust, through the training of a transformer.

Most labels of a training set of handwritten digits are wrong. A transformer reads each image row by
row. The weights of its training examples are learned by the gradient of the loss on 50 clean
examples, through 16 Adam steps at a time. With the graph of all steps it would need eight times the
memory.

    python weights_transformer.py
"""

from __future__ import annotations

import argparse
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from noisy_digits import Split, load
from peak_memory import peak_memory
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import cross_entropy
from tqdm import tqdm

import torchopt
from torchopt.unrolling import ModuleStep, Recomputed, Snapshots, Stored, Strategy

BATCH = 64


class Transformer(nn.Module):
    """Classifies sequences of 8 rows of 8 pixels."""

    def __init__(self, width: int = 128, layers: int = 4) -> None:
        super().__init__()
        self.embed = nn.Linear(8, width)
        self.positions = nn.Parameter(0.02 * torch.randn(8, width))
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(
                width, 4, 4 * width, dropout=0.0, batch_first=True, norm_first=True
            )
            for _ in range(layers)
        )
        self.out = nn.Linear(width, 10)

    def forward(self, images: Tensor) -> Tensor:
        x = self.embed(images.view(-1, 8, 8)) + self.positions
        # Fused attention has no second derivative.
        with sdpa_kernel(SDPBackend.MATH):
            for layer in self.layers:
                x = layer(x)
        return self.out(x.mean(1))


class Learner:
    """A transformer in training and the weights of its examples."""

    def __init__(self, data: Split, backward: Strategy) -> None:
        self.data, self.backward = data, backward
        self.net = Transformer()
        self.logits = torch.zeros(len(data.training.labels), requires_grad=True)
        self.inner = ModuleStep(self.net, torchopt.adam(1e-3), self.weighted_loss)
        self.outer = torchopt.Adam([self.logits], lr=0.3)

    def weighted_loss(self, net: nn.Module, batch: Tensor, logits: Tensor) -> Tensor:
        images, labels = (part[batch] for part in self.data.training)
        losses = cross_entropy(net(images), labels, reduction='none')
        return (logits[batch].sigmoid() * losses).mean()

    def round(self, steps: int) -> None:
        """Train the network for some steps, then improve the weights that they used."""
        batches = torch.randint(len(self.logits), (steps, BATCH))
        carry, _ = torchopt.unroll(
            self.inner, self.inner.init(), batches, self.logits, backward=self.backward
        )
        self.inner.write(carry)
        self.outer.zero_grad()
        cross_entropy(self.net(self.data.held_out.images), self.data.held_out.labels).backward()
        self.outer.step()
        torchopt.stop_gradient(self.net)


def rounds(number: int, steps: int, backward: Strategy) -> Learner:
    torch.manual_seed(0)
    learner = Learner(load(seed=0), backward)
    for _ in tqdm(range(number), desc='learning the weights', leave=False):
        learner.round(steps)
    return learner


def save_plot(weights: Tensor, corrupted: Tensor, path: Path) -> None:
    figure, axes = plt.subplots(figsize=(7, 4), layout='constrained')
    bins = torch.linspace(0, 1, 31).tolist()
    axes.hist(weights[~corrupted], bins, alpha=0.7, label='right label')
    axes.hist(weights[corrupted], bins, alpha=0.7, label='wrong label')
    axes.set(xlabel='learned weight', ylabel='training examples')
    axes.legend()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)


def run(output: Path, number: int = 60, steps: int = 16) -> None:
    torch.set_num_threads(1)
    learner = rounds(number, steps, Snapshots())
    weights, corrupted = learner.logits.detach().sigmoid(), learner.data.corrupted
    print(f'mean weight of right labels {weights[~corrupted].mean():.2f}, ', end='')
    print(f'of wrong labels {weights[corrupted].mean():.2f}')
    print(f'peak memory of a round of {steps} steps')
    for backward in (Stored(), Recomputed(), Snapshots()):
        memory = peak_memory(rounds, (1, steps, backward), warm_up=(1, 1, backward))
        print(f'  {backward}: {memory:.0f} MiB')
    save_plot(weights, corrupted, output / 'weights_transformer.png')


if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--output', type=Path, default=Path('demo-output'), help='for the plot')
    run(parser.parse_args().output)
