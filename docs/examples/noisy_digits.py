"""Handwritten digits of which most, some or none have a wrong label."""

from __future__ import annotations

from typing import NamedTuple

import torch
from sklearn.datasets import load_digits
from torch import Tensor


class Examples(NamedTuple):
    """Images (number, 64) from 0 to 1, and labels (number,)."""

    images: Tensor
    labels: Tensor


class Split(NamedTuple):
    """Training examples, which of their labels are wrong, and clean examples."""

    training: Examples
    corrupted: Tensor
    held_out: Examples
    test: Examples


def load(seed: int, noise: float = 0.6, held_out: int = 50, test: int = 500) -> Split:
    """Split the digits, and give a random part ``noise`` of the training examples a wrong label."""
    digits = load_digits()
    images, labels = torch.tensor(digits.data).float() / 16, torch.tensor(digits.target)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    tested, trusted, training = order.split([test, held_out, len(labels) - test - held_out])
    corrupted = torch.rand(len(training)) < noise
    wrong = (labels[training] + torch.randint(1, 10, (len(training),))) % 10
    return Split(
        Examples(images[training], torch.where(corrupted, wrong, labels[training])),
        corrupted,
        Examples(images[trusted], labels[trusted]),
        Examples(images[tested], labels[tested]),
    )
