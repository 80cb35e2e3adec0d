"""One parameter group of a plain optimizer: its transformation, and its state in torch's format."""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from typing import Any

import torch

from torchopt.authoring.arguments import Recipe
from torchopt.authoring.describe import describe
from torchopt.authoring.steps import count_steps, shared_device
from torchopt.authoring.torch_state import STEP, Entry, StateLayout, counts_of
from torchopt.base import FusedTransformation, GradientTransformation, StepInPlace
from torchopt.update import prepare_addition

Group = Mapping[str, Any]
Entries = MutableMapping[torch.Tensor, Entry]


class GroupStep:
    """Takes the steps of one group.

    The optimizer's ``param_groups`` and ``state`` are the source of truth: the next step sees
    whatever a scheduler or a user has put there. Everything that is kept here is derived from
    them, and is made again when it is out of date.
    """

    def __init__(self, impl: GradientTransformation | Recipe) -> None:
        self._impl = impl
        self._hyperparameters: dict[str, Any] = {}
        self._transformation: GradientTransformation | None = None
        self._layouts: dict[Any, StateLayout] = {}
        self._layout: StateLayout | None = None
        self._laid_out: list[torch.Tensor] = []
        self._steps = torch.zeros(0, dtype=torch.int64)
        self._counts: list[torch.Tensor] = []
        self._in_place: StepInPlace | None = None

    def transformation(self, group: Group) -> GradientTransformation:
        """Return the transformation with the group's current hyperparameters.

        Raises:
            ValueError: a hyperparameter is out of its range.
            TypeError: a hyperparameter is of the wrong type.
        """
        if isinstance(self._impl, GradientTransformation):
            return self._impl
        if self._transformation is None or self._changed(group):
            values = {name: group[name] for name in self._impl.names}
            self._transformation = self._impl.make(values)
            # Lists are copied, because a user may write into them.
            self._hyperparameters = {
                name: list(value) if isinstance(value, list) else value
                for name, value in values.items()
            }
            self._layout = self._in_place = None
        return self._transformation

    def layout(self, group: Group) -> StateLayout:
        """Return how the state of the group maps to torch's format."""
        transformation = self.transformation(group)
        params = group['params']
        if self._layout is None or not _are(params, self._laid_out):
            shapes = (*[param.shape for param in params],)
            key = shapes, *map(_layout_key, self._hyperparameters.values())
            if key not in self._layouts:
                hollow = [torch.empty_like(param, device='meta') for param in params]
                self._layouts[key] = StateLayout(transformation.init(hollow), len(params))
            self._layout, self._laid_out = self._layouts[key], [*params]
        return self._layout

    def entries(self, group: Group, state: Entries) -> list[Entry]:
        """Return the entries of the group's parameters; new entries hold initial values."""
        return self._entries(group, state, self.layout(group))

    def _entries(self, group: Group, state: Entries, layout: StateLayout) -> list[Entry]:
        params = group['params']
        entries = [state.get(param, {}) for param in params]
        complete = [name in e for e, names in zip(entries, layout.needed) for name in names]
        if not all(entries) or not all(complete):
            entries = self._filled(group, layout, entries)
            state.update(zip(params, entries))
        counts = [entry.get(STEP) for entry in entries]
        if not _are(counts, self._counts):
            self._steps = counts_of(entries, shared_device(params))
            self._counts = list(self._steps.unbind())
            for entry, count in zip(entries, self._counts):
                entry[STEP] = count
        return entries

    def prepare(self, group: Group, state: Entries, *, keep_state: bool) -> Callable[[], None]:
        """Validate a step; return the function that takes it.

        Args:
            group: One of ``param_groups``.
            state: ``state`` of the optimizer.
            keep_state: Whether the tensors of the state are lent out, and must not be changed.

        Returns:
            The function that writes the parameters and the new state.
        """
        in_place = self._steps_in_place(group)
        params = group['params']
        gradients = [param.grad if param.requires_grad else None for param in params]
        layout = self._layout
        if layout is None or not _are(params, self._laid_out):
            layout = self.layout(group)
        entries = self._entries(group, state, layout)
        if in_place is not None:
            if keep_state:
                layout.copy(entries, gradients)
            taken = layout.read(entries, self._steps)
            commit = in_place(gradients, taken, params)
            if commit is not None:
                if layout.has_numbers:
                    # They were written in a vector of their own.
                    commit = _then(commit, functools.partial(layout.write, taken, entries))
                return self._counting(commit, gradients, layout)
        transformation = self.transformation(group)
        old = layout.read(entries, self._steps)
        try:
            updates, new = transformation.update(gradients, old, params=params, inplace=False)
        except (TypeError, RuntimeError) as error:
            raise _naming_sparse(group, gradients, error) from error
        add = prepare_addition(params, updates)

        def write() -> None:
            add()
            steps = layout.write(new, entries)
            if steps is not None:
                self._steps.copy_(steps)

        return self._counting(write, gradients, layout)

    def _steps_in_place(self, group: Group) -> StepInPlace | None:
        """Return what takes the group's steps in one pass, if its transformation can do that."""
        changed = self._changed(group)
        if self._in_place is not None and changed == ['lr']:
            # A scheduler sets a new learning rate before every step. To make the transformation
            # again would take as long as a small step; it waits until somebody asks for it.
            rate = group['lr']
            if _is_rate(rate) and _is_rate(self._hyperparameters['lr']):
                self._in_place.set_lr(rate)
                self._hyperparameters['lr'], self._transformation = rate, None
                return self._in_place
        if self._in_place is None or changed:
            transformation = self.transformation(group)
            if isinstance(transformation, FusedTransformation):
                self._in_place = transformation.in_place()
        return self._in_place

    def _counting(
        self, commit: Callable[[], None], gradients: list[Any], layout: StateLayout
    ) -> Callable[[], None]:
        """Return ``commit``, which also counts the steps that the state does not count itself."""
        if all(layout.counted):
            return commit
        counted = layout.counted
        uncounted = [None if counted[i] else gradient for i, gradient in enumerate(gradients)]

        def counted_commit() -> None:
            commit()
            count_steps(self._steps, uncounted)

        return counted_commit

    def _filled(self, group: Group, layout: StateLayout, entries: Sequence[Entry]) -> list[Entry]:
        """Return complete entries, with initial values for what ``entries`` lack."""
        params = group['params']
        first: list[Entry] = [{STEP: torch.zeros((), dtype=torch.int64)} for _ in params]
        layout.write(self.transformation(group).init(params), first)
        # A value that all entries refer to is missing in the entry of a parameter without steps.
        shared = {
            name: entry[name] for entry in entries for name in layout.shared_names if name in entry
        }
        for old, new in zip(entries, first):
            new.update(shared)
            # An entry of torch.optim.SGD has no count: counts_of finds one.
            if old and STEP not in old:
                del new[STEP]
            new.update(old)
        return first

    def _changed(self, group: Group) -> list[str]:
        """Return the names of the hyperparameters that have changed."""
        return [
            name
            for name, value in self._hyperparameters.items()
            if group[name] is not value and not _equal(group[name], value)
        ]


def _are(new: Sequence[Any], old: Sequence[Any]) -> bool:
    """Tell whether two lists hold the same objects."""
    return len(new) == len(old) and all(map(operator.is_, new, old))


def _then(first: Callable[[], None], second: Callable[[], object]) -> Callable[[], None]:
    def both() -> None:
        first()
        second()

    return both


def _equal(new: Any, old: Any) -> bool:
    plain = (int, float, str)
    if type(new) is type(old) and isinstance(new, (tuple, list)):
        return len(new) == len(old) and all(a is b or _equal(a, b) for a, b in zip(new, old))
    return type(new) is type(old) and isinstance(new, plain) and new == old


def _is_rate(value: Any) -> bool:
    """Tell whether a value is a number that all rules take as their learning rate, but 0."""
    return type(value) is float and 0 < value < math.inf


def _layout_key(value: Any) -> Any:
    """Return what the layout of a state can depend on; for a number, whether it is 0."""
    if isinstance(value, (int, float)):
        return bool(value)
    return type(value) if isinstance(value, (tuple, list, torch.Tensor)) else id(value)


def name_of(group: Group, position: int) -> str:
    """Return a parameter's name in messages: its own, if the optimizer was given names."""
    names = group.get('param_names')
    return f'params[{position}]' if names is None else repr(names[position])


def _naming_sparse(group: Group, gradients: list[Any], error: Exception) -> Exception:
    for position, gradient in enumerate(gradients):
        if gradient is not None and gradient.layout is not torch.strided:
            return type(error)(f'{name_of(group, position)} has a sparse gradient: {error}')
    return error


def keeping_tensors(
    name: str, old: Any, new: Any, writes: list[tuple[torch.Tensor, torch.Tensor]]
) -> Any:
    """Return a loaded hyperparameter in which the tensors are those of ``old``.

    The values that they are to take are added to ``writes``.
    """
    if type(old) is tuple and isinstance(new, (tuple, list)) and len(old) == len(new):
        return tuple(keeping_tensors(name, a, b, writes) for a, b in zip(old, new))
    if not isinstance(old, torch.Tensor) or new is old:
        return new
    value = torch.as_tensor(new)
    if value.shape != old.shape:
        raise ValueError(
            f'{name} does not fit: the optimizer has {describe(old)}, the state {describe(value)}'
        )
    writes.append((old, value))
    return old
