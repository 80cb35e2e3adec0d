"""What torch tells, or does fast, only through names that are not public.

Each function has an answer for a future torch without the name: steps stay right and fused.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.autograd import forward_ad
from torch.autograd.graph import increment_version
from torch.utils import dlpack

# Takes capsules only. The public function first asks what it was given, which doubles its time.
from_dlpack: Callable[[Any], torch.Tensor] = getattr(torch._C, '_from_dlpack', dlpack.from_dlpack)

# Whether torch offers the table of functions through which a step reads all of its tensors in one
# call: since torch 2.10.
HAS_TABLE = hasattr(torch.Tensor, '__dlpack_c_exchange_api__')


def increment_versions(tensors: Sequence[torch.Tensor]) -> None:
    """Tell autograd that ``tensors`` are written; inference tensors have no versions."""
    if _COUNTS_LISTS:
        try:
            increment_version(tensors)
            return
        except RuntimeError:  # There is an inference tensor, which some versions of torch refuse.
            pass
    for tensor in tensors:
        if not tensor.is_inference():
            increment_version(tensor)


def _counts_lists() -> bool:
    try:
        increment_version([])
    except (TypeError, RuntimeError):
        return False
    return True


# Since torch 2.5.
_COUNTS_LISTS = _counts_lists()


def apply_plainly(function: type[torch.autograd.Function]) -> Callable[..., Any]:
    """Return ``function.apply`` for plain tensors, outside of torch.func.

    The method itself first looks for tensors that have outlived a transform of torch.func, one by
    one in Python, which takes a tenth of a small step.
    """
    found: Callable[..., Any] = getattr(super(torch.autograd.Function, function), 'apply')  # noqa: B009
    return found


def forward_mode() -> bool:
    """Tell whether forward-mode derivatives are being computed, by torch.func or without it."""
    level: int | None = getattr(forward_ad, '_current_level', None)
    return _can_make_dual() if level is None else level >= 0


def _can_make_dual() -> bool:
    zero = torch.zeros(())
    try:
        forward_ad.make_dual(zero, zero)
    except RuntimeError:
        return False
    return True


def old_vmap() -> bool:
    """Tell whether ``torch.autograd.grad(..., is_grads_batched=True)`` is running.

    Its batches are not the batches of ``torch.vmap``: only torch's own operators understand them.
    If torch does not tell, the answer is no, and such a call raises because torch gives no pointer
    to its tensors.
    """
    tell = getattr(torch._C, '_dispatch_tls_is_dispatch_key_included', None)
    active: bool = tell is not None and tell('VmapMode')
    return active


def dispatching() -> bool:
    """Tell whether a mode of ``torch.utils._python_dispatch`` is active, as under fake tensors.

    If torch does not tell, the answer is yes.
    """
    count = getattr(torch._C, '_len_torch_dispatch_stack', None)
    return count is None or count() > 0
