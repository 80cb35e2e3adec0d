"""What torch tells, or does, fast only through names that are not public.

Each has an answer for a torch to come in which the name is gone: steps stay right and fused.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.autograd import forward_ad
from torch.utils import dlpack

# The public function asks what it was given, which takes as long as the rest; it is given capsules.
from_dlpack: Callable[[Any], torch.Tensor] = getattr(torch._C, '_from_dlpack', dlpack.from_dlpack)


def forward_mode() -> bool:
    """Tell whether forward-mode derivatives are being computed, by torch.func or without."""
    level: int | None = getattr(forward_ad, '_current_level', None)
    return _can_make_dual() if level is None else level >= 0


def _can_make_dual() -> bool:
    zero = torch.zeros(())
    try:
        forward_ad.make_dual(zero, zero)
    except RuntimeError:
        return False
    return True


def transforming() -> bool:
    """Tell whether a transform of torch.func is active.

    Where that is unknown, a step makes a node for autograd that it may not need, and none writes
    in place.
    """
    tell = getattr(torch._C, '_are_functorch_transforms_active', None)
    active: bool = tell is None or tell()
    return active


def old_vmap() -> bool:
    """Tell whether this is a call of ``torch.autograd.grad(..., is_grads_batched=True)``.

    Its batches are not those of ``torch.vmap``, and go through no rule for batches but torch's own.
    Where that is unknown, they raise: torch gives no pointer to them.
    """
    tell = getattr(torch._C, '_dispatch_tls_is_dispatch_key_included', None)
    active: bool = tell is not None and tell('VmapMode')
    return active


def dispatching() -> bool:
    """Tell whether a mode of ``torch.utils._python_dispatch`` looks on, as fake tensors do.

    Where that is unknown, it counts as one that does.
    """
    count = getattr(torch._C, '_len_torch_dispatch_stack', None)
    return count is None or count() > 0
