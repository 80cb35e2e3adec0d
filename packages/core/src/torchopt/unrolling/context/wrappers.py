"""Modules that torch has wrapped for many ranks, in what a step sees and receives."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from torchopt.authoring.wrappers import require_no_wrapper
from torchopt.unrolling.context.reachable import captured_state
from torchopt.unrolling.leaves import Leaves


def require_no_wrapped_modules(step: Callable[..., Any], consts: Leaves) -> None:
    """Raise if ``step`` sees or receives a module that DDP or FSDP has wrapped.

    Raises:
        RuntimeError: there is such a module, whose parameters require grad.
    """
    # Without ranks there are none, and the search would cost each call milliseconds.
    if torch.compiler.is_compiling() or not dist.is_available() or not dist.is_initialized():
        return
    seen = (value for _, value in captured_state(step))
    for value in (*consts, *seen):
        if isinstance(value, nn.Module):
            require_no_wrapper(value, 'unroll')
