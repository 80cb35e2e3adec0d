"""What is peculiar to Muon: its precision, its stacks and batches, and its rule for vectors."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import torchopt
from support.trees import generator

SHAPES = [(2, 3), (16, 8), (40, 56)]


def normal(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(shape, generator=generator(sum(shape)), dtype=dtype)


@pytest.mark.skipif(not hasattr(torch.optim, 'Muon'), reason='this torch has no Muon')
@pytest.mark.parametrize('shape', SHAPES, ids=str)
def test_a_step_in_bfloat16_is_torchs_bit_for_bit(shape: tuple[int, int]) -> None:
    options = {'lr': 1.0, 'momentum': 0.0, 'nesterov': False, 'weight_decay': 0.0}
    mine, theirs = (torch.zeros(shape, requires_grad=True) for _ in range(2))
    mine.grad, theirs.grad = normal(*shape), normal(*shape)
    torchopt.Muon([mine], **options, iteration_dtype=torch.bfloat16).step()
    torch.optim.Muon([theirs], **options).step()
    assert torch.equal(mine, theirs)


@pytest.mark.skipif(not hasattr(torch.optim, 'Muon'), reason='this torch has no Muon')
def test_many_steps_in_bfloat16_are_torchs_to_rounding() -> None:
    mine, theirs = (normal(16, 8).requires_grad_() for _ in range(2))
    optimizers = torchopt.Muon([mine], iteration_dtype=torch.bfloat16), torch.optim.Muon([theirs])
    for step in range(5):
        for param, optimizer in zip((mine, theirs), optimizers):
            param.grad = normal(16, 8).roll(step)
            optimizer.step()
    torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-5)


def test_the_iteration_brings_singular_values_near_1() -> None:
    block = torchopt.transform.orthogonalize()
    updates, _ = block.update(normal(40, 56), block.init(normal(40, 56)), inplace=False)
    values = torch.linalg.svdvals(updates)
    assert values.min() > 0.5 and values.max() < 1.3


def test_a_stack_is_iterated_matrix_by_matrix() -> None:
    block = torchopt.transform.orthogonalize()
    stack = normal(2, 3, 5, 4, dtype=torch.float64)
    whole, _ = block.update(stack, block.init(stack), inplace=False)
    for matrix, expected in zip(stack.flatten(0, 1), whole.flatten(0, 1)):
        alone, _ = block.update(matrix, block.init(matrix), inplace=False)
        torch.testing.assert_close(alone, expected, rtol=1e-12, atol=1e-14)


class Products(TorchDispatchMode):
    """Counts matrix products."""

    def __init__(self) -> None:
        super().__init__()
        self.number = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.number += func in (torch.ops.aten.bmm.default, torch.ops.aten.baddbmm.default)
        return func(*args, **(kwargs or {}))


def test_matrices_of_one_shape_are_one_batch() -> None:
    numbers = []
    for shapes in ([(4, 3)], [(4, 3)] * 5, [(4, 3), (3, 4)] * 5):
        updates = [normal(*shape) for shape in shapes]
        block = torchopt.transform.orthogonalize(ns_steps=4)
        with Products() as products:
            block.update(updates, block.init(updates), inplace=False)
        numbers.append(products.number)
    assert numbers == [12, 12, 24]


@pytest.mark.parametrize('shape', [(2, 3), (2, 3, 2)], ids=str)
def test_derivatives_of_the_iteration(shape: tuple[int, ...]) -> None:
    def orthogonal(updates: torch.Tensor, *coefficients: torch.Tensor) -> torch.Tensor:
        block = torchopt.transform.orthogonalize(coefficients or (3.4445, -4.775, 2.0315), 3)
        result: torch.Tensor = block.update(updates, block.init(updates), inplace=False)[0]
        return result

    updates = normal(*shape, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(orthogonal, updates, check_forward_ad=True)
    assert torch.autograd.gradgradcheck(orthogonal, updates)
    numbers = [torch.tensor(x, dtype=torch.float64, requires_grad=True) for x in (3.4, -4.7, 2.0)]
    assert torch.autograd.gradcheck(orthogonal, (updates, *numbers), check_forward_ad=True)


def test_the_weight_decay_keeps_its_whole_derivative() -> None:
    """The only production Muon on the reference library detached the decayed parameters."""
    params = normal(3, 2, dtype=torch.float64).requires_grad_()

    def stepped(params: torch.Tensor) -> torch.Tensor:
        optimizer = torchopt.muon(lr=0.5, weight_decay=0.2)
        state = optimizer.init(params.detach())
        gradient = normal(3, 2, dtype=torch.float64)
        updates, _ = optimizer.update(gradient, state, params=params, inplace=False)
        result: torch.Tensor = torchopt.apply_updates(params, updates, inplace=False)
        return result

    (gradient,) = torch.autograd.grad(stepped(params).sum(), params)
    torch.testing.assert_close(gradient, torch.full_like(params, 1 - 0.5 * 0.2))


def test_vectors_take_the_steps_of_adamw() -> None:
    params = {'matrix': normal(3, 2), 'bias': normal(2)}
    gradients = {'matrix': normal(3, 2), 'bias': normal(2)}
    muon = torchopt.muon(lr=0.1, weight_decay=0.2)
    adamw = torchopt.adamw(lr=0.1, weight_decay=0.2)
    mine, _ = muon.update(gradients, muon.init(params), params=params, inplace=False)
    theirs, _ = adamw.update(gradients, adamw.init(params), params=params, inplace=False)
    torch.testing.assert_close(mine['bias'], theirs['bias'])
    assert not torch.allclose(mine['matrix'], theirs['matrix'])


def test_a_vector_without_a_rule_is_refused() -> None:
    block = torchopt.transform.orthogonalize()
    updates = {'w': normal(3, 2), 'b': normal(2)}
    with pytest.raises(ValueError, match=r"updates\['b'\] has shape \(2,\), .*partition"):
        block.update(updates, block.init(updates))


def meta_gradients(dtype: torch.dtype, iteration: torch.dtype | None) -> list[torch.Tensor]:
    """Of a loss after five steps of linear regression: by weights of data and by the momentum."""
    inputs, targets = (normal(64, n, dtype=torch.float64).to(dtype) for n in (8, 16))
    weights = torch.ones(64, dtype=dtype, requires_grad=True)
    momentum = torch.tensor(0.9, dtype=dtype, requires_grad=True)
    optimizer = torchopt.muon(lr=0.1, momentum=momentum, iteration_dtype=iteration)
    params = normal(16, 8, dtype=torch.float64).to(dtype).requires_grad_()
    state = optimizer.init(params)

    def loss(params: torch.Tensor, weights: Any) -> torch.Tensor:
        result: torch.Tensor = ((inputs @ params.T - targets).square().mean(1) * weights).mean()
        return result

    for _ in range(5):
        (gradient,) = torch.autograd.grad(loss(params, weights), params, create_graph=True)
        updates, state = optimizer.update(gradient, state, params=params, inplace=False)
        params = torchopt.apply_updates(params, updates, inplace=False)
    return [g.double() for g in torch.autograd.grad(loss(params, 1.0), (weights, momentum))]


def test_a_meta_gradient_through_bfloat16_has_two_digits_at_most() -> None:
    """Why the iteration has the precision of the parameters; ``-s`` prints the errors."""
    exact = meta_gradients(torch.float64, None)
    errors = {}
    for iteration in (torch.bfloat16, torch.float32):
        found = meta_gradients(torch.float32, iteration)
        errors[iteration] = [((a - b).norm() / b.norm()).item() for a, b in zip(found, exact)]
    print(errors)
    assert min(errors[torch.bfloat16]) > 1e-2
    assert max(errors[torch.float32]) < 1e-4
