"""From tensors to the raw pointers that the kernels take."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import Any

import torch

from torchopt_accel._extension import C

DTYPES = {
    torch.float32: 0,
    torch.float64: 1,
    torch.bfloat16: 2,
    torch.float16: 3,
}
RULES: dict[str, int] = {name: index for index, (name, _) in enumerate(C.RULES)}
STATES: dict[str, int] = dict(C.RULES)
HAS_CUDA = bool(C.CUDA_ARCHITECTURES)

# All tensors of a role, or none: an input that counts as zeros, an output that is not wanted.
Role = Sequence[Any]


class Mismatch(ValueError):
    """Tensors of one call don't fit together."""


_data_ptr = torch.Tensor.data_ptr
_numel = torch.Tensor.numel
_is_contiguous = torch.Tensor.is_contiguous


def contiguous(tensors: Sequence[torch.Tensor]) -> Sequence[torch.Tensor]:
    """Return the tensors, with copies in the place of those that are not contiguous."""
    if all(map(_is_contiguous, tensors)):
        return tensors
    return [tensor.contiguous() for tensor in tensors]


def require_alike(grads: Sequence[torch.Tensor], *roles: Role) -> None:
    """Raise unless all tensors of a role have the shapes of ``grads``, and all one dtype and device.

    Args:
        grads: At least one tensor.
        roles: One entry for each of ``grads``, a tensor or None, or no entry at all.

    Raises:
        Mismatch: they have not.
    """
    shapes = [tensor.shape for tensor in grads]
    dtype, device = grads[0].dtype, grads[0].device
    if dtype not in DTYPES:
        raise Mismatch(f'the kernels take {", ".join(map(str, DTYPES))}, not {dtype}')
    for role in (grads, *roles):
        if not role:
            continue
        if len(role) != len(grads):
            raise Mismatch(f'{len(role)} tensors do not go with {len(grads)} gradients')
        for tensor, shape in zip(role, shapes):
            if tensor is not None and (
                tensor.shape != shape or tensor.dtype != dtype or tensor.device != device
            ):
                raise Mismatch(
                    'tensors of one step differ in shape, dtype or device: '
                    f'{tuple(tensor.shape)}, {tensor.dtype}, {tensor.device} against '
                    f'{tuple(shape)}, {dtype}, {device}'
                )


def overlap(tensors: Sequence[torch.Tensor]) -> bool:
    """Tell whether any two of these contiguous tensors share memory."""
    sizes = [tensor.nbytes for tensor in tensors]
    shared: bool = C.overlap(list(map(_data_ptr, tensors)), sizes)
    return shared


def launch(
    rule: str,
    *,
    backward: bool,
    grads: Sequence[torch.Tensor],
    inputs: Sequence[Role],
    outputs: Sequence[Role],
    steps: torch.Tensor | None,
    positions: Sequence[int],
    lr: torch.Tensor | None,
    hyper: Sequence[float],
    lr_grad: torch.Tensor | None = None,
) -> None:
    """Run a kernel over lists of contiguous tensors that have been compared.

    Args:
        rule: Name of the rule.
        backward: Run the derivative.
        grads: Gives sizes, dtype and device of all.
        inputs: By role, in the order of ``csrc/problem.h``; None for a tensor of zeros.
        outputs: By role, in the order of ``csrc/problem.h``.
        steps: Step counts, int64, on the device.
        positions: Where in ``steps`` each tensor's count is.
        lr: Learning rates, float64, on the device: one, or one for each tensor.
        hyper: The learning rate if ``lr`` is None, then the numbers that the rule takes.
        lr_grad: Where the cotangent of ``lr`` is added, laid out as ``lr``.
    """
    device = grads[0].device
    sizes = list(map(_numel, grads))
    problem = C.Problem(
        RULES[rule],
        DTYPES[grads[0].dtype],
        backward,
        sizes,
        [_pointers(role) for role in inputs],
        [_pointers(role) for role in outputs],
        hyper[1:],
        0 if steps is None else steps.data_ptr(),
        positions,
        hyper[0],
        0 if lr is None else lr.data_ptr(),
        0 if lr is None or lr.dim() == 0 else 1,
        0 if lr_grad is None else lr_grad.data_ptr(),
    )
    if device.type == 'cpu':
        C.run_on_cpu(problem, torch.get_num_threads())
        return
    with torch.cuda.device(device):
        scratch = None
        if lr_grad is not None:
            scratch = torch.empty(C.cuda_scratch(sizes), dtype=torch.float64, device=device)
        stream = torch.cuda.current_stream(device).cuda_stream
        C.run_on_cuda(problem, stream, 0 if scratch is None else scratch.data_ptr())


def _pointers(role: Role) -> list[int]:
    try:
        return list(map(_data_ptr, role))
    except TypeError:
        return [0 if tensor is None else tensor.data_ptr() for tensor in role]
