"""Where the tensors of one call lie, found out and compared before a kernel reads them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch

from torchopt.authoring.describe import alike, describe
from torchopt_accel.kernels import DTYPES, Layout, Role, StepArgs
from torchopt_accel.platform import C
from torchopt_accel.roles import Mismatch
from torchopt_accel.strides import Strides, closed_strides, dense_strides, plain


class Read(NamedTuple):
    """What a kernel needs to know of a step's tensors.

    Attributes:
        layout: What they have in common.
        args: The step's scalars, on the device.
        roles: Gradients, parameters, states, then cotangents; copies of tensors that are not plain.
        addresses: Where they lie.
    """

    layout: Layout
    args: StepArgs
    roles: Sequence[Role]
    addresses: list[list[int]]


def read(args: StepArgs, *cotangents: Role, apply: bool = False) -> Read:
    """Compare all that a step takes, and find out where it lies.

    Args:
        args: What the step takes.
        cotangents: The cotangents of its results, by role.
        apply: Parameters are written, not gradients.

    Raises:
        Mismatch: roles differ in length or shape, tensors in dtype or device, or no kernel takes
            their dtype.
        ValueError: ``steps``, ``numbers``, ``positions`` or ``lr`` do not fit the tensors.
    """
    grads, params, states, steps, numbers, positions, lr, hyper = args
    layout = Layout([tensor.shape for tensor in grads], grads[0].dtype, grads[0].device, ())
    if layout.dtype not in DTYPES:
        raise Mismatch(f'the kernels take {", ".join(map(str, DTYPES))}, not {layout.dtype}')
    roles: Sequence[Role] = (grads, params, *states, *cotangents)
    first = states[0] if states else params if apply else grads
    found = read_at_once(roles, first)
    if found is None:
        _require_alike(layout, roles)
        roles, found = read_apart(roles, first)
    addresses, strides = found
    layout = layout._replace(strides=strides)
    count = len(grads)
    if steps is not None:
        steps = _by_position('steps', steps, torch.int64, positions, layout)
    if numbers is not None:
        numbers = _by_position('numbers', numbers, torch.float64, positions, layout)
    if lr is not None:
        lr = rate_on(layout.device, lr, count)
    args = StepArgs(grads, params, states, steps, numbers, positions, lr, hyper)
    return Read(layout, args, roles, addresses)


Found = tuple[list[list[int]], Strides]
"""Addresses by role, 0 for None, and strides by leaf."""


def read_at_once(roles: Sequence[Role], first: Role) -> Found | None:
    """Return where all tensors lie, if they are alike and plain; ``first`` is one of the roles.

    The answer is None also where torch does not tell, before 2.10: :func:`read_apart` asks every
    tensor in Python, which takes longer than a small kernel.
    """
    found = C.addresses(torch.Tensor, [*roles])
    if found is None or any([x is not None and x.is_neg() for role in roles for x in role]):
        return None
    addresses, contiguous = found
    return addresses, () if contiguous else dense_strides(first)


def read_apart(roles: Sequence[Role], first: Role) -> tuple[list[Role], Found]:
    """Return the roles, with copies in place of tensors that are not plain, and where they lie.

    Args:
        roles: Tensors of the same shapes, dtype and device.
        first: The role whose strides all tensors get, and that has no None.
    """
    strides = closed_strides(first)
    roles = [plain(role, strides) for role in roles]
    return roles, ([[0 if x is None else x.data_ptr() for x in role] for role in roles], strides)


def _require_alike(layout: Layout, roles: Sequence[Role]) -> None:
    grads, *others = roles
    require_as_many(grads, others)
    for role in others:
        if any(x is not None and x.shape != y for x, y in zip(role, layout.shapes)):
            raise _misfit(grads, role)
    tensors = [x for role in roles for x in role if x is not None]
    if {x.layout for x in tensors} != {torch.strided}:
        raise Mismatch('the kernels take dense tensors, not sparse ones')
    if {(x.dtype, x.device) for x in tensors} != {(layout.dtype, layout.device)}:
        raise _misfit(grads, *others)


def require_as_many(grads: Role, roles: Sequence[Role]) -> None:
    """Raise Mismatch unless each role is empty or has a tensor for every gradient."""
    for role in roles:
        if role and len(role) != len(grads):
            raise Mismatch(f'{len(role)} tensors do not go with {len(grads)} gradients')


def _misfit(grads: Role, *roles: Role) -> Mismatch:
    """Return the error that names the first tensor that does not fit its gradient."""
    for role in roles:
        for position, (x, grad) in enumerate(zip(role, grads)):
            if x is not None and not alike(grad, x, device=True):
                return Mismatch(
                    f'tensors of one step differ in shape, dtype or device, first at leaf '
                    f'{position}: {describe(x)}, against the gradient, {describe(grad)}'
                )
    other = next(g for g in grads if (g.dtype, g.device) != (grads[0].dtype, grads[0].device))
    return Mismatch(
        f'gradients of one step differ in dtype or device: {describe(other)}, against the first, '
        f'{describe(grads[0])}'
    )


def _by_position(
    name: str, vector: torch.Tensor, dtype: torch.dtype, positions: Sequence[int], layout: Layout
) -> torch.Tensor:
    """Return a vector that has an entry for each leaf, contiguous and on the device.

    Raises:
        ValueError: it is of another dtype, or a leaf has no position in it.
    """
    count = len(layout.shapes)
    fits = len(positions) == count and 0 <= min(positions) <= max(positions) < vector.numel()
    if not fits or vector.dtype != dtype:
        raise ValueError(
            f'each of the {count} tensors needs its position in {name}, a vector of {dtype}'
        )
    return vector_on(layout.device, vector)


def vector_on(device: torch.device, vector: torch.Tensor) -> torch.Tensor:
    """Return step counts or numbers, contiguous and on the device."""
    return _moved(vector, device, vector.dtype)


def rate_on(device: torch.device, lr: torch.Tensor, count: int) -> torch.Tensor:
    """Return the learning rate of ``count`` leaves in float64, contiguous and on the device.

    Raises:
        ValueError: it is neither a floating-point scalar nor a vector with one entry per leaf.
    """
    if lr.shape not in ((), (count,)) or not lr.is_floating_point():
        raise ValueError(
            f'lr must be a floating-point scalar or vector of {count}, '
            f'got {lr.dtype} of shape {tuple(lr.shape)}'
        )
    return _moved(lr, device, torch.float64)


def _moved(scalars: torch.Tensor, device: torch.device, dtype: torch.dtype) -> torch.Tensor:
    # A copy towards the CPU that does not block would be read before it has arrived.
    blocking = device.type == 'cpu'
    moved = scalars.to(device, dtype, non_blocking=not blocking)
    return moved.resolve_neg().contiguous()
