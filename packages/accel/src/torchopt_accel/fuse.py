"""``fuse``, through which core gets the accelerated transformation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from torchopt import pytree
from torchopt._per_tensor import as_float, next_steps
from torchopt.base import GradientTransformation
from torchopt.blocks.scale_by_schedule import ScaleByScheduleState
from torchopt.typing import OptState, Params, TreeT
from torchopt_accel import ops
from torchopt_accel.call import Call
from torchopt_accel.devices import runs_on
from torchopt_accel.launch import DTYPES, Mismatch, layout_of, overlap
from torchopt_accel.modes import transforming
from torchopt_accel.plans import Plan, find, plan, replace, schedule_count
from torchopt_accel.step import step

_PLAIN = {torch.Tensor, torch.nn.Parameter}


def fuse(
    name: str, composite: GradientTransformation, arguments: Mapping[str, Any]
) -> GradientTransformation:
    """Return the transformation that computes ``composite`` with fused kernels.

    Its states are those of ``composite``. It hands over to ``composite`` what no kernel does:
    ``amsgrad``, a ``mask``, hyperparameters other than ``lr`` that are tensors, a tree of learning
    rates; leaves of another dtype than float32, float64, bfloat16 and float16, on another device
    than the CPU and CUDA, or of a subclass of Tensor; in-place updates of tensors that are not
    contiguous, share memory or are being transformed by ``torch.func``; and what
    ``torch.compile`` traces, since its compiler fuses the rule itself. What does not fit together
    goes there too, for the error.

    Args:
        name: Name of the optimizer's function.
        composite: What that function made.
        arguments: All its arguments, by name, but ``use_accelerated_op``.
    """
    planned = plan(name, arguments)
    if planned is None:
        return composite

    def update(
        updates: TreeT,
        state: OptState,
        *,
        params: Params | None = None,
        inplace: bool = True,
    ) -> tuple[TreeT, OptState]:
        tree = None if torch.compiler.is_compiling() else _read(planned, updates, state, params)
        if tree is not None:
            try:
                if not inplace:
                    return tree.update()
                if tree.writable():
                    return tree.update_inplace()
            except Mismatch:
                pass
        return composite.update(updates, state, params=params, inplace=inplace)

    return GradientTransformation(composite.init, update)


class _Tree:
    """One update: the trees, flat, and what depends on the number of steps."""

    def __init__(
        self,
        plan: Plan,
        updates: Any,
        state: OptState,
        structure: pytree.PyTreeSpec,
        rows: list[list[Any]],
        groups: list[list[int]],
    ) -> None:
        self._plan = plan
        self._updates = updates
        self._state = state
        self._structure = structure
        # By role: gradients, parameters if weights decay, states; each with one entry a leaf.
        self._rows = rows
        # Positions of the leaves that go into one call: of one dtype, on one device.
        self._groups = groups

    def writable(self) -> bool:
        """Tell whether the tensors can be written where they lie.

        Raises:
            Mismatch: they do not fit together. No group may be written before all are known to.
        """
        if transforming():
            return False
        for group in self._groups:
            grads, *rest = [[row[i] for i in group] for row in self._rows]
            layout_of(grads, *rest)
            params = rest.pop(0) if self._plan.decays else []
            written = [*grads, *(tensor for row in rest for tensor in row)]
            if not all(tensor.is_contiguous() for tensor in written):
                return False
            if overlap([*written, *map(torch.Tensor.contiguous, params)]):
                return False
        return True

    def update(self) -> tuple[Any, OptState]:
        """Return new trees, differentiable."""
        steps, lr, changes = self._counts()
        decays = self._plan.decays
        results = [list(row) for role, row in enumerate(self._rows) if not decays or role != 1]
        for group in self._groups:
            call = Call(self._plan, len(group), group)
            tensors = [row[i] for row in self._rows for i in group]
            outputs = step(call, lr, steps, tensors)
            for role, result in enumerate(results):
                for i, output in zip(group, outputs[role * len(group) :]):
                    result[i] = output
        updates, *columns = [pytree.tree_unflatten(self._structure, result) for result in results]
        for (owner, field), column in zip(self._plan.kernel.columns, columns):
            changes.setdefault(owner, {})[field] = column
        return updates, replace(self._state, changes)

    @torch.no_grad()
    def update_inplace(self) -> tuple[Any, OptState]:
        """Write into the tensors of the trees and return these."""
        steps, lr, changes = self._counts()
        plan = self._plan
        for group in self._groups:
            grads, *rest = [[row[i] for i in group] for row in self._rows]
            params = rest.pop(0) if plan.decays else []
            states = [tensor for row in rest for tensor in row]
            ops.FORWARD_INPLACE[plan.kernel.rule](
                grads, params, states, steps, group, lr, plan.hyper
            )
        for owner, fields in changes.items():
            for field, value in fields.items():
                getattr(find(self._state, owner), field).copy_(value)
        return self._updates, self._state

    def _counts(self) -> tuple[Any, Any, dict[type, dict[str, Any]]]:
        """Return step counts and learning rate of this step, and the counts to be stored."""
        changes: dict[type, dict[str, Any]] = {}
        counted, lr = self._plan.kernel.counted, self._plan.lr
        steps = None
        if counted is not None:
            steps = next_steps(find(self._state, counted).steps, self._updates)
            changes[counted] = {'steps': steps}
        if callable(lr) and not isinstance(lr, torch.Tensor):
            count = schedule_count(self._state)
            lr = lr(as_float(count))
            changes[ScaleByScheduleState] = {'steps': count + 1}
            if not isinstance(lr, torch.Tensor):
                # Filled where it is needed: a CUDA graph can't hold a copy from the host.
                lr = torch.full((), lr, dtype=torch.float64, device=count.device)
            elif lr.dim() != 0:
                raise Mismatch('a schedule must return a number or a 0-dim tensor')
        return steps, lr if isinstance(lr, torch.Tensor) else None, changes


def _read(plan: Plan, updates: Any, state: OptState, params: Params | None) -> _Tree | None:
    """Take the trees apart; None if they differ in structure or no kernel takes them."""
    leaves, structure = pytree.tree_flatten(updates, none_is_leaf=True)
    if plan.decays and params is None:
        return None
    try:
        columns = [getattr(find(state, owner), field) for owner, field in plan.kernel.columns]
        trees = [params, *columns] if plan.decays else columns
        rows = [leaves, *(structure.flatten_up_to(tree) for tree in trees)]
    except ValueError:
        return None
    present = [i for i, leaf in enumerate(leaves) if leaf is not None]
    if not {type(row[i]) for row in rows for i in present} <= _PLAIN:
        return None
    groups: dict[tuple[torch.dtype, torch.device], list[int]] = {}
    for i in present:
        groups.setdefault((leaves[i].dtype, leaves[i].device), []).append(i)
    if not all(dtype in DTYPES and runs_on(device) for dtype, device in groups):
        return None
    return _Tree(plan, updates, state, structure, rows, list(groups.values()))
