"""Learns weights for points of which a third are wrong, so that training on them ends well.

The picture is at the top of the README and of the tour:

    python docs/examples/learn_weights.py docs/start/learned-weights.png
"""

from __future__ import annotations

import sys
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from matplotlib.figure import Figure

import torchopt

torch.manual_seed(0)
x = torch.linspace(-3, 3, 60).unsqueeze(1)
y = x.sin() + 0.1 * torch.randn(60, 1)
wrong = torch.rand(60, 1) < 0.35
y = torch.where(wrong, 3 * torch.rand(60, 1) - 1.5, y)
trusted_x = torch.linspace(-2.8, 2.8, 20).unsqueeze(1)
trusted_y = trusted_x.sin()

net = torch.nn.Sequential(torch.nn.Linear(1, 32), torch.nn.Tanh(), torch.nn.Linear(32, 1))
start = torchopt.extract_state_dict(net, by='deepcopy')


def train(weights: torch.Tensor) -> None:
    """Train the network from the start, differentiably."""
    torchopt.recover_state_dict(net, start)
    optimizer = torchopt.MetaAdam(net, lr=0.05)
    for _ in range(50):
        losses = (net(x) - y).square()
        optimizer.step((weights * losses).sum() / weights.sum())


def learned_weights(rounds: int = 20) -> torch.Tensor:
    """Descend the loss of the trained network on the trusted points."""
    logits = torch.zeros(60, 1, requires_grad=True)
    outer = torch.optim.Adam([logits], lr=1.0)
    for _ in range(rounds):
        train(logits.sigmoid())
        outer.zero_grad()
        (net(trusted_x) - trusted_y).square().mean().backward()
        outer.step()
    return logits.sigmoid().detach()


def draw() -> Figure:
    """Draw what was learned, before and after."""
    weights = learned_weights()
    figure, axes = plt.subplots(1, 2, sharey=True, figsize=(7.2, 2.8))
    for ax, sizes, title in (
        (axes[0], torch.ones(60, 1), 'trained on all points alike'),
        (axes[1], weights, 'trained with the learned weights'),
    ):
        for kind, color, name in ((~wrong, 'C0', 'right'), (wrong, 'C3', 'wrong')):
            area = 1 + 40 * sizes[kind] * (0.5 if ax is axes[0] else 1)
            ax.scatter(x[kind], y[kind], area, color=color, alpha=0.85, lw=0, label=name)
        train(sizes)
        ax.plot(x, net(x).detach(), color='C1', label='fit')
        ax.scatter(trusted_x, trusted_y, 14, marker='x', color='C2', label='trusted')
        ax.set_title(title, fontsize=10)
    figure.legend(*axes[0].get_legend_handles_labels(), loc='lower center', ncols=4, fontsize=8)
    figure.tight_layout(rect=(0, 0.08, 1, 1))
    return figure


if __name__ == '__main__':
    # Transparent, with greys that read on light and on dark pages.
    plt.style.use(Path(__file__).parents[1] / '_static' / 'matplotlibrc')
    draw().savefig(sys.argv[1], dpi=200)
