"""Which texts does this model owe its answer to?

A small GPT is trained on the help that Python has on its language. Its answer is its loss on a text
that it has not seen. Each training text has a weight, and one gradient, through all steps of AdamW,
says how the answer depends on all weights. Then comes the truth: the training is repeated without
random sets of texts, and the change of the answer is compared with the sum of the gradient over the
set. Ilyas and Engstrom, "MAGIC: Near-Optimal Data Attribution for Deep Learning", 2025, measure
attribution in this way: https://arxiv.org/abs/2504.16430.

The prediction is linear in the weights, so it is as good as the training is smooth in them
(Engstrom et al., "Optimizing ML Training with Metagradient Descent", 2025, call it metasmoothness:
https://arxiv.org/abs/2503.13751). So this run takes care of the following:

- All runs start from the same parameters and see the same batches. Nothing is random: no dropout.
- Activations are smooth (GELU).
- `eps_root`, under the root of AdamW's second moment, is not 0. Otherwise the step of a parameter
  with tiny gradients hardly depends on their size, but jumps with their sign.
- The learning rate begins low and is moderate, and a batch has more than a few texts.
- Sets are small: 5 % of the texts. Training without half of them is another training.

What no linear prediction sees: with less data, whichever, the model learns a little less. So the
actual changes lie above the predicted ones in the mean, which the correlation ignores.

Rounding must not matter: with `--double`, the same table is computed in float64. A test of this
example compares the gradient with finite differences.

    python attribute_documents.py
"""

from __future__ import annotations

import argparse
import math
import os
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple

import matplotlib.pyplot as plt
import python_text
import torch
from gpt_training import Settings, answer_without, gradient
from python_text import Piece
from torch import Tensor
from tqdm import tqdm


def answers_without(
    settings: Settings, removed: list[list[int]], workers: int | None = None
) -> Tensor:
    """Return the answer without each set of texts; one process trains without one set at a time."""
    train = partial(answer_without, settings)
    if workers == 1:
        answers = [train(texts) for texts in tqdm(removed, 'training again', leave=False)]
        return torch.tensor(answers, dtype=torch.float64)
    with ProcessPoolExecutor(
        workers, get_context('spawn'), torch.set_num_threads, initargs=(1,)
    ) as pool:
        answers = tqdm(pool.map(train, removed), 'training again', len(removed), leave=False)
        return torch.tensor(list(answers), dtype=torch.float64)


class Comparison(NamedTuple):
    """How the answer changes without each set of texts: as predicted, and in truth."""

    predicted: Tensor
    actual: Tensor

    def correlation(self) -> tuple[float, float, float]:
        """Return Pearson's correlation and its 95 % interval, by Fisher's transformation."""
        value = torch.corrcoef(torch.stack(self))[0, 1]
        reach = 1.96 / math.sqrt(len(self.actual) - 3)
        ends = torch.tanh(torch.atanh(value) + torch.tensor([-reach, reach], dtype=torch.float64))
        return value.item(), *ends.tolist()


def compare(
    settings: Settings, effects: Tensor, removed: list[list[int]], workers: int | None = None
) -> Comparison:
    """Predict the change of the answer without each set, and train again to see it."""
    *answers, answer = answers_without(settings, [*removed, []], workers)
    predicted = torch.stack([effects[texts].sum() for texts in removed]).double()
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
    print(f'\nchange of the loss without {size} texts{"predicted":>14}{"actual":>10}')
    rows = [
        (f'{subsets} random sets, mean', *(part.mean() for part in random)),
        (f'{subsets} random sets, standard deviation', *(part.std() for part in random)),
        *zip(('the most helpful', 'the most harmful'), *extreme),
    ]
    for name, predicted, actual in rows:
        print(f'{name:<38}{predicted:10.5f}{actual:10.5f}')
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
