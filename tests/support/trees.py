"""Trees of tensors to run optimizers on, and comparisons of trees."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from torchopt import pytree

Tree = Any


def generator(seed: int) -> torch.Generator:
    """A new generator for every use, so that results do not depend on the order of tests."""
    return torch.Generator().manual_seed(seed)


def sample_params(dtype: torch.dtype = torch.float64, device: str = 'cpu') -> dict[str, Any]:
    """A nested tree with a matrix, a transposed one, a vector, a 0-dim and an empty tensor."""
    source = generator(0)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=source, dtype=torch.float64).to(device, dtype)

    return {
        'layers': [(normal(3, 2), normal(2)), (normal(2, 3).t(), None)],
        'scale': normal(),
        'empty': normal(0, 2),
    }


def sample_gradients(params: Tree, step: int, *, sparse: bool = False) -> Tree:
    """Gradients of ``params`` at a step: random numbers, exact zeros among them.

    With ``sparse``, some are None at some steps. The gradients of transposed tensors are
    contiguous, so that memory formats differ.
    """
    leaves, structure = pytree.tree_flatten(params, none_is_leaf=True)
    source = generator(1000 + step)
    gradients = []
    for position, leaf in enumerate(leaves):
        if leaf is None or (sparse and (step + position) % 3 == 0):
            gradients.append(None)
            continue
        gradient = torch.randn(leaf.shape, generator=source, dtype=torch.float64)
        zero = torch.rand(leaf.shape, generator=source) < 0.1
        gradients.append(gradient.masked_fill(zero, 0.0).to(leaf.device, leaf.dtype))
    return pytree.tree_unflatten(structure, gradients)


def state_fields(state: Any) -> Iterator[tuple[str, Tree]]:
    """The fields of an optimizer's state by name, through chains and partitions."""
    if hasattr(state, 'inner_states'):
        state = tuple(state.inner_states.values())
    if hasattr(state, '_fields'):
        yield from zip(state._fields, state)
    else:
        for member in state:
            yield from state_fields(member)


def copied(tree: Tree) -> Tree:
    """A copy of every tensor, with its strides and without its graph."""

    def copy(leaf: Any) -> Any:
        if not isinstance(leaf, torch.Tensor):
            return leaf
        new = torch.empty_strided(leaf.shape, leaf.stride(), dtype=leaf.dtype, device=leaf.device)
        new.copy_(leaf.detach())
        return new.requires_grad_(leaf.requires_grad)

    return pytree.tree_map(copy, tree, none_is_leaf=True)


def requiring_grad(tree: Tree) -> Tree:
    """The floating-point tensors of ``tree`` as leaves that require grad."""
    return pytree.tree_map(
        lambda x: (
            x.detach().clone().requires_grad_()
            if isinstance(x, torch.Tensor) and x.is_floating_point()
            else x
        ),
        tree,
        none_is_leaf=True,
    )


def assert_trees_close(
    actual: Tree, expected: Tree, *, rtol: float = 1e-12, atol: float = 1e-12
) -> None:
    """Assert equal structure, dtypes and shapes, and values to the tolerances."""
    actual_leaves, actual_structure = pytree.tree_flatten(actual, none_is_leaf=True)
    leaves, structure = pytree.tree_flatten(expected, none_is_leaf=True)
    assert actual_structure == structure
    for mine, theirs in zip(actual_leaves, leaves):
        assert (mine is None) == (theirs is None)
        if mine is not None:
            torch.testing.assert_close(mine, theirs, rtol=rtol, atol=atol)


def assert_trees_equal(actual: Tree, expected: Tree) -> None:
    """Assert equal structure, dtypes, shapes and values, bit for bit (NaN equals NaN)."""
    actual_leaves, actual_structure = pytree.tree_flatten(actual, none_is_leaf=True)
    leaves, structure = pytree.tree_flatten(expected, none_is_leaf=True)
    assert actual_structure == structure
    for mine, theirs in zip(actual_leaves, leaves):
        assert (mine is None) == (theirs is None)
        if mine is not None:
            torch.testing.assert_close(mine, theirs, rtol=0, atol=0, equal_nan=True)
