"""Modules that torch has wrapped for many ranks, whose hooks no inner gradient reaches."""

from __future__ import annotations

import torch.distributed as dist
from torch import nn

_UNSEEN = (
    'gathers its own parameters in hooks that autograd does not see, whatever tensors it is given, '
    'so that their gradients would be 0. Leave fully_shard out, make the parameters DTensors with '
    'distribute_tensor, and gather them in the loss with redistribute: docs/guides/many-ranks.md '
    'shows how'
)
_LOCAL = (
    'averages over ranks what backward() accumulates, but no inner gradient, so that each rank '
    'would follow its own. Take the module that it wraps, and average in the optimizer: '
    'torchopt.chain(torchopt.distributed.average_gradients(), torchopt.adam()); or let it wrap the '
    'module whose forward is the whole meta-loss'
)
# By the names of classes, because versions of torch have them in different modules.
_WRAPPERS = {
    'FSDPModule': _UNSEEN,
    'FullyShardedDataParallel': _UNSEEN,
    'DistributedDataParallel': _LOCAL,
}


def require_no_wrapper(module: nn.Module, user: str) -> None:
    """Raise if torch has wrapped a part of ``module`` for many ranks: with DDP or FSDP.

    A part whose parameters require no grad does not count: no gradient of theirs can be lost.

    Args:
        module: A module whose parameters ``user`` differentiates by.
        user: Who needs it, for the message.

    Raises:
        RuntimeError: there is such a part; the message names it.
    """
    if not dist.is_available() or not dist.is_initialized():
        return
    for name, member in module.named_modules():
        reason = _reason(type(member))
        if reason is not None and any(param.requires_grad for param in member.parameters()):
            raise RuntimeError(
                f'{user} cannot take inner gradients of {name or "the module"}: '
                f'{type(member).__name__} {reason}'
            )


def _reason(kind: type) -> str | None:
    for base in kind.__mro__:
        if base.__name__ in _WRAPPERS and base.__module__.startswith('torch.'):
            return _WRAPPERS[base.__name__]
    return None
