"""Where kernels take a step, where the rule is faster, and which leaves go into one launch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from torchopt import pytree
from torchopt.authoring.common_trees import values_of
from torchopt.authoring.shards import PLAIN
from torchopt_accel.kernels import DTYPES
from torchopt_accel.platform import runs_on

_PLAIN = {*PLAIN}

# From here on new memory for results, which kernels reuse, takes longer than anything else.
MANY_ELEMENTS = 1 << 20


def rule_is_faster(least: int, updates: Any) -> bool:
    """Tell whether the composite rule takes a differentiable step in less time than a kernel.

    It does for fewer than ``least`` plain tensors on the CPU with few elements in all.
    """
    leaves: Any = values_of(updates)
    if not leaves or not {*map(type, leaves)} <= _PLAIN:  # a tree of trees, or with None
        leaves = pytree.tree_leaves(updates)
    if len(leaves) >= least or not {*map(type, leaves)} <= _PLAIN:
        return False
    sizes = [leaf.numel() for leaf in leaves if leaf.is_cpu]
    return len(sizes) == len(leaves) and sum(sizes) < MANY_ELEMENTS


def kernel_exists(dtype: torch.dtype, device: torch.device) -> bool:
    """Tell whether kernels take tensors of this dtype, on this device."""
    # The CPU's kernels are in every build.
    return dtype in DTYPES and (device.type == 'cpu' or runs_on(device))


def by_kind(
    row: Sequence[torch.Tensor], leaves: Sequence[int]
) -> dict[tuple[torch.dtype, torch.device], Sequence[int]]:
    """Return the leaves that go into one call, by dtype and device."""
    kinds = [(row[leaf].dtype, row[leaf].device) for leaf in leaves]
    if len({*kinds}) == 1:
        return {kinds[0]: leaves}
    groups: dict[tuple[torch.dtype, torch.device], list[int]] = {}
    for leaf, kind in zip(leaves, kinds):
        groups.setdefault(kind, []).append(leaf)
    return {**groups}
