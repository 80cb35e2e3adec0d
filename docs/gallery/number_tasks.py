"""Few-shot tasks of two-digit numbers, the network Conv4, and training without meta-learning."""

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn.functional import cross_entropy

import torchopt

WAYS, HELD_OUT = 5, 20


def load(seed):
    """Return training and test numbers, each with the digits of which images of them are made.

    Of the numbers from 0 to 99, 20 are for the test alone, and so are 74 images of each digit.

    Returns:
        Two pairs: numbers, shape (80,) or (20,), and images of digits, shape (10, images, 8, 8).
    """
    digits = load_digits()
    images, labels = torch.tensor(digits.images).float() / 16, torch.tensor(digits.target)
    images = torch.stack([images[labels == digit][:174] for digit in range(10)])
    numbers = torch.randperm(100, generator=torch.Generator().manual_seed(seed))
    return (numbers[HELD_OUT:], images[:, :100]), (numbers[:HELD_OUT], images[:, 100:])


def write(numbers, images):
    """Return images (..., 1, 8, 16) of numbers (...): random images of their digits."""
    halves = [
        images[digit, torch.randint(images.shape[1], numbers.shape)]
        for digit in (numbers // 10, numbers % 10)
    ]
    return torch.cat(halves, dim=-1).unsqueeze(-3)


def sample(source, tasks, shots, queries):
    """Return support and query images of random tasks: (tasks, WAYS, images, 1, 8, 16)."""
    numbers, images = source
    chosen = numbers[torch.rand(tasks, len(numbers)).argsort()[:, :WAYS, None]]
    return write(chosen.expand(-1, -1, shots + queries), images).split([shots, queries], dim=2)


def conv4(classes=WAYS, filters=32):
    """Make four blocks of convolution, batch normalization and ReLU, and a linear layer.

    Batch normalization takes the statistics of its batch, always. Three strides halve the image.
    """

    def block(channels, stride):
        norm = nn.BatchNorm2d(filters, track_running_stats=False)
        return nn.Sequential(nn.Conv2d(channels, filters, 3, stride, padding=1), norm, nn.ReLU())

    blocks = block(1, 2), block(filters, 2), block(filters, 2), block(filters, 1)
    return nn.Sequential(*blocks, nn.Flatten(), nn.Linear(2 * filters, classes))


def pretrain(source, steps):
    """Train Conv4 to tell all numbers apart, in batches of 100; then give it a new last layer."""
    numbers, images = source
    model = conv4(len(numbers))
    optimizer = torchopt.Adam(model.parameters(), lr=3e-3)
    for _ in range(steps):
        labels = torch.randint(len(numbers), (100,))
        optimizer.zero_grad()
        cross_entropy(model(write(numbers[labels], images)), labels).backward()
        optimizer.step()
    return conv4().state_dict() | model[:-1].state_dict()
