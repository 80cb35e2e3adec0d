"""What torch tells only through names that are not public.

Each is looked up when it is needed, and has an answer for a torch in which it is gone.
"""

from __future__ import annotations

import torch


def transforming() -> bool:
    """Tell whether a transform of ``torch.func`` is active.

    Where that is unknown, it counts as active: nothing is then written in place.
    """
    tell = getattr(torch._C, '_are_functorch_transforms_active', None)
    active: bool = tell is None or tell()
    return active
