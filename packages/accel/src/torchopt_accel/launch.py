"""From tensors to the raw pointers that the kernels take."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch

from torchopt_accel._extension import C
from torchopt_accel.internals import from_dlpack

DTYPES = {
    torch.float32: 0,
    torch.float64: 1,
    torch.bfloat16: 2,
    torch.float16: 3,
}
RULES: dict[str, int] = {name: index for index, (name, _) in enumerate(C.RULES)}
STATES: dict[str, int] = dict(C.RULES)
HAS_CUDA = hasattr(C, 'run_on_cuda')

# All tensors of a role, or none: an input that counts as zeros, an output that is not wanted.
Role = Sequence[Any]


class Mismatch(ValueError):
    """Tensors of one call don't fit together."""


class Layout(NamedTuple):
    """What the tensors of all roles have in common."""

    shapes: list[torch.Size]
    dtype: torch.dtype
    device: torch.device


def layout_of(grads: Sequence[torch.Tensor], *roles: Role) -> Layout:
    """Compare all tensors: in every role the same shapes, everywhere one dtype and one device.

    Args:
        grads: At least one tensor.
        roles: One entry for each of ``grads``, a tensor or None, or no entry at all.

    Raises:
        Mismatch: they differ, or no kernel is made for their dtype.
    """
    shapes = [tensor.shape for tensor in grads]
    dtype, device = grads[0].dtype, grads[0].device
    if dtype not in DTYPES:
        raise Mismatch(f'the kernels take {", ".join(map(str, DTYPES))}, not {dtype}')
    tensors = [tensor for role in (grads, *roles) for tensor in role if tensor is not None]
    one_kind = {x.dtype for x in tensors} == {dtype} and {x.device for x in tensors} == {device}
    for role in roles:
        if role and len(role) != len(grads):
            raise Mismatch(f'{len(role)} tensors do not go with {len(grads)} gradients')
        fits = [shape if x is None else x.shape for x, shape in zip(role, shapes)] == shapes
        if role and not fits:
            raise Mismatch(f'tensors of one step differ in shape: {_outline(role, grads)}')
    if not one_kind:
        raise Mismatch(f'tensors of one step differ in dtype or device: {_outline(*roles, grads)}')
    return Layout(shapes, dtype, device)


def _outline(*roles: Role) -> str:
    outlines = [
        [None if x is None else (tuple(x.shape), str(x.dtype), str(x.device)) for x in role]
        for role in roles
    ]
    return ' against '.join(map(str, outlines))


def contiguous(role: Role) -> Role:
    """Return the tensors, with copies in the place of those that are not contiguous."""
    if all([x is None or x.is_contiguous() for x in role]):
        return role
    return [None if x is None else x.contiguous() for x in role]


def pointers(role: Role) -> list[int]:
    """Return where the tensors lie, 0 for None."""
    return [0 if x is None else x.data_ptr() for x in role]


def allocate(layout: Layout) -> tuple[list[torch.Tensor], list[int]]:
    """Return contiguous tensors for one role of results, and where they lie.

    On the CPU their memory is that of results that have been freed: see ``csrc/cpu/pool.h``.
    """
    if layout.device.type == 'cpu':
        capsules, addresses = C.allocate(DTYPES[layout.dtype], layout.shapes)
        return list(map(from_dlpack, capsules)), addresses
    tensors = [
        torch.empty(shape, dtype=layout.dtype, device=layout.device) for shape in layout.shapes
    ]
    return tensors, pointers(tensors)


def overlap(tensors: Sequence[torch.Tensor]) -> bool:
    """Tell whether any two of these contiguous tensors share memory."""
    sizes = [tensor.nbytes for tensor in tensors]
    shared: bool = C.overlap(pointers(tensors), sizes)
    return shared


def launch(
    rule: str,
    layout: Layout,
    *,
    backward: bool = False,
    apply: bool = False,
    inputs: Sequence[Role],
    outputs: Sequence[list[int]],
    steps: torch.Tensor | None,
    positions: Sequence[int],
    lr: torch.Tensor | None,
    hyper: Sequence[float],
    lr_grad: torch.Tensor | None = None,
) -> None:
    """Run a kernel over lists of contiguous tensors that have been compared.

    Args:
        rule: Name of the rule.
        layout: That of all tensors.
        backward: Run the derivative.
        apply: Write the new parameters in the place of the updates.
        inputs: By role, in the order of ``csrc/problem.h``; None for a tensor of zeros.
        outputs: Where the results go, by role, in the order of ``csrc/problem.h``.
        steps: Step counts, int64, on the device.
        positions: Where in ``steps`` each tensor's count is.
        lr: Learning rates, float64, on the device: one, or one for each tensor.
        hyper: The learning rate if ``lr`` is None, then the numbers that the rule takes.
        lr_grad: Where the cotangent of ``lr`` is added, laid out as ``lr``.
    """
    sizes = [shape.numel() for shape in layout.shapes]
    problem = C.Problem(
        RULES[rule],
        DTYPES[layout.dtype],
        backward,
        apply,
        sizes,
        [pointers(role) for role in inputs],
        outputs,
        hyper[1:],
        0 if steps is None else steps.data_ptr(),
        positions,
        hyper[0],
        0 if lr is None else lr.data_ptr(),
        0 if lr is None or lr.dim() == 0 else 1,
        0 if lr_grad is None else lr_grad.data_ptr(),
    )
    device = layout.device
    if device.type == 'cpu':
        C.run_on_cpu(problem, torch.get_num_threads())
        return
    with torch.cuda.device(device):
        scratch = None
        if lr_grad is not None:
            scratch = torch.empty(C.cuda_scratch(sizes), dtype=torch.float64, device=device)
        stream = torch.cuda.current_stream(device).cuda_stream
        C.run_on_cuda(problem, device.index, stream, 0 if scratch is None else scratch.data_ptr())
