"""Marks of gradients and states in the graph of autograd."""

from typing import Any

import pytest
import torch

import torchopt
from torchopt.authoring.torch_internals import sequence_number
from torchopt.authoring.update_marks import gradient_of, state_fields_of


def node_of_gradient(new: torch.Tensor) -> Any:
    """The node of the gradient: what the update of SGD multiplies by the negative rate."""
    node: Any = new.grad_fn
    update = node.next_functions[1][0]
    return update.next_functions[0][0]


def test_a_step_on_a_loss_says_where_its_gradients_begin() -> None:
    w = torch.ones(2, requires_grad=True)
    loss = w.pow(3).sum()
    new = torchopt.FuncOptimizer(torchopt.sgd(lr=0.1)).step(loss, w)
    mark = gradient_of(node_of_gradient(new))
    assert mark.loss == sequence_number(loss.grad_fn) is not None
    assert gradient_of(new.grad_fn) is None
    assert gradient_of(loss.grad_fn) is None


@pytest.mark.parametrize('options', [{'inplace': False}, {}])
def test_update_marks_gradients(options: dict[str, bool]) -> None:
    w = torch.ones(2, requires_grad=True)
    optimizer = torchopt.chain(torchopt.clip_grad_norm(1.0), torchopt.adam(lr=0.1))
    (grad,) = torch.autograd.grad(w.pow(3).sum(), [w], create_graph=True)
    update, state = optimizer.update(grad, optimizer.init(w), **options)
    assert gradient_of(grad.grad_fn) == (None,)
    assert gradient_of(update.grad_fn) is None
    assert fields_of(state) == [(), ()]


def fields_of(state: Any) -> list[tuple[str, ...]]:
    leaves = torchopt.pytree.tree_leaves(state)
    return [state_fields_of(leaf.grad_fn) for leaf in leaves if leaf.grad_fn is not None]


def test_optimizers_that_hold_a_state_mark_it() -> None:
    w = torch.ones(2, requires_grad=True)
    optimizer = torchopt.FuncOptimizer(
        torchopt.chain(torchopt.clip_grad_norm(1.0), torchopt.adam(lr=0.1))
    )
    new = optimizer.step(w.pow(3).sum(), w)
    assert fields_of(optimizer.state_dict()) == [('mu',), ('nu',)]
    assert state_fields_of(new.grad_fn) == ()


def test_constant_gradients_have_no_mark() -> None:
    w = torch.ones(2, requires_grad=True)
    optimizer = torchopt.FuncOptimizer(torchopt.sgd(lr=0.1))
    new = optimizer.step(w.pow(3).sum(), w, first_order=True)
    assert new.grad_fn.next_functions[1][0] is None


def test_a_torch_that_does_not_number_its_nodes() -> None:
    assert sequence_number(object()) is None
