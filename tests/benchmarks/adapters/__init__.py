"""The timed computations in the terms of each library, one adapter a file."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn.functional import cross_entropy, mse_loss

LR = 0.01
TORCH_OPTIMIZERS = {'adam': torch.optim.Adam, 'sgd': torch.optim.SGD}

Tensors = list[torch.Tensor]


class Task(NamedTuple):
    """Inputs and targets for adaptation and for the outer loss, of one task or of all, stacked."""

    x: torch.Tensor
    y: torch.Tensor
    outer_x: torch.Tensor
    outer_y: torch.Tensor


class Adapter:
    """The interface to a library; the pages show n/a for methods it does not override.

    Attributes:
        eps_roots: The supported values of ``eps_root``; the first one is timed.
    """

    eps_roots: tuple[float, ...] = (0.0,)

    def adam_step(
        self, grads: Tensors, mu: Tensors, nu: Tensors, eps_root: float
    ) -> Callable[[], Tensors]:
        """Return a function that returns updates, new ``mu`` and new ``nu`` in one list."""
        raise NotImplementedError

    def meta_gradient(
        self, net: nn.Module, tasks: list[Task], rule: str, eps_root: float, steps: int
    ) -> Callable[[], Tensors]:
        """Return a function that returns the meta-gradient of the mean outer loss.

        Every task takes ``steps`` inner steps of ``rule``, which is ``'adam'`` or ``'sgd'``.
        """
        raise NotImplementedError

    def batched_meta_gradient(
        self, net: nn.Module, tasks: Task, rule: str, eps_root: float, steps: int
    ) -> Callable[[], Tensors]:
        """Like ``meta_gradient``, for all tasks at once."""
        raise NotImplementedError

    def meta_step(
        self,
        net: nn.Module,
        tasks: Task,
        rule: str,
        eps_root: float,
        steps: int,
        *,
        batched: bool,
    ) -> Callable[[], Tensors]:
        """Return one of the two functions, given all tasks, stacked."""
        if batched:
            return self.batched_meta_gradient(net, tasks, rule, eps_root, steps)
        each = [Task(*task) for task in zip(*tasks)]
        return self.meta_gradient(net, each, rule, eps_root, steps)


def error(prediction: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Return the loss: the cross-entropy of labels, or the mean squared error of numbers."""
    return (mse_loss if target.is_floating_point() else cross_entropy)(prediction, target)


def mean_gradient(losses: Tensors, net: nn.Module) -> Tensors:
    """Differentiate the mean of ``losses``."""
    return list(torch.autograd.grad(torch.stack(losses).mean(), list(net.parameters())))


def fingerprint(tensors: Tensors) -> list[float]:
    """Return a few thousand values of a result, to compare two libraries by."""
    values = torch.cat([tensor.detach().reshape(-1) for tensor in tensors])
    return values[:: 1 + len(values) // 4000].tolist()


def load(adapter: str, options: dict[str, Any]) -> Adapter:
    """Make the adapter named ``module:Class``."""
    module, name = adapter.split(':')
    return getattr(importlib.import_module(f'adapters.{module}'), name)(**options)
