"""The transformation that averages gradients over ranks."""

from __future__ import annotations

import torch.distributed as dist

from torchopt.authoring.origin import recorded
from torchopt.authoring.transformation import stateless
from torchopt.base import GradientTransformation
from torchopt.distributed.reductions import mean_over_ranks


@recorded
def average_gradients(group: dist.ProcessGroup | None = None) -> GradientTransformation:
    """Replace all gradients by their mean over ranks, in one collective.

    Before any rule, it makes an inner loop data-parallel: each rank computes the loss of its own
    batch, and all ranks take the same step. The step is differentiable like any other; see
    :func:`torchopt.distributed.sum_over_ranks` for what its derivative means. It needs the same
    gradients to be absent (None) on all ranks.

    Args:
        group: The ranks that take part; by default all.

    Raises:
        RuntimeError: at ``update``, torch.distributed is not initialized, or this rank is not in
            ``group``.
        TypeError: at ``update``, a leaf is a DTensor, or no strided floating-point tensor.

    Example:
        >>> import torchopt
        >>> torchopt.chain(torchopt.distributed.average_gradients(), torchopt.sgd(0.1))
        chain(average_gradients(), sgd(lr=0.1))
    """
    return stateless(lambda updates, params: mean_over_ranks(updates, group))
