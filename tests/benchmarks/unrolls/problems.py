"""The networks that are trained, on examples whose weights are learned."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

LR = 1e-3
EPS_ROOT = 1e-8  # without it torchopt 0.7.3 has no derivative where a gradient is 0


class Problem(NamedTuple):
    """A network, its examples and the order in which it sees them.

    Attributes:
        net: The network.
        inputs: All training examples.
        targets: Their labels.
        held_out: Inputs and labels of the outer loss.
        weights: The meta-parameters, one for each training example.
        batches: Indices of the examples of every step.
    """

    net: nn.Module
    inputs: Tensor
    targets: Tensor
    held_out: tuple[Tensor, Tensor]
    weights: Tensor
    batches: Tensor


def weighted_loss(logits: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
    """Return the weighted mean of the examples' cross-entropies."""
    losses = cross_entropy(logits.flatten(0, -2), targets.flatten(), reduction='none')
    return (losses.view(len(weights), -1).mean(1) * weights).mean()


class Block(nn.Module):
    """A transformer layer whose attention can be differentiated twice."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norms = nn.ModuleList([nn.LayerNorm(width), nn.LayerNorm(width)])
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )

    def forward(self, x: Tensor) -> Tensor:
        batch, length, width = x.shape
        qkv = self.qkv(self.norms[0](x)).view(batch, length, 3, self.heads, width // self.heads)
        query, key, value = qkv.permute(2, 0, 3, 1, 4)
        scores = query @ key.transpose(-1, -2) / math.sqrt(width // self.heads)
        mixed = scores.softmax(-1) @ value
        x = x + self.out(mixed.transpose(1, 2).reshape(batch, length, width))
        return x + self.mlp(self.norms[1](x))


class Transformer(nn.Module):
    """Predicts a label at every position."""

    def __init__(self, vocabulary: int, length: int, width: int, heads: int, layers: int) -> None:
        super().__init__()
        self.tokens = nn.Embedding(vocabulary, width)
        self.positions = nn.Parameter(0.02 * torch.randn(length, width))
        self.blocks = nn.Sequential(*(Block(width, heads) for _ in range(layers)))
        self.head = nn.Linear(width, vocabulary)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.blocks(self.tokens(tokens) + self.positions))


def mlp(steps: int) -> Problem:
    """64-256-256-10, batches of 64 of 512 examples."""
    net = nn.Sequential(
        nn.Linear(64, 256), nn.Tanh(), nn.Linear(256, 256), nn.Tanh(), nn.Linear(256, 10)
    )
    inputs, targets = torch.randn(640, 64), torch.randint(10, (640,))
    return problem_of(net, inputs, targets, steps, batch=64)


def transformer(steps: int) -> Problem:
    """4 layers of width 128 with 4 heads, batches of 16 of 128 sequences of 32 tokens."""
    net = Transformer(vocabulary=64, length=32, width=128, heads=4, layers=4)
    tokens = torch.randint(64, (160, 33))
    return problem_of(net, tokens[:, :-1], tokens[:, 1:], steps, batch=16)


def problem_of(net: nn.Module, inputs: Tensor, targets: Tensor, steps: int, batch: int) -> Problem:
    """Hold out a fifth of the examples, and draw the batches."""
    held_out = len(inputs) // 5
    weights = torch.ones(len(inputs) - held_out, requires_grad=True)
    return Problem(
        net,
        inputs[held_out:],
        targets[held_out:],
        (inputs[:held_out], targets[:held_out]),
        weights,
        torch.randint(len(weights), (steps, batch)),
    )


PROBLEMS = {'MLP': mlp, 'transformer': transformer}
