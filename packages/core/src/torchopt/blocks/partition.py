"""Different transformations for different parameters."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from typing import Any, NamedTuple

from torchopt import pytree
from torchopt.authoring import checks
from torchopt.authoring.columns import in_container_of
from torchopt.authoring.describe import enumerate_few
from torchopt.authoring.origin import recorded
from torchopt.authoring.per_tensor import map_updates
from torchopt.authoring.state import saveable
from torchopt.authoring.torch_state import holds_states
from torchopt.authoring.transformation import transformation, wrong_state
from torchopt.base import GradientTransformation
from torchopt.typing import OptState, Params, TensorTree

Labels = Any | Callable[[Params], Any]


@saveable
@holds_states('inner_states')
class PartitionState(NamedTuple):
    """State of :func:`partition`.

    Attributes:
        inner_states: The state of each transformation, by label.
    """

    inner_states: dict[Hashable, OptState]


@recorded
def partition(
    transforms: Mapping[Hashable, GradientTransformation], param_labels: Labels
) -> GradientTransformation:
    """Apply to every parameter the transformation that its label names.

    Args:
        transforms: Transformations by label. Each sees None, which stands for an absent parameter,
            where another one is meant.
        param_labels: A tree of labels with the structure of the parameters (or a prefix of it), or
            a function from the parameters to such a tree. If ``update`` is called without
            ``params``, the function gets the updates.

    Raises:
        ValueError: a label is not in ``transforms``, or the labels have another structure than the
            parameters.

    Example:
        >>> import torch, torchopt
        >>> params = {'weight': torch.ones(2, 2), 'bias': torch.ones(2)}
        >>> optimizer = torchopt.transform.partition(
        ...     {'slow': torchopt.sgd(0.1), 'fast': torchopt.sgd(1.0)},
        ...     {'weight': 'slow', 'bias': 'fast'},
        ... )
        >>> updates, _ = optimizer.update(params, optimizer.init(params), inplace=False)
        >>> updates['bias']
        tensor([-1., -1.])
    """
    transforms = dict(transforms)

    def labels_of(tree: TensorTree) -> Any:
        return param_labels(tree) if checks.is_function(param_labels) else param_labels

    def init(params: Params) -> PartitionState:
        labels = labels_of(params)
        _require_known(labels, transforms, params, 'params')
        states: Any = {
            name: inner.init(_only(labels, name, params)) for name, inner in transforms.items()
        }
        # torch.vmap takes an empty tuple for a tree without tensors, and None for a wrong result.
        states = pytree.tree_map(
            lambda leaf: () if leaf is None else leaf, states, none_is_leaf=True
        )
        return PartitionState(states)

    def update(updates: Any, state: Any, params: Params | None) -> tuple[Any, PartitionState]:
        if not isinstance(state, PartitionState):
            raise wrong_state(state, PartitionState)
        if params is not None:
            map_updates(lambda u, p: u, updates, {'params': params})  # raises if they do not fit
        labels = labels_of(updates if params is None else params)
        # Take a list for the tuple that torch.autograd.grad returns, as everywhere.
        labels, params = (in_container_of(updates, tree) for tree in (labels, params))
        _require_known(labels, transforms, updates, 'updates')
        states = {}
        result = updates
        for name, inner in transforms.items():
            chosen = _only(labels, name, updates, 'updates')
            if chosen is None:  # a bare tensor, which is another transformation's
                states[name] = state.inner_states[name]
                continue
            changed, states[name] = inner.update(
                chosen,
                state.inner_states[name],
                params=None if params is None else _only(labels, name, params, 'params'),
                inplace=False,
            )
            result = _with(labels, name, result, changed, 'updates')
        return result, PartitionState(states)

    return transformation(init, update)


def _require_known(
    labels: Any, transforms: Mapping[Hashable, Any], tree: TensorTree, what: str
) -> None:
    unknown = set()

    def look(label: Any, part: TensorTree) -> None:
        # A function of labels may have none for an absent parameter.
        is_needed = label is not None or bool(pytree.tree_leaves(part))
        if is_needed and label not in transforms:
            unknown.add(repr(label))

    _map(look, labels, tree, what=what)
    if unknown:
        raise ValueError(
            f'no transformation for the label {enumerate_few(sorted(unknown))}: '
            f'there are {", ".join(map(repr, transforms))}'
        )


def _only(labels: Any, name: Hashable, tree: TensorTree, what: str = 'params') -> TensorTree:
    """Return the tree with None where the label is another one."""
    absent = pytree.tree_map(lambda leaf: None, tree, none_is_leaf=True)
    return _with(labels, name, absent, tree, what)


def _with(
    labels: Any, name: Hashable, tree: TensorTree, chosen: TensorTree, what: str
) -> TensorTree:
    """Return the tree with the leaves of ``chosen`` where the label is ``name``."""
    return _map(
        lambda label, old, new: new if label == name else old, labels, tree, chosen, what=what
    )


def _map(fn: Callable[..., Any], labels: Any, *trees: TensorTree, what: str) -> Any:
    try:
        return pytree.tree_map(fn, labels, *trees, none_is_leaf=True)
    except ValueError as error:
        raise ValueError(f'the labels and {what} differ in structure: {error}') from None
