"""Application of updates to parameters."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from torchopt.authoring.describe import alike, describe
from torchopt.authoring.inplace import must_not_write, require_writable, write_back
from torchopt.authoring.per_tensor import add_updates
from torchopt.authoring.step_marks import mark_step
from torchopt.authoring.update_marks import mark_state
from torchopt.typing import OptState, TreeT, Updates


def apply_updates(params: TreeT, updates: Updates, *, inplace: bool = True) -> TreeT:
    """Add ``updates`` to ``params``.

    Args:
        params: Tree of tensors.
        updates: Tree of the same structure; a parameter whose update is None stays as it is.
        inplace: Write the sums into the tensors of ``params``. If that would cut a graph (grad
            mode is on and an update carries one, or a transform of ``torch.func`` is active), the
            sums are new tensors, as with ``inplace=False``.

    Returns:
        The tree of sums. With ``inplace=False`` they are new tensors, differentiable with respect
        to both arguments.

    Raises:
        ValueError: the trees differ in structure, or an update differs from its parameter in
            shape, dtype or device. Nothing has been written in that case.
        TypeError: a leaf of ``updates`` is neither a floating-point tensor nor None.

    Example:
        >>> import torch, torchopt
        >>> torchopt.apply_updates([torch.ones(2)], [torch.tensor([0.5, -0.5])])
        [tensor([1.5000, 0.5000])]
    """
    new: TreeT
    if not inplace or must_not_write(updates):
        new = step_to(params, updates, 'apply_updates')
    else:
        with torch.no_grad():
            new = write_back(params, add_updates(params, updates))
    return new


def step_to(
    params: TreeT,
    updates: Updates,
    by: str,
    *,
    state: OptState = (),
    first_order: bool = False,
    number: int | None = None,
) -> TreeT:
    """Return ``apply_updates(params, updates, inplace=False)``, marked in the graph as one step.

    Args:
        params: Tree of tensors.
        updates: Tree of the same structure.
        by: What takes the step, for :mod:`torchopt.authoring.step_marks`.
        state: The new state, of an optimizer that holds it; see :func:`mark_state`.
        first_order: Whether the gradients were taken as constants.
        number: Number that several trees of one step share; None takes the next one.
    """
    new: TreeT = add_updates(params, updates)
    if state:
        mark_state(state)
    mark_step(params, new, by, first_order=first_order, number=number)
    return new


def prepare_addition(params: Sequence[torch.Tensor], updates: Any) -> Callable[[], None]:
    """Validate the addition of ``updates`` to ``params``; return the function that does it.

    It adds in place, one parameter after the other, as the optimizers of ``torch.optim`` do.

    Raises:
        ValueError: the numbers of tensors differ; an update differs from its parameter in shape,
            dtype, device or placement; or elements of a parameter share memory.
    """
    if not isinstance(updates, (list, tuple)) or len(updates) != len(params):
        add_updates(params, updates)  # raises, and says how the trees differ
    for position, (param, update) in enumerate(zip(params, updates)):
        if update is None:
            continue
        if not alike(param, update, device=True):
            raise ValueError(
                f'update {position} does not fit its parameter: {describe(update)}, against '
                f'{describe(param)}'
            )
        require_writable(param)

    def add() -> None:
        for param, update in zip(params, updates):
            if update is not None:
                param.add_(update)

    return add
