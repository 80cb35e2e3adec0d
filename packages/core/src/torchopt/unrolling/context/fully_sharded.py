"""Modules that gather their parameters in hooks, which no gradient of a step reaches."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from torchopt.authoring.shards import require_not_fully_sharded
from torchopt.unrolling.context.reachable import captured_state
from torchopt.unrolling.leaves import Leaves

# Where versions of torch have fully_shard.
_HOMES = {'torch.distributed.fsdp', 'torch.distributed._composable.fsdp'}


def require_no_fully_sharded(step: Callable[..., Any], consts: Leaves) -> None:
    """Raise if ``step`` sees or receives a module that ``fully_shard`` or FSDP has wrapped.

    Raises:
        RuntimeError: there is such a module, whose parameters require grad.
    """
    # Without the import there are none, and the search would cost each call milliseconds.
    if torch.compiler.is_compiling() or not _HOMES & sys.modules.keys():
        return
    seen = (value for _, value in captured_state(step))
    for value in (*consts, *seen):
        if isinstance(value, nn.Module):
            require_not_fully_sharded(value, 'unroll')
