"""Which texts does this model owe its answer to?

A small GPT is trained on the help that Python has on its language. Its answer is its loss on a text
that it has not seen. Each training text has a weight, and one gradient, through all steps of AdamW,
says how the answer depends on all weights. Then comes the truth: the training is repeated without
random sets of texts, and the change of the answer is compared with the sum of the gradient over the
set. Ilyas and Engstrom, "MAGIC: Near-Optimal Data Attribution for Deep Learning", 2025, measure
attribution in this way: https://arxiv.org/abs/2504.16430.

The prediction is linear in the weights, so it is as good as the training is smooth in them
(Engstrom et al., "Optimizing ML Training with Metagradient Descent", 2025, call it metasmoothness:
https://arxiv.org/abs/2503.13751). What makes the training smooth:

- nothing random, so that all runs start from the same parameters and see the same batches;
- smooth activations (GELU), and no kink elsewhere;
- `eps_root` under the root of AdamW's second moment, here as large as the square of a tenth of a
  typical gradient: without it, a step hardly depends on the size of small gradients, but jumps with
  their sign;
- a learning rate that begins low, and is not too high: a run at the edge of stability forgets
  smoothness. The same holds for batches of very few texts;
- small sets, such as 5 % of the texts. Leaving out half of them is another training.

Rounding must not matter: `--double` runs all of it in float64, and should print the same table. The
test of this example compares the gradient with finite differences.

    python attribute_documents.py
"""

from __future__ import annotations

import argparse
import math
import os
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple

import matplotlib.pyplot as plt
import python_text
import torch
from gpt import GPT, losses
from python_text import Piece
from torch import Tensor, nn
from torch.func import functional_call
from tqdm import tqdm

import torchopt
from torchopt.unrolling import ModuleStep, Snapshots, Stored, Strategy


@dataclass(frozen=True)
class Settings:
    """Everything that a training run depends on, but for the weights."""

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
        trained = partial(functional_call, self.net, carry.params)
        return losses(lambda tokens: trained((tokens,)), self.corpus.query).mean()


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


def answers_without(
    settings: Settings, removed: list[list[int]], workers: int | None = None
) -> Tensor:
    """Return the answer without each set of texts; one process trains without one set at a time."""
    train = partial(answer_without, settings)
    if workers == 1:
        return torch.tensor([train(texts) for texts in tqdm(removed, leave=False)])
    with ProcessPoolExecutor(
        workers, get_context('spawn'), torch.set_num_threads, initargs=(1,)
    ) as pool:
        answers = tqdm(pool.map(train, removed), 'training again', len(removed), leave=False)
        return torch.tensor(list(answers))


class Comparison(NamedTuple):
    """How the answer changes without each set of texts: as predicted, and in truth."""

    predicted: Tensor
    actual: Tensor

    def correlation(self) -> tuple[float, float, float]:
        """Return Pearson's correlation and its 95 % interval, by Fisher's transformation."""
        value = torch.corrcoef(torch.stack(self))[0, 1].double().clamp(-1 + 1e-12, 1 - 1e-12)
        reach = 1.96 / math.sqrt(len(self.actual) - 3)
        ends = torch.tanh(torch.atanh(value) + torch.tensor([-reach, reach]))
        return value.item(), *ends.tolist()


def compare(
    settings: Settings, effects: Tensor, removed: list[list[int]], workers: int | None = None
) -> Comparison:
    """Predict the change of the answer without each set, and train again to see it."""
    *answers, answer = answers_without(settings, [*removed, []], workers)
    predicted = torch.stack([effects[texts].sum() for texts in removed])
    return Comparison(predicted, torch.stack(answers) - answer)


def random_sets(number: int, size: int, texts: int, seed: int) -> list[list[int]]:
    random = torch.Generator().manual_seed(seed)
    return [torch.randperm(texts, generator=random)[:size].tolist() for _ in range(number)]


def print_texts(title: str, chosen: list[int], effects: Tensor, pieces: list[Piece]) -> None:
    print(f'\n{title}')
    for text in chosen:
        start = ' '.join(pieces[text].text.split())
        print(f'  {effects[text]:+.5f}  {pieces[text].document:<20.20}  {start:.50}')


def print_documents(effects: Tensor, pieces: list[Piece], most: int = 3) -> None:
    sums: dict[str, float] = {}
    for piece, effect in zip(pieces, effects.tolist()):
        sums[piece.document] = sums.get(piece.document, 0.0) + effect
    names = sorted(sums, key=sums.__getitem__, reverse=True)
    print('\ndocuments, all their texts together')
    for name in names[:most] + names[-most:]:
        print(f'  {sums[name]:+.5f}  {name}')


def save_plot(random: Comparison, extreme: Comparison, path: Path) -> None:
    figure, axes = plt.subplots(figsize=(5.5, 5), layout='constrained')
    axes.axline((0, 0), slope=1, color='gray', linewidth=0.8, label='predicted = actual')
    axes.scatter(*random, s=18, label='random sets')
    axes.scatter(*extreme, s=30, marker='x', label='most helpful, most harmful')
    axes.set(xlabel='predicted change of the loss', ylabel='change after training again')
    axes.legend()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)
    print(f'\nplot: {path.resolve()}')


def run(
    settings: Settings,
    output: Path,
    subsets: int = 40,
    fraction: float = 0.05,
    workers: int | None = None,
) -> Comparison:
    """Print and plot all of it; return the comparison over the random sets."""
    if subsets < 4:
        raise ValueError(f'the interval of a correlation needs at least 4 sets, got {subsets}')
    torch.set_num_threads(1)
    pieces = python_text.load(settings.length, settings.pieces, settings.query).pieces
    print(f'{len(pieces)} training texts of {settings.length} characters, {settings.steps} steps')
    answer, slopes = gradient(settings)
    effects = -slopes  # of leaving a text out
    print(f'loss on the query, from {settings.query!r}: {answer:.4f} nats a character')

    size = max(1, round(fraction * len(pieces)))
    helpful = effects.argsort(descending=True).tolist()
    sets = random_sets(subsets, size, len(pieces), settings.seed + 1)
    both = compare(settings, effects, [*sets, helpful[:size], helpful[-size:]], workers)
    random, extreme = (
        Comparison(*(part[of] for part in both)) for of in (slice(-2), slice(-2, None))
    )
    print(f'\nchange of the loss without {size} texts  predicted   actual')
    print(
        f'{f"{subsets} random sets, standard deviation":<38}{random.predicted.std():9.5f}', end=''
    )
    print(f'{random.actual.std():9.5f}')
    for name, predicted, actual in zip(('the most helpful', 'the most harmful'), *extreme):
        print(f'{name:<38}{predicted:+9.5f}{actual:+9.5f}')
    value, low, high = random.correlation()
    print(f'correlation over the random sets: {value:.3f}, 95 % interval {low:.3f} to {high:.3f}')

    print_texts('without these, the loss would rise most', helpful[:5], effects, pieces)
    print_texts('without these, it would fall most', helpful[:-6:-1], effects, pieces)
    print_documents(effects, pieces)
    save_plot(random, extreme, output / 'attribute_documents.png')
    return random


if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--output', type=Path, default=Path('demo-output'), help='for the plot')
    parser.add_argument('--query', default=Settings.query, help='document of which a part is asked')
    parser.add_argument('--steps', type=int, default=Settings.steps, help='of AdamW')
    parser.add_argument('--subsets', type=int, default=40, help='random sets to train without')
    parser.add_argument('--fraction', type=float, default=0.05, help='of the texts, in a set')
    parser.add_argument('--seed', type=int, default=Settings.seed)
    parser.add_argument('--workers', type=int, default=os.cpu_count(), help='processes')
    parser.add_argument('--double', action='store_true', help='float64')
    chosen = parser.parse_args()
    run(
        Settings(
            query=chosen.query,
            steps=chosen.steps,
            seed=chosen.seed,
            dtype=torch.float64 if chosen.double else torch.float32,
        ),
        chosen.output,
        chosen.subsets,
        chosen.fraction,
        chosen.workers,
    )
