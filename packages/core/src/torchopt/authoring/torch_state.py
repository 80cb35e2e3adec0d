"""States in the format of ``torch.optim``: a dictionary of tensors for every parameter.

A transformation keeps trees over all parameters; torch keeps ``state[param]['exp_avg']``. This
module translates between the two. :func:`torch_fields` declares torch's name of each field.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal, NamedTuple, TypeVar

import torch

from torchopt import pytree
from torchopt.authoring.numbers import joined, lie_in
from torchopt.typing import OptState

Class = TypeVar('Class', bound='type[tuple[Any, ...]]')
Entry = dict[str, Any]
"""Torch's state of one parameter."""

STEP = 'step'
_TORCH_FIELDS: dict[type, dict[str, str]] = {}
_FROM_CONSTRUCTION: set[type] = set()
_NUMBERS: dict[type, frozenset[str]] = {}
_HELD: dict[type, frozenset[str]] = {}


def holds_states(*fields: str) -> Callable[[Class], Class]:
    """Declare that these fields of a state hold other states: ``@holds_states('inner_state')``."""

    def decorate(state_class: Class) -> Class:
        _HELD[state_class] = frozenset(fields)
        return state_class

    return decorate


def torch_fields(
    *, from_construction: bool = False, numbers: Sequence[str] = (), **names: str
) -> Callable[[Class], Class]:
    """Declare torch's names for the fields of a state: ``@torch_fields(mu='exp_avg')``.

    Args:
        from_construction: Torch's optimizer makes this state in its constructor, before a
            parameter's first step, and does not work without it.
        numbers: Fields that hold one number per parameter, in one vector.
        names: Torch's names by field.
    """

    def decorate(state_class: Class) -> Class:
        _TORCH_FIELDS[state_class] = names
        _NUMBERS[state_class] = frozenset(numbers)
        if from_construction:
            _FROM_CONSTRUCTION.add(state_class)
        return state_class

    return decorate


class _Column(NamedTuple):
    """Where one field of a state is found in torch's format.

    Attributes:
        kind: ``each``: one value per parameter. ``numbers``: a vector with one number per
            parameter. ``steps``: the vector of step counts. ``shared``: one value, to which the
            entries of all parameters refer. ``constant``: no tensors. ``held``: other states.
        names: Keys in the entries: one key, or one per leaf of a shared value.
        value: By parameter, what ``init`` makes (on any device); or the dtype of numbers, the
            constant value, the structure and dtypes of a shared value, the layout of other states.
    """

    kind: Literal['each', 'numbers', 'steps', 'shared', 'constant', 'held']
    names: tuple[str, ...] = ()
    value: Any = None


class StateLayout:
    """How the state of a transformation over a list of parameters maps to torch's entries.

    Args:
        state: What ``init`` returned for the list.
        count: The number of parameters.

    Attributes:
        names: The keys of entries, without ``step``.
        shapes: For each parameter, the shapes of its tensors by key. A rule for some parameters
            leaves out the others.
        shared_names: The keys whose value is the same in all entries.
        needed: For each parameter, the keys that its entry must have.
        has_numbers: Whether some of its fields hold one number per parameter, in one vector.
        counted: For each parameter, whether the state counts its steps. A rule for some
            parameters counts theirs alone.
        is_from_construction: Whether the entries of parameters that have taken no step are needed.
    """

    def __init__(self, state: OptState, count: int, taken: set[str] | None = None) -> None:
        members, self._structure = pytree.tree_flatten(state, is_leaf=_is_member)
        self._members: list[tuple[type | None, list[_Column]]] = []
        taken = set() if taken is None else taken
        for member in members:
            if hasattr(member, '_fields'):
                columns = [
                    _column_of(member, field, value, count, taken)
                    for field, value in zip(member._fields, member)
                ]
                self._members.append((type(member), columns))
            else:
                name = type(member).__name__.lower()
                self._members.append((None, [_shared(name, member, taken)]))
        every = [column for _, columns in self._members for column in columns]
        self.names = [name for column in every for name in column.names]
        self.shapes: list[dict[str, torch.Size]] = [{} for _ in range(count)]
        for column in every:
            for position, of_param in enumerate(self.shapes):
                if column.kind == 'each' and isinstance(column.value[position], torch.Tensor):
                    of_param[column.names[0]] = column.value[position].shape
                elif column.kind == 'numbers':
                    of_param[column.names[0]] = torch.Size()
                elif column.kind == 'held':
                    of_param.update(column.value.shapes[position])
        held: list[StateLayout] = [column.value for column in every if column.kind == 'held']
        self.shared_names = [n for column in every if column.kind == 'shared' for n in column.names]
        self.shared_names += [name for layout in held for name in layout.shared_names]
        self.needed = [(*of_param, *self.shared_names) for of_param in self.shapes]
        self.has_numbers = any(column.kind == 'numbers' for column in every)
        self.counted: list[bool] = [
            any(_counts(columns, position) for _, columns in self._members)
            or any(layout.counted[position] for layout in held)
            for position in range(count)
        ]
        self.is_from_construction = any(kind in _FROM_CONSTRUCTION for kind, _ in self._members)
        self.is_from_construction |= any(layout.is_from_construction for layout in held)

    def read(self, entries: Sequence[Entry], steps: torch.Tensor) -> OptState:
        """Return the state that is stored in ``entries``, with the step counts ``steps``."""
        members: list[Any] = []
        for kind, columns in self._members:
            values = [_read(column, entries, steps) for column in columns]
            members.append(values[0] if kind is None else kind(*values))
        return pytree.tree_unflatten(self._structure, members)

    def copy(self, entries: Sequence[Entry], gradients: Sequence[torch.Tensor | None]) -> None:
        """Replace the tensors that a step of ``gradients`` changes by copies of them."""
        for entry, gradient, own in zip(entries, gradients, self.shapes):
            if gradient is not None:
                entry.update({name: entry[name].clone() for name in own})
        shared = {name: _copied(entries[0][name]) for name in self.shared_names}
        for entry in entries:
            entry.update(shared)

    def write(self, state: OptState, entries: Sequence[Entry]) -> torch.Tensor | None:
        """Store ``state`` in ``entries``; return its step counts, or None if it has none."""
        steps = None
        members = pytree.tree_leaves(state, is_leaf=_is_member)
        for member, (kind, columns) in zip(members, self._members):
            for value, column in zip([member] if kind is None else member, columns):
                if column.kind == 'each':
                    (name,) = column.names
                    for entry, leaf in zip(entries, value):
                        if isinstance(leaf, torch.Tensor):
                            entry[name] = leaf
                elif column.kind == 'numbers':
                    (name,) = column.names
                    if not lie_in(value, [entry.get(name) for entry in entries]):
                        for entry, number in zip(entries, value.unbind()):
                            entry[name] = number
                elif column.kind == 'steps':
                    steps = value
                elif column.kind == 'held':
                    inner = column.value.write(value, entries)
                    steps = steps if inner is None else inner
                elif column.kind == 'shared':
                    leaves = pytree.tree_leaves(value, none_is_leaf=True)
                    for entry in entries:
                        entry.update(zip(column.names, leaves))
        return steps


def _is_member(value: Any) -> bool:
    """Tell whether a value in the tree of a state is the state of one rule."""
    return type(value) not in (tuple, dict)


def _counts(columns: Sequence[_Column], position: int) -> bool:
    """Tell whether a rule with these columns counts the steps of a parameter."""
    own = [column.value[position] for column in columns if column.kind == 'each']
    is_own = not own or any(isinstance(leaf, torch.Tensor) for leaf in own)
    return is_own and any(column.kind == 'steps' for column in columns)


def _column_of(member: Any, field: str, value: Any, count: int, taken: set[str]) -> _Column:
    if field in _HELD.get(type(member), ()):
        layout = StateLayout(value, count, taken)
        return _Column('held', tuple(layout.names), layout)
    name = _TORCH_FIELDS.get(type(member), {}).get(field, field)
    if field in _NUMBERS.get(type(member), ()):
        return _Column('numbers', (_free(name, taken),), value.dtype)
    if isinstance(value, list) and len(value) == count:
        return _Column('each', (_free(name, taken),), value)
    if field == 'steps' and isinstance(value, torch.Tensor) and value.shape == (count,):
        if STEP not in taken:
            taken.add(STEP)
            return _Column('steps')
        # Two rules need not take the same steps: the second keeps its counts apart.
        return _Column('numbers', (_free(name, taken),), value.dtype)
    return _shared(name, value, taken)


def _shared(name: str, value: Any, taken: set[str]) -> _Column:
    leaves, structure = pytree.tree_flatten(value, none_is_leaf=True)
    if not any(isinstance(leaf, torch.Tensor) for leaf in leaves):
        return _Column('constant', value=value)
    names = tuple(_free(accessor.codify(name), taken) for accessor in structure.accessors())
    return _Column('shared', names, (structure, [getattr(leaf, 'dtype', None) for leaf in leaves]))


def _free(name: str, taken: set[str]) -> str:
    """Return ``name``, numbered if another field has it."""
    number, free = 1, name
    while free in taken or free == STEP:
        number += 1
        free = f'{name}_{number}'
    taken.add(free)
    return free


def _read(column: _Column, entries: Sequence[Entry], steps: torch.Tensor) -> Any:
    if column.kind == 'each':
        (name,) = column.names
        absent = column.value
        return [entry.get(name, absent[position]) for position, entry in enumerate(entries)]
    if column.kind == 'numbers':
        (name,) = column.names
        return joined([entry[name] for entry in entries], column.value, steps.device)
    if column.kind == 'steps':
        return steps
    if column.kind == 'held':
        return column.value.read(entries, steps)
    if column.kind == 'constant':
        return column.value
    structure, dtypes = column.value
    # torch gives every tensor that it loads the dtype of its parameter.
    leaves = [
        leaf if dtype is None else leaf.to(dtype)
        for leaf, dtype in zip((entries[0][name] for name in column.names), dtypes)
    ]
    return pytree.tree_unflatten(structure, leaves)


def _copied(value: Any) -> Any:
    return value.clone() if isinstance(value, torch.Tensor) else value


def counts_of(entries: Iterable[Entry], device: torch.device) -> torch.Tensor:
    """Return the int64 vector of the entries' step counts.

    ``torch.optim.SGD`` keeps no count. An entry without one counts 1 if it holds a tensor, else 0.
    """
    counts = [
        int(entry[STEP])
        if STEP in entry
        else int(any(isinstance(value, torch.Tensor) for value in entry.values()))
        for entry in entries
    ]
    return torch.tensor(counts, dtype=torch.int64, device=device)


def require_fitting(
    where: str, position: int, entry: Entry, layout: StateLayout, keeper: str
) -> None:
    """Raise unless ``entry`` can be the state of a parameter.

    Args:
        where: The name of the parameter in the message.
        position: The parameter's position in the list for which ``layout`` was made.
        entry: Torch's state of the parameter.
        layout: The state that is kept.
        keeper: What keeps it, in the message.

    Raises:
        ValueError: ``entry`` has a field that is not kept, or a tensor of another shape than the
            state that ``init`` makes for the parameter.
    """
    unknown = [key for key in entry if key not in (STEP, *layout.names)]
    if unknown:
        raise ValueError(
            f'the state of {where} has {", ".join(unknown)}; {keeper} keeps '
            f'{", ".join([STEP, *layout.names])}: take the same rule with the same options'
        )
    for key, shape in layout.shapes[position].items():
        value = entry.get(key)
        if isinstance(value, torch.Tensor) and value.shape != shape:
            raise ValueError(
                f'{key} of {where} does not fit: its shape must be {tuple(shape)}, '
                f'got {tuple(value.shape)}'
            )
