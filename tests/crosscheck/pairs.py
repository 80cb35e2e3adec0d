"""Optimizers of this library beside optax's, with equal options."""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import optax
import optax.contrib

import torchopt


class Pair(NamedTuple):
    """The same optimizer twice, each as a function of the learning rate."""

    label: str
    mine: Any
    theirs: Any


MASK = {'w': True, 'b': False}


def decayed(weight_decay: float, make: Any) -> Any:
    return lambda lr: optax.chain(optax.add_decayed_weights(weight_decay), make(lr))


# eps is 0 where optax and torch place it differently: optax's AdaGrad has it under the root, its
# RAdam after the bias correction. AMSGrad is left out: optax takes the maximum of corrected
# moments.
PAIRS = [
    Pair('sgd', torchopt.sgd, optax.sgd),
    Pair('momentum', partial(torchopt.sgd, momentum=0.7), partial(optax.sgd, momentum=0.7)),
    Pair(
        'nesterov',
        partial(torchopt.sgd, momentum=0.7, nesterov=True),
        partial(optax.sgd, momentum=0.7, nesterov=True),
    ),
    Pair(
        'sgd-weight_decay',
        partial(torchopt.sgd, momentum=0.7, weight_decay=0.1),
        decayed(0.1, partial(optax.sgd, momentum=0.7)),
    ),
    Pair(
        'adam',
        partial(torchopt.adam, betas=(0.8, 0.95), eps=1e-3),
        partial(optax.adam, b1=0.8, b2=0.95, eps=1e-3),
    ),
    Pair(
        'adam-eps_root',
        partial(torchopt.adam, eps_root=1e-2),
        partial(optax.adam, eps_root=1e-2),
    ),
    Pair(
        'adam-weight_decay',
        partial(torchopt.adam, eps_root=1e-8, weight_decay=0.1),
        decayed(0.1, partial(optax.adam, eps_root=1e-8)),
    ),
    Pair(
        'adamw',
        partial(torchopt.adamw, weight_decay=0.1, eps_root=1e-4),
        partial(optax.adamw, weight_decay=0.1, eps_root=1e-4),
    ),
    Pair(
        'adamw-mask',
        partial(torchopt.adamw, weight_decay=0.1, mask=MASK),
        partial(optax.adamw, weight_decay=0.1, mask=MASK),
    ),
    Pair(
        'adam-decoupled',
        partial(torchopt.adam, weight_decay=0.1, decoupled_weight_decay=True),
        partial(optax.adamw, weight_decay=0.1),
    ),
    Pair(
        'adamax',
        partial(torchopt.adamax, betas=(0.8, 0.95), eps=1e-3),
        partial(optax.adamax, b1=0.8, b2=0.95, eps=1e-3),
    ),
    Pair(
        'radam',
        partial(torchopt.radam, betas=(0.9, 0.9), eps=0.0),
        partial(optax.radam, b1=0.9, b2=0.9, eps=0.0),
    ),
    Pair(
        'rmsprop',
        partial(torchopt.rmsprop, alpha=0.9, eps=1e-3),
        partial(optax.rmsprop, decay=0.9, eps=1e-3, eps_in_sqrt=False),
    ),
    Pair(
        'rmsprop-centered',
        partial(torchopt.rmsprop, alpha=0.9, centered=True),
        partial(optax.rmsprop, decay=0.9, centered=True, eps_in_sqrt=False),
    ),
    Pair(
        'rmsprop-momentum',
        partial(torchopt.rmsprop, alpha=0.9, momentum=0.7, nesterov=True, initial_scale=0.5),
        partial(
            optax.rmsprop,
            decay=0.9,
            momentum=0.7,
            nesterov=True,
            initial_scale=0.5,
            eps_in_sqrt=False,
        ),
    ),
    Pair(
        'adagrad',
        partial(torchopt.adagrad, eps=0.0, initial_accumulator_value=0.2),
        partial(optax.adagrad, eps=0.0, initial_accumulator_value=0.2),
    ),
    Pair(
        'adadelta',
        partial(torchopt.adadelta, rho=0.8, eps=1e-3),
        partial(optax.adadelta, rho=0.8, eps=1e-3),
    ),
    Pair(
        'lion',
        partial(torchopt.lion, betas=(0.8, 0.95), weight_decay=0.1),
        partial(optax.lion, b1=0.8, b2=0.95, weight_decay=0.1),
    ),
    # optax has 1 - b2 where the paper and its program have b2.
    Pair(
        'adan',
        partial(torchopt.adan, betas=(0.9, 0.5, 0.95), eps=1e-3, eps_root=1e-4, weight_decay=0.1),
        partial(optax.adan, b1=0.9, b2=0.5, b3=0.95, eps=1e-3, eps_root=1e-4, weight_decay=0.1),
    ),
    Pair(
        'lamb',
        partial(torchopt.lamb, betas=(0.8, 0.95), eps=1e-3, eps_root=1e-4, weight_decay=0.1),
        partial(optax.lamb, b1=0.8, b2=0.95, eps=1e-3, eps_root=1e-4, weight_decay=0.1),
    ),
    Pair(
        'lamb-mask',
        partial(torchopt.lamb, weight_decay=0.1, mask=MASK),
        partial(optax.lamb, weight_decay=0.1, mask=MASK),
    ),
    # optax corrects the average for its beginning, in Nesterov's sum by two different factors.
    Pair(
        'muon',
        partial(
            torchopt.muon,
            weight_decay=0.0,
            nesterov=False,
            eps=0.0,
            others=torchopt.transform.scale_by_adam(eps=1e-3),
        ),
        lambda lr: optax.partition(
            {
                'w': optax.contrib.muon(lr, nesterov=False, eps=0.0),
                'b': optax.adam(lr, eps=1e-3),
            },
            {'w': 'w', 'b': 'b'},
        ),
    ),
]
