"""``fuse``, through which core gets the accelerated transformation."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from torchopt import pytree
from torchopt.authoring import checks
from torchopt.authoring.numerics import as_float
from torchopt.authoring.per_tensor import next_steps
from torchopt.base import FusedTransformation, GradientTransformation
from torchopt.blocks.scale_by_schedule import ScaleByScheduleState
from torchopt.typing import OptState, Params, TreeT, Updates
from torchopt_accel import ops
from torchopt_accel.call import Call
from torchopt_accel.devices import runs_on
from torchopt_accel.internals import transforming
from torchopt_accel.launch import DTYPES, Mismatch, contiguous, layout_of, overlap
from torchopt_accel.plans import Plan, find, plan, replace, schedule_count
from torchopt_accel.step import step

_PLAIN = {torch.Tensor, torch.nn.Parameter}


def fuse(
    name: str, composite: GradientTransformation, arguments: Mapping[str, Any]
) -> GradientTransformation:
    """Return the transformation that computes ``composite`` with fused kernels.

    Its states are those of ``composite``. The step of a plain optimizer is one kernel, too, which
    writes the parameters. ``composite`` does what no kernel does: ``amsgrad``, a ``mask``,
    hyperparameters other than ``lr`` that are tensors, a tree of learning rates; leaves of another
    dtype than float32, float64, bfloat16 and float16, on another device than the CPU and CUDA, or
    of a subclass of Tensor; in-place updates of tensors that are not contiguous, share memory,
    carry a graph or are being transformed by ``torch.func``; and what ``torch.compile`` traces,
    since its compiler fuses the rule itself. What does not fit together goes there too, for the
    error.

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

    def stage(
        updates: Updates, state: OptState, params: Params, keep_state: bool
    ) -> Callable[[], OptState] | None:
        if transforming():
            return None
        tree = _read(planned, updates, state, params, applied=True)
        try:
            return None if tree is None else tree.staged(keep_state)
        except Mismatch:
            return None

    return FusedTransformation(composite.init, update, stage)


class _Tree:
    """One update: the trees, flat, and what depends on the number of steps."""

    def __init__(
        self,
        plan: Plan,
        updates: Any,
        state: OptState,
        structure: pytree.PyTreeSpec,
        grads: list[Any],
        params: list[Any],
        columns: list[list[Any]],
        groups: list[list[int]],
    ) -> None:
        self._plan = plan
        self._updates = updates
        self._state = state
        self._structure = structure
        # Each with one entry a leaf; no params where none are needed.
        self._grads = grads
        self._params = params
        self._columns = columns
        # Positions of the leaves that go into one call: of one dtype, on one device.
        self._groups = groups

    def writable(self) -> bool:
        """Tell whether updates and states can be written where they lie.

        Raises:
            Mismatch: they do not fit together. No group may be written before all are known to.
        """
        if transforming():
            return False
        for group in self._groups:
            grads, params, *columns = self._roles(group)
            layout_of(grads, params, *columns)
            written = [*grads, *_joined(columns)]
            # What has a graph is cut from it where it is written, which core does.
            if not all(tensor.is_contiguous() and tensor.grad_fn is None for tensor in written):
                return False
            if overlap([*written, *contiguous(params)]):
                return False
        return True

    def update(self) -> tuple[Any, OptState]:
        """Return new trees, differentiable."""
        steps, lr, changes = self._counts()
        results = [list(self._grads), *map(list, self._columns)]
        for group in self._groups:
            call = Call(self._plan, len(group), group)
            _scatter(step(call, lr, steps, _joined(self._roles(group))), group, results)
        updates, *columns = results
        return pytree.tree_unflatten(self._structure, updates), self._next(columns, changes)

    @torch.no_grad()
    def update_inplace(self) -> tuple[Any, OptState]:
        """Write into the tensors of the trees and return these."""
        steps, lr, changes = self._counts()
        plan = self._plan
        for group in self._groups:
            grads, params, *columns = self._roles(group)
            ops.FORWARD_INPLACE[plan.kernel.rule](
                grads, params, _joined(columns), steps, group, lr, plan.hyper
            )
        for owner, fields in changes.items():
            for field, value in fields.items():
                getattr(find(self._state, owner), field).copy_(value)
        return self._updates, self._state

    def staged(self, keep_state: bool) -> Callable[[], OptState]:
        """Return the function that writes new parameters, and new states, into the old ones.

        Args:
            keep_state: Write the new states into copies.

        Raises:
            Mismatch: the tensors do not fit together, or can't be written where they lie.
        """
        steps, lr, changes = self._counts()
        plan = self._plan
        staged = []
        results = [*map(list, self._columns)]
        for group in self._groups:
            grads, params, *columns = self._roles(group)
            states = _joined(columns)
            if keep_state:
                states = [*map(torch.clone, states)]
                _scatter(states, group, results)
            staged.append(
                ops.STAGE[plan.kernel.rule](grads, params, states, steps, group, lr, plan.hyper)
            )

        def take_step() -> OptState:
            for take in staged:
                take()
            return self._next(results, changes)

        return take_step

    def _roles(self, group: list[int]) -> list[list[Any]]:
        """Return gradients, parameters (none, or one for each) and every column of states."""
        grads, *columns = [[row[i] for i in group] for row in (self._grads, *self._columns)]
        return [grads, [self._params[i] for i in group] if self._params else [], *columns]

    def _next(self, columns: list[list[Any]], changes: dict[type, dict[str, Any]]) -> OptState:
        """Return the state with new columns and counts."""
        for (owner, field), column in zip(self._plan.kernel.columns, columns):
            tree = pytree.tree_unflatten(self._structure, column)
            changes.setdefault(owner, {})[field] = tree
        return replace(self._state, changes)

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
            lr = _rate(lr(as_float(count)), count.device)
            changes[ScaleByScheduleState] = {'steps': count + 1}
        return steps, lr if isinstance(lr, torch.Tensor) else None, changes


def _rate(value: Any, device: torch.device) -> torch.Tensor:
    """Return what a schedule gave as a tensor."""
    if checks.is_tree(value):
        raise Mismatch('a tree of learning rates')
    if not isinstance(value, torch.Tensor):
        # Filled where it is needed: a CUDA graph can't hold a copy from the host.
        return torch.full((), value, dtype=torch.float64, device=device)
    if value.dim() != 0:
        raise Mismatch('a schedule must return a number or a 0-dim tensor')
    return value


def _read(
    plan: Plan, updates: Any, state: OptState, params: Params | None, *, applied: bool = False
) -> _Tree | None:
    """Take the trees apart; None if they differ in structure or no kernel takes them.

    With ``applied``, parameters are needed even where no weights decay.
    """
    grads, structure = pytree.tree_flatten(updates, none_is_leaf=True)
    needed = plan.decays or applied
    if needed and params is None:
        return None
    try:
        trees = [getattr(find(state, owner), field) for owner, field in plan.kernel.columns]
        columns = [structure.flatten_up_to(tree) for tree in trees]
        flat = [] if params is None or not needed else structure.flatten_up_to(params)
    except ValueError:
        return None
    present = [i for i, leaf in enumerate(grads) if leaf is not None]
    rows = [grads, *columns, flat] if needed else [grads, *columns]
    if not {type(row[i]) for row in rows for i in present} <= _PLAIN:
        return None
    groups: dict[tuple[torch.dtype, torch.device], list[int]] = {}
    for i in present:
        groups.setdefault((grads[i].dtype, grads[i].device), []).append(i)
    if not all(dtype in DTYPES and runs_on(device) for dtype, device in groups):
        return None
    return _Tree(plan, updates, state, structure, grads, flat, columns, list(groups.values()))


def _joined(roles: Sequence[Sequence[Any]]) -> list[Any]:
    return [tensor for role in roles for tensor in role]


def _scatter(outputs: Sequence[Any], group: list[int], results: list[list[Any]]) -> None:
    """Put the outputs of one call, role after role, at the places of its leaves."""
    for role, result in enumerate(results):
        for i, output in zip(group, outputs[role * len(group) :]):
            result[i] = output
