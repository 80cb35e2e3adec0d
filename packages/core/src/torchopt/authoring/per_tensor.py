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
from torchopt.authoring.columns import flatten_like, unflatten_like
from torchopt.authoring.describe import describe
from torchopt.authoring.initial import filled_like, filled_numbers
from torchopt.authoring.numbers import require_vector
from torchopt.authoring.numerics import SIXTEEN_BIT
from torchopt.authoring.rates import rates_as_numbers, rates_of
from torchopt.authoring.scalars import PerLeaf
from torchopt.authoring.shards import PLAIN, placed_like
from torchopt.authoring.steps import advance, largest, zero_steps
from torchopt.authoring.transformation import transformation, wrong_state
from torchopt.base import EmptyState, GradientTransformation
from torchopt.typing import LearningRate, Params, Scalar, TensorTree, Updates

State = TypeVar('State', bound='tuple[Any, ...]')
Rule = Callable[..., tuple[torch.Tensor, ...]]


def pointwise(fn: Callable[[torch.Tensor], torch.Tensor]) -> GradientTransformation:
    """Make a stateless transformation from a function of one update tensor."""
    return transformation(
        lambda params: EmptyState(),
        lambda updates, state, params: (map_updates(fn, updates), state),
    )


def elementwise(
    state_class: type[State],
    rule: Rule,
    scalars: Callable[..., Iterable[torch.Tensor]] | None = None,
    *,
    lr: LearningRate | None = None,
    takes_params: bool = False,
    initial: Mapping[str, LearningRate] | None = None,
    shapes: Mapping[str, Callable[[torch.Size], Sequence[int]]] | None = None,
    numbers: Mapping[str, LearningRate] | None = None,
    numbers_lr: LearningRate | None = None,
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
            gradient, the rule is not called, and the state is kept. With ``takes_params`` the
            parameter follows the gradient, and with ``lr`` the rate precedes the scalars.
        scalars: Maps the float64 vector of step counts, which is 1 at the first step, to vectors
            with one scalar per parameter, such as bias corrections. Without this function no steps
            are counted, and the field ``steps`` holds the empty tuple. With ``numbers``, it takes
            their old vectors, too, and returns the new ones before the scalars.
        lr: A learning rate that the rule takes, because it is not a factor of the update: a number,
            or a tensor that broadcasts to the gradient. Needs ``scalars``.
        takes_params: Whether the rule takes the parameter. ``update`` then needs ``params``.
        initial: Initial values of state tensors, by field: scalars, trees of them, or schedules,
            of which the first value counts; 0 by default.
        shapes: For fields whose tensors are not shaped like the parameters, the shape by the
            shape of the parameter.
        numbers: Initial values, by field, of states that are one number per parameter: float64
            vectors like ``steps``. Scalars, or schedules, of which the first value counts.
        numbers_lr: A scalar or a schedule, whose value ``scalars`` takes after the step counts.
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
    numbers, shapes = numbers or {}, shapes or {}
    others = {'steps', *numbers, *unused}
    moments = {name: (initial or {}).get(name, 0.0) for name in names if name not in others}

    def init(params: Params) -> State:
        for name, value in (denominators or {}).items():
            checks.representable(name, value, params)
        fields: dict[str, Any] = dict.fromkeys(names, ())
        for name, first in moments.items():
            shape = shapes.get(name)
            fields[name] = filled_like(params, first, shape, requires_grad=moment_requires_grad)
        if scalars is not None:
            fields['steps'] = zero_steps(params)
            fields.update({name: filled_numbers(params, x) for name, x in numbers.items()})
        return state_class(**fields)

    def update(updates: Updates, state: Any, params: Params | None) -> tuple[Any, State]:
        if not isinstance(state, kind):
            raise wrong_state(state, state_class)
        leaves, structure = pytree.tree_flatten(updates, none_is_leaf=True)
        old = state._asdict()
        per_leaf: list[torch.Tensor] = []
        given = {'params': params} if takes_params else {}
        if takes_params and params is None:
            raise ValueError('this rule needs the parameters: call update(..., params=params)')
        rates = None if lr is None else rates_of(lr, largest(state.steps), structure, leaves)
        if scalars is not None:
            old['steps'], counts = advance(state.steps, leaves)
            vectors = [require_vector(name, old[name], old['steps']) for name in numbers]
            rate: list[Scalar] = []
            if numbers_lr is not None:
                seen = largest(state.steps)
                rate.append(rates_as_numbers(numbers_lr, seen, structure, leaves))
            per_leaf = [*scalars(counts, *rate, *vectors)]
            stepped = old['steps'] != state.steps  # without a gradient, a number is kept
            for name in numbers:
                old[name] = torch.where(stepped, per_leaf.pop(0), old[name])
        trees = {name: old[name] for name in moments}
        updates, *new_trees = _apply_rule(
            rule, updates, leaves, structure, given, trees, shapes, rates, per_leaf, sparse
        )
        return updates, state_class(**{**old, **dict(zip(moments, new_trees))})

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
    given: Mapping[str, TensorTree],
    state: Mapping[str, TensorTree],
    shapes: Mapping[str, Callable[[torch.Size], Sequence[int]]],
    rates: Sequence[Any] | None,
    scalars: Sequence[torch.Tensor],
    sparse: bool,
) -> list[Any]:
    """Apply a rule at every leaf of ``updates`` where there is a gradient.

    Returns:
        The tree of updates, then one tree for every entry of ``state``.
    """
    inputs = {**given, **state}
    columns = flatten_like(structure, inputs.items())
    _require_alike(structure, leaves, dict(zip(inputs, columns)), shapes, sparse=sparse)
    per_leaf = PerLeaf(scalars)
    checked = False

    results: list[list[torch.Tensor | None]] = []
    for position, row in enumerate(zip(leaves, *columns)):
        gradient = row[0]
        if gradient is None:
            results.append([gradient, *row[1 + len(given) :]])
            continue
        dtype = gradient.dtype
        rate = () if rates is None else (rates[position],)
        if dtype in SIXTEEN_BIT:
            wide = [x.float() for x in row]
            new = rule(*wide, *rate, *per_leaf.at(position, torch.float32, gradient))
        else:
            new = rule(*row, *rate, *per_leaf.at(position, dtype, gradient))
        if not checked:  # once: to look at shapes takes as long as a small operation
            checks.rule_results(new, [gradient, *row[1 + len(given) :]])
            checked = True
        if type(gradient) not in PLAIN:
            new = (new[0], *map(placed_like, new[1:], row[1 + len(given) :]))
        # A 0-dim hyperparameter of a wider dtype promotes a 0-dim gradient: undo that.
        results.append([x if x.dtype == dtype else x.to(dtype) for x in new])
    if not results:
        return [updates, *state.values()]
    return unflatten_like(structure, zip(*results), (updates, *state.values()))


def _require_alike(
    structure: pytree.PyTreeSpec,
    leaves: list[Any],
    columns: Mapping[str, list[Any]],
    shapes: Mapping[str, Callable[[torch.Size], Sequence[int]]] | None = None,
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
        shape_of = (shapes or {}).get(name)
        for position, (leaf, other) in enumerate(zip(leaves, column)):
            if leaf is not None and not (
                isinstance(other, torch.Tensor)
                and other.shape == (leaf.shape if shape_of is None else shape_of(leaf.shape))
                and other.dtype == leaf.dtype
                and other.device == leaf.device
            ):
                accessor = structure.accessors()[position]
                raise ValueError(
                    f'{accessor.codify(name)} does not fit {accessor.codify("updates")}: '
                    f'{describe(other)} against {describe(leaf)}'
                )
