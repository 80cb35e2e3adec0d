"""The few numerical building blocks that the update rules share."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import torch

from torchopt.authoring.shards import filled_on_all_ranks
from torchopt.typing import Scalar

SIXTEEN_BIT = frozenset({torch.float16, torch.bfloat16})
"""Dtypes whose arithmetic is done in float32."""

Average: TypeAlias = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""``average(old, new)``, the next value of a moving average."""

# Low enough that its root is negligible next to every eps in use, high enough that the second and
# third derivatives of the root do not overflow. Both are normal numbers, because some processors
# flush denormal numbers to 0.
_ROOT_FLOOR = {torch.float64: 1e-150, torch.float32: 2e-38}


def ema(old: torch.Tensor, new: torch.Tensor, decay: Scalar) -> torch.Tensor:
    """Exponential moving average: ``decay * old + (1 - decay) * new``."""
    if isinstance(decay, torch.Tensor):
        return decay * old + (1 - decay) * new
    return torch.lerp(old, new, 1 - decay)


def ema_of_square(decay: Scalar) -> Average:
    """Return the average of a square: ``average(old, new) = decay * old + (1 - decay) * new**2``.

    Once a square overflows, the average stays infinite, as in torch.
    """
    if isinstance(decay, torch.Tensor):
        return lambda old, new: decay * old + (1 - decay) * (new * new)
    faded, weight = multiplication(decay), 1 - decay
    return lambda old, new: torch.addcmul(faded(old), new, new, value=weight)


def multiplication(factor: float) -> Callable[[torch.Tensor], torch.Tensor]:
    """Return the function that multiplies a tensor by a number.

    torch converts a Python number at every multiplication and in every derivative, which takes as
    long as a small product. A 0-dim tensor is converted once, here.
    """
    constants = [
        torch.tensor(factor, dtype=d, device='cpu') for d in (torch.float32, torch.float64)
    ]
    # 16-bit tensors get the number: it must not be rounded. A fake tensor takes no real constant,
    # and a real tensor no fake one.
    as_tensor = {c.dtype: c for c in constants if type(c) is torch.Tensor}

    def multiply(x: torch.Tensor) -> torch.Tensor:
        # A compiler folds the number into its kernel, where a CPU tensor would prevent CUDA graphs.
        if type(x) is not torch.Tensor or torch.compiler.is_compiling():
            return x * factor
        return x * as_tensor.get(x.dtype, factor)

    return multiply


def add_scaled(x: torch.Tensor, y: torch.Tensor, factor: Scalar) -> torch.Tensor:
    """``x + factor * y``."""
    if isinstance(factor, torch.Tensor):
        return x + factor * y
    return torch.add(x, y, alpha=factor)


def clamp(
    x: torch.Tensor, lowest: Scalar | None = None, highest: Scalar | None = None
) -> torch.Tensor:
    """Bound a tensor; unlike :func:`torch.clamp`, by a number and a tensor at once."""
    x = x if lowest is None else x.clamp_min(lowest)
    return x if highest is None else x.clamp_max(highest)


def norm(x: torch.Tensor) -> torch.Tensor:
    """Euclidean norm of all elements, in float32 for 16-bit tensors; its derivative at 0 is 0."""
    return _norms(x, None)


def matrix_norms(x: torch.Tensor) -> torch.Tensor:
    """Frobenius norms of a stack of matrices, as matrices of one element; see :func:`norm`."""
    return _norms(x, (-2, -1))


def _norms(x: torch.Tensor, dims: tuple[int, int] | None) -> torch.Tensor:
    x = x.float() if x.dtype in SIXTEEN_BIT else x
    if not x.numel():
        return x.sum(dims, keepdim=dims is not None)
    x = filled_on_all_ranks(x)
    # The scale keeps squares from overflow and underflow. The norm does not depend on it.
    largest = x.detach().abs().amax(dims or (), keepdim=dims is not None)
    scale = torch.where(largest.isfinite() & (largest > 0), largest, 1.0)
    squared = (x / scale).square().sum(dims, keepdim=dims is not None)
    zero = squared == 0
    return torch.where(zero, 0.0, torch.where(zero, 1.0, squared).sqrt()) * scale


def power(base: torch.Tensor, exponent: Scalar) -> torch.Tensor:
    """``base ** exponent`` for numbers >= 0; where the base is 0, all derivatives are 0."""
    if isinstance(exponent, (int, float)) and exponent == 1:
        return base
    zero = base == 0
    powers: torch.Tensor = torch.where(zero, 1.0, base) ** exponent
    return torch.where(zero & (exponent != 0), 0.0, powers)


def safe_sqrt(x: torch.Tensor, eps_root: Scalar = 0.0) -> torch.Tensor:
    """``sqrt(x + eps_root)`` for ``x >= 0``, with derivative 0 where the argument is 0.

    The second moment ``nu`` depends on a gradient entry ``g`` through ``g**2``, whose derivative
    is 0 at ``g = 0``. The root therefore adds nothing to the derivative of the update there:
    ``g / (abs(g) + eps)`` has the derivative ``1 / eps``. Autograd through ``sqrt(0)`` would
    multiply the 0 by infinity and return NaN.
    """
    if isinstance(eps_root, torch.Tensor) or eps_root:
        x = x + eps_root
    if isinstance(eps_root, torch.Tensor) or not eps_root:
        x = x.clamp_min(_ROOT_FLOOR[x.dtype])
    return x.sqrt()
