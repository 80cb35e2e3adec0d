"""The words in boxes."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

import torch

from torchopt_utils.visual.folding import Fold
from torchopt_utils.visual.graph import Graph
from torchopt_utils.visual.parts import is_view, operation_of
from torchopt_utils.visual.steps import InnerStep

_LINES, _WORDS = 4, 3


def few_lines(lines: Sequence[str], most: int = _LINES) -> list[str]:
    """Return the first lines, and how many are left out."""
    if len(lines) <= most:
        return [*lines]
    return [*lines[: most - 1], f'and {len(lines) - most + 1} more']


def few_parameters(names: Sequence[str]) -> str:
    """Join the names of parameters if they are few, or count them."""
    return ', '.join(names) if len(names) <= _WORDS else f'{len(names)} parameters'


def few_words(words: Iterable[str], most: int = _WORDS) -> str:
    """Join the first words, each once, and count the rest."""
    each = list(dict.fromkeys(words))
    if len(each) <= most + 1:
        return ', '.join(each)
    return f'{", ".join(each[:most])} and {len(each) - most} more'


def shape_of(tensor: torch.Tensor) -> str:
    """Return the shape of a tensor, as torch writes it."""
    return str(tuple(tensor.shape))


def operations_line(graph: Graph, numbers: Iterable[int]) -> list[str]:
    """Return a line with the operations at ``numbers``, or none if they are only views."""
    names = [operation_of(graph, number) for number in numbers]
    words = [_snake_case(name) for name in names if not is_view(name)]
    return [few_words(words)] if words else []


def optimizer_of(step: InnerStep) -> str:
    """Return the name of the rule with a space behind it, or nothing if it is not known."""
    is_rule = step.by.startswith('Meta') and step.by != 'MetaOptimizer'
    return f'{step.by.removeprefix("Meta")} ' if is_rule else ''


def step_title(step: InnerStep, run: int | None, left_out: int) -> str:
    """Return the title of a step.

    Args:
        step: The step.
        run: Number of its run, from 1, if there are several.
        left_out: Number of steps before the first one in the graph.
    """
    title = f'step {step.ordinal + left_out}'
    if run is not None:
        title = f'run {run}, {title}'
    return f'{title}, first order' if step.first_order else title


def fold_lines(fold: Fold) -> list[str]:
    """Return the text of the box that stands for several steps."""
    if fold.runs:
        return [f'{fold.steps} steps', f'in {fold.runs} more runs']
    more = '' if fold.is_whole_run else 'more '
    return [f'{fold.steps} {more}step{"" if fold.steps == 1 else "s"}', fold.by]


def _snake_case(name: str) -> str:
    return re.sub(r'(?<=[a-z0-9])(?=[A-Z])', '_', name).lower()
