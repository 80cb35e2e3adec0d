"""A training run of a small GPT, as a function of the weights of its training texts."""

from __future__ import annotations

import math
from dataclasses import dataclass

import python_text
import torch
from gpt import GPT, losses
from torch import Tensor, nn
from torch.func import functional_call

import torchopt
from torchopt.unrolling import ModuleStep, Snapshots, Stored, Strategy


@dataclass(frozen=True)
class Settings:
    """Everything that a training run depends on, but for the weights.

    Attributes:
        query: Document whose beginning is learned; the query is what follows.
        length: Characters of a text.
        pieces: Texts taken from each document, at most.
        batch: Texts in a batch.
        steps: Steps of AdamW.
        width: Width of the model.
        layers: Number of its blocks.
        rate: Highest learning rate.
        eps_root: Added to AdamW's second moment under its root.
        seed: Of the initial parameters and the order of the texts.
        dtype: Of the parameters.
    """

    query: str = 'exceptions'
    length: int = 65
    pieces: int = 8
    batch: int = 16
    steps: int = 200
    width: int = 64
    layers: int = 2
    rate: float = 1e-3
    eps_root: float = 1e-7
    seed: int = 0
    dtype: torch.dtype = torch.float32


class Training:
    """A training run as a function of the weights: always the same start, and the same batches."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        torch.manual_seed(settings.seed)
        self.corpus = python_text.load(settings.length, settings.pieces, settings.query)
        self.net = GPT(
            python_text.VOCABULARY, settings.length - 1, settings.width, settings.layers
        ).to(settings.dtype)
        number = len(self.corpus.pieces)
        epochs = math.ceil(settings.steps * settings.batch / number)
        order = torch.cat([torch.randperm(number) for _ in range(epochs)])
        self.batches = order[: settings.steps * settings.batch].view(settings.steps, -1)
        self.weights = torch.ones(number, dtype=settings.dtype)
        optimizer = torchopt.adamw(self.rate, eps_root=settings.eps_root)
        self.step = ModuleStep(self.net, optimizer, self.weighted_loss)

    def rate(self, count: Tensor) -> Tensor:
        """Return the learning rate, which rises in a tenth of the steps, and falls to 0."""
        done = count / self.settings.steps
        return self.settings.rate * torch.minimum(10 * done, (1 - done) / 0.9)

    def weighted_loss(self, net: nn.Module, batch: Tensor, weights: Tensor) -> Tensor:
        """Return the weighted mean over a batch: a text of weight 0 might as well not be there."""
        chosen = weights[batch]
        return (chosen * losses(net, self.corpus.tokens[batch])).sum() / chosen.sum()

    def answer(self, weights: Tensor, backward: Strategy) -> Tensor:
        """Train with these weights; return the loss on the query."""
        carry, _ = torchopt.unroll(
            self.step, self.step.init(), self.batches, weights, backward=backward
        )
        return losses(
            lambda texts: functional_call(self.net, carry.params, (texts,)), self.corpus.query
        ).mean()


def gradient(settings: Settings) -> tuple[float, Tensor]:
    """Return the answer, and its gradient by the weights of all texts."""
    training = Training(settings)
    weights = training.weights.requires_grad_()
    answer = training.answer(weights, Snapshots())
    return answer.item(), torch.autograd.grad(answer, weights)[0]


@torch.no_grad()
def answer_without(settings: Settings, removed: list[int]) -> float:
    """Train without the texts of these indices; return the loss on the query."""
    training = Training(settings)
    training.weights[removed] = 0.0
    if not training.weights[training.batches].any(1).all():
        raise ValueError('a batch has no text left: leave out fewer texts, or take larger batches')
    return training.answer(training.weights, Stored()).item()
