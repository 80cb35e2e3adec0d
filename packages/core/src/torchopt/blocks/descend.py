"""What surrounds the rule of every optimizer: sign, weight decay and learning rate."""

from __future__ import annotations

from torchopt.base import GradientTransformation, chain, identity
from torchopt.blocks.add_decayed_weights import add_decayed_weights
from torchopt.blocks.scale import flip_sign, scale_by_learning_rate
from torchopt.typing import LearningRate, Mask, Scalar


def descend(
    *rule: GradientTransformation,
    lr: LearningRate,
    weight_decay: Scalar = 0.0,
    decoupled_weight_decay: bool = False,
    mask: Mask | None = None,
    maximize: bool = False,
) -> GradientTransformation:
    """Return the optimizer that moves parameters against the direction that ``rule`` gives.

    Args:
        rule: Transformations from gradients to a direction, applied from first to last.
        lr: Learning rate >= 0, a schedule, or a tree of tensors shaped like the parameters.
        weight_decay: Factor >= 0; ``weight_decay * params`` is added to the gradients.
        decoupled_weight_decay: Add it to the direction instead.
        mask: Which parameters decay; all of them by default.
        maximize: Move along the direction instead.

    Raises:
        ValueError: ``lr`` or ``weight_decay`` is negative.
        TypeError: one of them is of a type that is not listed above.
    """
    decay = add_decayed_weights(weight_decay, mask)
    return chain(
        flip_sign(maximize),
        identity() if decoupled_weight_decay else decay,
        *rule,
        decay if decoupled_weight_decay else identity(),
        scale_by_learning_rate(lr),
    )
