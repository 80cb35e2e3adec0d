"""Few-shot tasks of digits, the network Conv4, and how it is trained without meta-learning."""

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn.functional import cross_entropy

import torchopt

WAYS, HELD_OUT = 3, 4


def load_classes(seed):
    """Return held-out and training digits: (classes, images of a class, 1, 8, 8).

    Every training digit gives four classes: upright, and turned by 90, 180 and 270 degrees.
    """
    digits = load_digits()
    images, labels = torch.tensor(digits.images).float() / 16, torch.tensor(digits.target)
    order = torch.randperm(10, generator=torch.Generator().manual_seed(seed))
    classes = torch.stack([images[labels == digit][: labels.bincount().min()] for digit in order])
    held_out, training = classes[:, :, None].split([HELD_OUT, 10 - HELD_OUT])
    return held_out, torch.cat([training.rot90(turns, (-2, -1)) for turns in range(4)])


def sample(classes, tasks, shots, queries):
    """Return support and query images of random tasks: (tasks, WAYS, images, 1, 8, 8)."""
    chosen = torch.rand(tasks, len(classes)).argsort()[:, :WAYS, None]
    order = torch.rand(tasks, WAYS, classes.shape[1]).argsort()[..., : shots + queries]
    return classes[chosen, order].split([shots, queries], dim=2)


def conv4(classes=WAYS, filters=32):
    """Make four blocks of convolution, batch normalization and ReLU, and a linear layer.

    Batch normalization takes the statistics of its batch, always. Two strides halve the image.
    """

    def block(channels, stride):
        norm = nn.BatchNorm2d(filters, track_running_stats=False)
        return nn.Sequential(nn.Conv2d(channels, filters, 3, stride, padding=1), norm, nn.ReLU())

    blocks = block(1, 2), block(filters, 2), block(filters, 1), block(filters, 1)
    return nn.Sequential(*blocks, nn.Flatten(), nn.Linear(4 * filters, classes))


def pretrain(classes, steps):
    """Train Conv4 to tell all classes apart, in batches of 100; then give it a new last layer."""
    model = conv4(len(classes))
    optimizer = torchopt.Adam(model.parameters(), lr=3e-3)
    for _ in range(steps):
        labels = torch.randint(len(classes), (100,))
        images = classes[labels, torch.randint(classes.shape[1], (100,))]
        optimizer.zero_grad()
        cross_entropy(model(images), labels).backward()
        optimizer.step()
    return conv4().state_dict() | model[:-1].state_dict()
