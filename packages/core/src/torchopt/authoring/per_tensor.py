"""Lifting of a rule for one tensor to a transformation of a tree of tensors.

A rule sees one gradient with its state tensors and returns new ones. This module takes care of
everything else: the tree, absent gradients, tensors that do not fit, and 16-bit arithmetic.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

import torch

from torchopt import pytree
from torchopt.authoring import checks
from torchopt.authoring.common_trees import SEQUENCES
from torchopt.authoring.describe import describe
from torchopt.authoring.initial import filled_like
from torchopt.authoring.steps import advance, zero_steps
from torchopt.authoring.transformation import transformation, wrong_state
from torchopt.base import EmptyState, GradientTransformation
from torchopt.typing import Params, Scalar, TensorTree, Updates

State = TypeVar('State', bound='tuple[Any, ...]')
Rule = Callable[..., tuple[torch.Tensor, ...]]

_SIXTEEN_BIT = frozenset({torch.float16, torch.bfloat16})


def pointwise(fn: Callable[[torch.Tensor], torch.Tensor]) -> GradientTransformation:
    """Make a stateless transformation from a function of one update tensor."""
    return transformation(
        lambda params: EmptyState(),
        lambda updates, state, params: (map_updates(fn, updates), state),
    )


def elementwise(
    state_class: type[State],
    rule: Rule,
    scalars: Callable[[torch.Tensor], Iterable[torch.Tensor]] | None = None,
    *,
    initial: Mapping[str, Scalar] | None = None,
    denominators: Mapping[str, Scalar] | None = None,
    unused: Sequence[str] = (),
    moment_requires_grad: bool = False,
    sparse: bool = False,
) -> GradientTransformation:
    """Make a transformation from a rule for one tensor.

    Args:
        state_class: A named tuple. Its fields are trees shaped like the parameters, in the order
            in which the rule takes their tensors. The field ``steps``, if any, is the int64 vector
            of the steps that each parameter has taken.
        rule: ``rule(gradient, *state_tensors, *scalars) -> (update, *new_state_tensors)``, all of
            one shape except for the 0-dim scalars. The rule gets 16-bit tensors as float32, and
            its results are rounded to the dtype of the gradient. Where a parameter has no
            gradient, the rule is not called, and the state is kept.
        scalars: Maps the float64 vector of step counts, which is 1 at the first step, to vectors
            with one scalar per parameter, such as bias corrections. Without this function no steps
            are counted, and the field ``steps`` holds the empty tuple.
        initial: Initial values of state tensors, by field; 0 by default.
        denominators: Hyperparameters, by name, that keep a denominator from 0. ``init`` raises
            ValueError if one of them underflows in the dtype of a parameter.
        unused: Fields that this variant of the rule does not use. They hold the empty tuple, which
            :func:`torch.vmap` accepts as a tree without tensors.
        moment_requires_grad: Let the initial state tensors require grad.
        sparse: Whether the rule takes sparse gradients, too.

    Returns:
        The transformation. Its ``update`` raises ValueError if updates and state differ in
        structure, or if a tensor of the state differs from its gradient in shape, dtype or device.
        It raises TypeError for a leaf of the updates that is neither a floating-point tensor nor
        None.
    """
    kind: Any = state_class
    names: tuple[str, ...] = kind._fields
    moments = [name for name in names if name != 'steps' and name not in unused]
    firsts = {name: (initial or {}).get(name, 0.0) for name in moments}

    def init(params: Params) -> State:
        for name, value in (denominators or {}).items():
            checks.representable(name, value, params)
        fields: dict[str, Any] = dict.fromkeys(names, ())
        for name, value in firsts.items():
            fields[name] = filled_like(params, value, requires_grad=moment_requires_grad)
        if scalars is not None:
            fields['steps'] = zero_steps(params)
        return state_class(**fields)

    def update(updates: Updates, state: Any, params: Params | None) -> tuple[Any, State]:
        if not isinstance(state, kind):
            raise wrong_state(state, state_class)
        leaves, structure = pytree.tree_flatten(updates, none_is_leaf=True)
        old = state._asdict()
        per_leaf: Iterable[torch.Tensor] = ()
        if scalars is not None:
            old['steps'], counts = advance(state.steps, leaves)
            per_leaf = scalars(counts)
        trees = {name: old[name] for name in moments}
        updates, *new = _apply_rule(
            rule, updates, leaves, structure, trees, tuple(per_leaf), sparse
        )
        return updates, state_class(**{**old, **dict(zip(moments, new))})

    return transformation(init, update)


def map_updates(
    fn: Callable[..., torch.Tensor],
    updates: Updates,
    others: Mapping[str, TensorTree] | None = None,
    *,
    broadcast: bool = False,
    absent: str | None = None,
) -> Any:
    """Apply ``fn(update, *others)`` at every leaf where there is an update.

    Args:
        fn: Returns a tensor of the update's shape.
        updates: Tree of tensors; None where a parameter has no gradient.
        others: Trees with the structure of ``updates``, by their names in error messages.
        broadcast: Let the tensors of ``others`` have any shape and dtype that ``fn`` can use.
        absent: Name of a tree in ``others``. Where there is no update, the result is the leaf of
            this tree; by default it is None.

    Returns:
        The tree of results, each in the dtype of its update.

    Raises:
        ValueError: the trees differ in structure; a tensor of ``others`` differs from its update
            in shape, dtype or device; or, with ``broadcast``, a result differs in shape.
        TypeError: a leaf of ``updates`` is neither a floating-point tensor nor None.
    """
    leaves, structure = pytree.tree_flatten(updates, none_is_leaf=True)
    others = others or {}
    columns = dict(zip(others, flatten_like(structure, others.items())))
    _require_alike(structure, leaves, {} if broadcast else columns)
    results = list(leaves if absent is None else columns[absent])
    for position, row in enumerate(zip(leaves, *columns.values())):
        old = row[0]
        if old is None:
            continue
        new = fn(*row)
        if broadcast and new.shape != old.shape:
            accessor = structure.accessors()[position]
            names = ' and '.join(accessor.codify(name) for name in others)
            raise ValueError(
                f'{names} does not fit {accessor.codify("updates")} of shape {tuple(old.shape)}: '
                f'together they give {tuple(new.shape)}'
            )
        # A 0-dim factor of a wider dtype promotes a 0-dim update: undo that.
        results[position] = new if new.dtype == old.dtype else new.to(old.dtype)
    (new_tree,) = unflatten_like(
        structure, [results], [updates if absent is None else others[absent]]
    )
    return new_tree


def add_updates(params: Params, updates: Updates) -> Any:
    """Return the tree of sums; a parameter without an update stays as it is."""
    # torch.add takes a sparse tensor as its second argument only.
    return map_updates(lambda u, p: torch.add(p, u), updates, {'params': params}, absent='params')


def _apply_rule(
    rule: Rule,
    updates: Updates,
    leaves: list[Any],
    structure: pytree.PyTreeSpec,
    state: Mapping[str, TensorTree],
    scalars: Sequence[torch.Tensor],
    sparse: bool,
) -> list[Any]:
    """Apply a rule at every leaf of ``updates`` where there is a gradient.

    Returns:
        The tree of updates, then one tree for every entry of ``state``.
    """
    columns = flatten_like(structure, state.items())
    _require_alike(structure, leaves, dict(zip(state, columns)), sparse=sparse)
    per_leaf = _Scalars(scalars)
    checked = False

    results: list[list[torch.Tensor | None]] = []
    for position, row in enumerate(zip(leaves, *columns)):
        gradient = row[0]
        if gradient is None:
            results.append(list(row))
            continue
        dtype = gradient.dtype
        if dtype in _SIXTEEN_BIT:
            wide = [x.float() for x in row]
            new = rule(*wide, *per_leaf.at(position, torch.float32, gradient))
        else:
            new = rule(*row, *per_leaf.at(position, dtype, gradient))
        if not checked:  # once: to look at shapes takes as long as a small operation
            checks.rule_results(new, row)
            checked = True
        # A 0-dim hyperparameter of a wider dtype promotes a 0-dim gradient: undo that.
        results.append([x if x.dtype == dtype else x.to(dtype) for x in new])
    if not results:
        return [updates, *state.values()]
    return unflatten_like(structure, zip(*results), (updates, *state.values()))


class _Scalars:
    """Gives each leaf its entries of the per-leaf vectors, as 0-dim tensors of the leaf's dtype.

    A vector is converted and unbound once per dtype and device, not once per leaf.
    """

    def __init__(self, vectors: Sequence[torch.Tensor]) -> None:
        self._vectors = vectors
        self._rows: dict[tuple[torch.dtype, torch.device], list[tuple[torch.Tensor, ...]]] = {}

    def at(self, position: int, dtype: torch.dtype, like: torch.Tensor) -> tuple[torch.Tensor, ...]:
        if not self._vectors:
            return ()
        key = dtype, like.device
        if key not in self._rows:
            unbound = [self._convert(vector, *key).unbind() for vector in self._vectors]
            self._rows[key] = list(zip(*unbound))
        return self._rows[key][position]

    @staticmethod
    def _convert(vector: torch.Tensor, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
        # A 0-dim tensor on the CPU can be combined with any device, without waiting for it.
        return vector.to(dtype) if vector.device.type == 'cpu' else vector.to(device, dtype)


def flatten_like(
    structure: pytree.PyTreeSpec, trees: Iterable[tuple[str, TensorTree]]
) -> list[list[Any]]:
    """Return the leaves of each tree; at its root, a list and a tuple count as one structure.

    Raises:
        ValueError: a tree, which the message calls by its name, has another structure.
    """
    columns = []
    for name, tree in trees:
        # torch.autograd.grad returns a tuple, even if parameters and states are in a list.
        if type(tree) in SEQUENCES and structure.type in SEQUENCES:
            tree = structure.type(tree)
        given: Any = tree
        try:
            columns.append(structure.flatten_up_to(given))
        except ValueError as error:
            raise ValueError(f'{name} and updates differ in structure: {error}') from None
    return columns


def unflatten_like(
    structure: pytree.PyTreeSpec, columns: Iterable[Iterable[Any]], trees: Iterable[TensorTree]
) -> list[Any]:
    """Undo :func:`flatten_like`, with a list or a tuple at each root as ``trees`` have it."""
    return [
        in_container_of(old, new)
        for old, new in zip(trees, pytree.unflatten_columns(structure, columns))
    ]


def in_container_of(old: TensorTree, new: TensorTree) -> Any:
    """Return ``new``; if both are lists or tuples, convert it to the type of ``old``."""
    kind: Any = type(old)
    both = kind in SEQUENCES and type(new) in SEQUENCES
    return kind(new) if both and kind is not type(new) else new


def _require_alike(
    structure: pytree.PyTreeSpec,
    leaves: list[Any],
    columns: Mapping[str, list[Any]],
    *,
    sparse: bool = True,
) -> None:
    for position, leaf in enumerate(leaves):
        if leaf is None:
            continue
        if not (isinstance(leaf, torch.Tensor) and leaf.is_floating_point()):
            raise checks.wrong_leaf(structure.accessors()[position].codify('updates'), leaf)
        if not sparse and leaf.layout is not torch.strided:
            where = structure.accessors()[position].codify('updates')
            raise TypeError(
                f'{where} is a sparse gradient, which this rule does not take: make it dense, or '
                'use adagrad, or sgd without momentum and weight decay'
            )
    for name, column in columns.items():
        for position, (leaf, other) in enumerate(zip(leaves, column)):
            if leaf is not None and not (
                isinstance(other, torch.Tensor)
                and other.shape == leaf.shape
                and other.dtype == leaf.dtype
                and other.device == leaf.device
            ):
                accessor = structure.accessors()[position]
                raise ValueError(
                    f'{accessor.codify(name)} does not fit {accessor.codify("updates")}: '
                    f'{describe(other)} against {describe(leaf)}'
                )
