"""Sums and means of trees over ranks, one collective for a whole tree."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist

from torchopt import pytree
from torchopt.authoring.describe import describe
from torchopt.distributed.collective import sum_tensor
from torchopt.typing import TreeT


def sum_over_ranks(tree: TreeT, group: dist.ProcessGroup | None = None) -> TreeT:
    r"""Return the sum of a tree over ranks, which is the same on every rank.

    The tree travels in one collective (one for each dtype and device in it), so that no order of
    tensors can differ between ranks. The sum is differentiable to any order in reverse and forward
    mode, under the transforms of ``torch.func``, in every mode of :func:`torchopt.unroll` and in
    compiled steps.

    **What is differentiated** is the sum of the losses of all ranks,
    :math:`L = \sum_r L_r`, by each rank's own tensors: the cotangent of the sum is summed over
    ranks. For a meta-parameter of which every rank has a copy, add up the gradients of the copies
    (``sum_over_ranks(gradients)``) for the derivative of :math:`L`; their mean is the derivative
    of the mean loss, also where every rank has computed the same loss.

    All ranks of the group must call this function, and run backward through it, equally often
    and with trees of equal structure and shapes; otherwise they wait for each other until the
    timeout of the group.

    Args:
        tree: Tree of tensors of any shape; real and complex ones carry derivatives, integers are
            summed without. None leaves stay.
        group: The ranks that take part; by default all.

    Returns:
        The tree of sums. They are views of one buffer for each dtype and device.

    Raises:
        RuntimeError: torch.distributed is not initialized, or this rank is not in ``group``.
        TypeError: a leaf is no strided tensor, a bool, or a DTensor.

    Example:
        >>> import os, torch, torch.distributed as dist, torchopt
        >>> store = dist.HashStore()
        >>> dist.init_process_group('gloo', store=store, rank=0, world_size=1)
        >>> torchopt.distributed.sum_over_ranks({'w': torch.tensor([1.0, 2.0]), 'b': None})
        {'w': tensor([1., 2.]), 'b': None}
        >>> dist.destroy_process_group()
    """
    total: TreeT = _reduced(tree, group, 'sum_over_ranks')
    return total


def mean_over_ranks(tree: TreeT, group: dist.ProcessGroup | None = None) -> TreeT:
    """Return the mean of a tree over ranks; see :func:`sum_over_ranks`.

    Args:
        tree: Tree of floating-point or complex tensors. None leaves stay.
        group: The ranks that take part; by default all.

    Raises:
        RuntimeError: torch.distributed is not initialized, or this rank is not in ``group``.
        TypeError: a leaf is no strided floating-point or complex tensor, or a DTensor.
    """
    mean: TreeT = _reduced(tree, group, 'mean_over_ranks')
    return mean


def _reduced(tree: Any, group: dist.ProcessGroup | None, name: str) -> Any:
    size = _number_of_ranks(group, name)
    group_name = '' if group is None else group.group_name
    leaves: list[Any]
    leaves, structure = pytree.tree_flatten(tree, none_is_leaf=True)
    mean = name == 'mean_over_ranks'
    buckets: dict[tuple[torch.dtype, torch.device], list[int]] = {}
    for position, leaf in enumerate(leaves):
        if leaf is None:
            continue
        wrong = _what_is_wrong(leaf, mean)
        if wrong:
            where = structure.accessors()[position].codify('tree')
            raise TypeError(f'{name} takes {wrong}, got {describe(leaf)} as {where}')
        buckets.setdefault((leaf.dtype, leaf.device), []).append(position)
    results = list(leaves)
    for positions in buckets.values():
        members = [leaves[position] for position in positions]
        total = sum_tensor(torch.cat([member.reshape(-1) for member in members]), group_name)
        if mean:
            total = total / size
        parts = total.split([member.numel() for member in members])
        for position, member, part in zip(positions, members, parts):
            results[position] = part.view(member.shape)
    return pytree.tree_unflatten(structure, results)


def _number_of_ranks(group: dist.ProcessGroup | None, name: str) -> int:
    if not dist.is_available() or not dist.is_initialized():
        raise RuntimeError(
            f'{name} needs ranks to reduce over: call torch.distributed.init_process_group first, '
            'in processes that torchrun has started'
        )
    size = dist.get_world_size(group)
    if size < 1:
        raise RuntimeError(f'this rank is not in the group that {name} reduces over')
    return size


def _what_is_wrong(leaf: Any, mean: bool) -> str:
    """Return what should be in the place of ``leaf``; an empty string if nothing is wrong."""
    if not isinstance(leaf, torch.Tensor) or leaf.layout is not torch.strided:
        return 'strided tensors and None'
    # A DTensor, whose class takes long to import, has a mesh.
    if hasattr(leaf, 'device_mesh'):
        return 'local tensors (a DTensor reduces by its own redistribute and full_tensor)'
    if leaf.dtype is torch.bool:
        return 'numbers (convert with .int() to count)'
    if mean and not (leaf.is_floating_point() or leaf.is_complex()):
        return 'floating-point and complex tensors (the mean of integers is no integer)'
    return ''
