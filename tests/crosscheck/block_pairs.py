"""Building blocks of this library beside optax's, each as a whole optimizer."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax
import optax.contrib

import torchopt
from crosscheck.pairs import Pair
from torchopt import transform as t


def descending(label: str, mine: Any, theirs: Any) -> Pair:
    """A pair of blocks, of whose updates ``-lr`` times is added."""
    return Pair(
        label,
        lambda lr: torchopt.chain(mine, t.scale_by_learning_rate(lr)),
        lambda lr: optax.chain(theirs, optax.scale_by_learning_rate(lr)),
    )


def lookahead_in_the_state(lr: Any) -> Any:
    """optax's parameters are pairs: keep the slow ones in the state instead."""
    pair = optax.lookahead(optax.sgd(lr, momentum=0.5), 3, 0.4)

    def init(params: Any) -> Any:
        return pair.init(optax.LookaheadParams.init_synced(params)), params

    def update(gradients: Any, state: Any, params: Any) -> Any:
        inner, slow = state
        updates, inner = pair.update(gradients, inner, optax.LookaheadParams(params, slow))
        return updates.fast, (inner, jax.tree.map(jnp.add, slow, updates.slow))

    return optax.GradientTransformation(init, update)


def warmup(lr: Any) -> Any:
    return lambda count: lr * (count + 1) / (count + 2)


def schedule_free(lr: Any) -> torchopt.GradientTransformation:
    inner = torchopt.adam(warmup(lr), betas=(0, 0.9), eps=1e-3)
    return torchopt.schedule_free(inner, warmup(lr), 0.8, 1.5)


def their_schedule_free(lr: Any) -> Any:
    # optax asks one schedule from 0 and the other from 1, and counts in int32, whose quotients are
    # float32.
    rate = warmup(lr)
    return optax.contrib.schedule_free(
        optax.adam(lambda count: rate(count.astype(jnp.float64)), b1=0.0, b2=0.9, eps=1e-3),
        lambda count: rate(count.astype(jnp.float64) - 1),
        b1=0.8,
        weight_lr_power=1.5,
    )


LABELS = {'w': 'matrix', 'b': 'other'}
BLOCK_PAIRS = [
    Pair(
        'accumulate_gradients',
        lambda lr: t.accumulate_gradients(torchopt.adam(lr, eps=1e-3), 2),
        lambda lr: optax.MultiSteps(optax.adam(lr, eps=1e-3), 2, accumulator_dtype=jnp.float64),
    ),
    Pair(
        'apply_if_finite',
        lambda lr: t.apply_if_finite(torchopt.adam(lr, eps=1e-3)),
        lambda lr: optax.apply_if_finite(optax.adam(lr, eps=1e-3), 5),
    ),
    descending('clip_by_block_rms', t.clip_by_block_rms(0.5), optax.clip_by_block_rms(0.5)),
    descending('clip_by_value', t.clip_by_value(0.4), optax.clip(0.4)),
    descending('ema', t.ema(0.8), optax.ema(0.8)),
    descending('ema-raw', t.ema(0.8, debias=False), optax.ema(0.8, debias=False)),
    Pair(
        'lookahead',
        lambda lr: t.lookahead(torchopt.sgd(lr, momentum=0.5), 3, 0.4),
        lookahead_in_the_state,
    ),
    Pair(
        'partition',
        lambda lr: t.partition(
            {'matrix': torchopt.adam(lr, eps=1e-3), 'other': torchopt.sgd(lr, momentum=0.7)}, LABELS
        ),
        lambda lr: optax.partition(
            {'matrix': optax.adam(lr, eps=1e-3), 'other': optax.sgd(lr, momentum=0.7)}, LABELS
        ),
    ),
    descending(
        'scale_by_trust_ratio',
        t.scale_by_trust_ratio(0.7, eps=0.1),
        optax.scale_by_trust_ratio(trust_coefficient=0.7, eps=0.1),
    ),
    Pair('schedule_free', schedule_free, their_schedule_free),
    Pair(
        'schedule_free-sgd',
        lambda lr: torchopt.schedule_free(torchopt.sgd(lr)),
        partial(optax.contrib.schedule_free_sgd),
    ),
]
"""Each is a function of the learning rate, as in :data:`crosscheck.pairs.PAIRS`."""
