"""What :func:`torchopt.explain` returns: data, with a text and a page made of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch

Kind: TypeAlias = Literal[
    'backward-failed',
    'cancelled',
    'deepcopy',
    'exploding',
    'first-order',
    'freed',
    'freed-earlier-round',
    'hidden',
    'loss-has-no-graph',
    'low-precision',
    'no-step',
    'not-floating',
    'not-finite',
    'older-loss',
    'optimizer-holds-old',
    'other-tensor',
    'passes-no-gradient',
    'plain-optimizer',
    'requires-no-grad',
    'state-detached',
    'stop-gradient',
    'truncated',
    'unseen-steps',
    'unused',
    'vanishing',
    'written-in-place',
    'wrt-after-steps',
    'zero',
]
"""What a :class:`Finding` is about."""


@dataclass(frozen=True)
class Finding:
    """One thing that explains a gradient.

    Attributes:
        kind: What it is about, for programs.
        text: What was found, in words.
        change: The line to change; empty where nothing has to be changed.
    """

    kind: Kind
    text: str
    change: str = ''


@dataclass(frozen=True)
class StepReport:
    """One inner step that the gradient flows through.

    Attributes:
        index: Number of the step on its path, from 1. Steps side by side, such as the same step of
            several tasks, share a number and a report.
        by: What took it.
        side_by_side: How many steps share the number.
        norm: Norm of the cotangent of the parameters that the step made, over all parameters
            together; None if it was not measured.
        is_finite: Whether the cotangent has neither NaN nor infinity.
        first_order: Whether the update is independent of the parameters before it.
    """

    index: int
    by: str
    side_by_side: int
    norm: float | None
    is_finite: bool
    first_order: bool


@dataclass(frozen=True)
class TensorReport:
    """The gradient of the loss with respect to one tensor.

    Attributes:
        name: Its name in ``wrt``.
        shape: Its shape.
        dtype: Its dtype.
        is_leaf: Whether it is a leaf of the graph.
        reached: Whether the graph of the loss leads to it.
        steps: Number of inner steps between the loss and the tensor.
        norm: Norm of the gradient; None if there is none, or if it was not measured.
        findings: What explains it, the likeliest first.
    """

    name: str
    shape: torch.Size
    dtype: torch.dtype
    is_leaf: bool
    reached: bool
    steps: int
    norm: float | None
    findings: tuple[Finding, ...]


@dataclass(frozen=True)
class Explanation:
    """The answer of :func:`torchopt.explain`; ``print`` it, or show it in a notebook.

    Attributes:
        loss: Value of the loss.
        operations: Number of operations in its graph.
        tensors: A report for every tensor of ``wrt``.
        steps: A report for every inner step, from the first to the last.
        findings: What concerns the whole graph, the likeliest first.
    """

    loss: float
    operations: int
    tensors: tuple[TensorReport, ...]
    steps: tuple[StepReport, ...]
    findings: tuple[Finding, ...]

    def __getitem__(self, name: str) -> TensorReport:
        """Return the report of the tensor of this name.

        Raises:
            KeyError: there is none.
        """
        for tensor in self.tensors:
            if tensor.name == name:
                return tensor
        raise KeyError(name)

    @property
    def kinds(self) -> tuple[Kind, ...]:
        """Kinds of all findings, of the graph and of the tensors, each once."""
        found = [*self.findings, *(each for tensor in self.tensors for each in tensor.findings)]
        return tuple(dict.fromkeys(finding.kind for finding in found))

    def __str__(self) -> str:
        from torchopt_utils.explaining.text import as_text

        return as_text(self)

    def _repr_html_(self) -> str:
        from torchopt_utils.explaining.page import as_html

        return as_html(self)
