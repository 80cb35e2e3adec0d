"""What torch tells only through names that are not public.

Each name is looked up when it is needed, with a fallback for a version of torch without it.
"""

from __future__ import annotations

import torch


def transforming() -> bool:
    """Tell whether a transform of ``torch.func`` is active.

    If torch does not tell, the answer is True, so that nothing is written in place.
    """
    tell = getattr(torch._C, '_are_functorch_transforms_active', None)
    active: bool = tell is None or tell()
    return active
