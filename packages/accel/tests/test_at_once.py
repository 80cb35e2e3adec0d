"""Differentiable steps that one compiled call takes in each direction, and steps that it does not.

What a user is likely to do wrong, or to rely on: other layouts from a hook of saved tensors, a
state that is written before the backward pass, the derivative by the state between two steps,
tensors that outlive a transform, and options that bring a learning rate as a tensor.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

import torchopt
from support.optimizer_cases import FUSED_MAIN_CASES, OptimizerCase
from support.trees import assert_trees_close, generator
from torchopt import pytree
from torchopt_accel import choice, kernels, reading
from torchopt_accel.internals import HAS_TABLE
from torchopt_accel.platform import C

needs_table = pytest.mark.skipif(not HAS_TABLE, reason='this torch does not read tensors at once')
CASES = [case for case in FUSED_MAIN_CASES if case.has_kernel]


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=generator(seed), dtype=torch.float64).requires_grad_()


def steps(make: Callable[..., Any], accelerated: bool, **options: Any) -> list[Any]:
    """Return two steps, and their derivative by gradients, parameters and learning rate."""
    rate = torch.tensor(0.1, dtype=torch.float32, requires_grad=True)
    optimizer = make(lr=rate, use_accelerated_op=accelerated, **options)
    params = [normal(3, 2), normal(4, seed=1), normal(seed=2), normal(0, seed=3)]
    grads = [normal(*x.shape, seed=4 + i) for i, x in enumerate(params)]
    state = optimizer.init(params)
    results = []
    for _ in range(2):
        updates, state = optimizer.update(grads, state, params=params, inplace=False)
        # The second result has no cotangent, and the derivative of no state is asked for.
        results += [updates[0], *updates[2:]]
    loss = sum(x.sin().sum() for x in results)
    derivative = torch.autograd.grad(loss, [*grads, *params, rate], materialize_grads=True)
    return [*results, *derivative]


@needs_table
@pytest.mark.parametrize('case', CASES, ids=str)
def test_values_and_derivatives(
    case: OptimizerCase, launches: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = steps(case.make, False)
    # Nothing is read leaf by leaf.
    monkeypatch.setattr(reading, 'read', None)
    actual = steps(case.make, True)
    assert_trees_close(actual, expected, rtol=1e-6, atol=1e-12)
    assert [x.dtype for x in actual] == [x.dtype for x in expected]
    assert [name.endswith('_backward') for name in launches] == [False, False, True, True]


def test_torch_without_the_table(launches: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    expected = steps(torchopt.adamw, True)
    for module, name in ((kernels, 'forward_at_once'), (kernels, 'backward_at_once')):
        monkeypatch.setattr(module, name, lambda *given: None)
    monkeypatch.setattr(C, 'takes', lambda *given: False)
    monkeypatch.setattr(reading, 'read_at_once', lambda roles, first: None)
    launches.clear()
    for new, old in zip(steps(torchopt.adamw, True), expected):
        assert torch.equal(new, old)
    assert launches == ['adam', 'adam', 'adam_backward', 'adam_backward']


A, B = torch.randn(2, 3), torch.randn(4)
TAKEN = {
    'itself': (A, B),
    'parameters': (torch.nn.Parameter(A), B),
    'strides that do not matter': (A, B.as_strided((4,), (1,))),
}
NOT_TAKEN = {
    'shape': (B, A),
    'dtype': (A, B.double()),
    'no dtype of kernels': (A.int(), B.int()),
    'strides': (A.t().contiguous().t(), B),
    'expanded': (A[:1].expand(2, 3), B),
    'negative': (A, torch._neg_view(B)),
    'sparse': (A.to_sparse(), B),
    'device': (A, B.to('meta')),
    'subclass': (A, B.as_subclass(type('Mine', (torch.Tensor,), {}))),
    'absent': (A, None),
    'no tensor': (A, 'text'),
}


@needs_table
def test_what_is_taken() -> None:
    for name, role in TAKEN.items():
        assert C.takes(2, (A, B, *role)), name
        assert C.takes(1, role), name
    for name, role in NOT_TAKEN.items():
        assert not C.takes(2, (A, B, *role)), name
    assert C.takes(2, (A.t(), A.t()))
    assert not C.takes(1, (A[:, ::2],))
    assert not C.takes(2, (A, B, A))
    assert not C.takes(1, ())
    assert not C.takes(0, (A,))


def other_strides(x: torch.Tensor) -> torch.Tensor:
    return x.t().contiguous().t() if x.dim() == 2 else x


def negated_when_read(x: torch.Tensor) -> torch.Tensor:
    return torch._neg_view(-x) if x.is_floating_point() else x


@pytest.mark.parametrize('unpack', [other_strides, negated_when_read, torch.clone])
def test_hooks_of_saved_tensors(unpack: Any, launches: list[str]) -> None:
    expected = steps(torchopt.adamw, True)
    with torch.autograd.graph.saved_tensors_hooks(lambda x: x, unpack):
        actual = steps(torchopt.adamw, True)
    assert_trees_close(actual, expected, rtol=1e-12, atol=1e-12)
    assert launches == ['adam', 'adam', 'adam_backward', 'adam_backward'] * 2


def test_a_state_that_is_written_before_the_backward_pass_raises() -> None:
    optimizer = torchopt.adam(use_accelerated_op=True)
    gradient = normal(3)
    for written in ('first moment', 'new count'):
        state = optimizer.init([gradient])
        (update,), after = optimizer.update([gradient], state, inplace=False)
        (state[0].mu[0] if written == 'first moment' else after[0].steps).add_(1)
        with pytest.raises(RuntimeError, match='modified by an inplace operation'):
            update.sum().backward()


def test_every_leaf_of_a_state_is_in_the_graph() -> None:
    """Also if the next step has been taken: leaves are not views of what steps go on with."""
    results = []
    for accelerated in (False, True):
        optimizer = torchopt.adam(0.1, eps_root=1e-3, use_accelerated_op=accelerated)
        grads = [normal(3), normal(2, seed=1)]
        _, middle = optimizer.update(grads, optimizer.init(grads), inplace=False)
        seen: list[torch.Tensor] = []
        middle[0].mu[0].retain_grad()
        middle[0].nu[1].register_hook(seen.append)
        updates, _ = optimizer.update(grads, middle, inplace=False)
        loss = sum(x.sum() for x in updates)
        loss.backward(retain_graph=True)
        found = [middle[0].mu[0].grad, seen[0], *[g.grad for g in grads]]
        found += torch.autograd.grad(loss, [middle[0].mu[1], middle[0].nu[0]])
        results.append([None if x is None else x.clone() for x in found])
        middle[0].mu[0].detach_()
    assert_trees_close(*results, rtol=1e-12, atol=1e-12)


def test_tensors_that_outlive_a_transform() -> None:
    """torch wraps what a transform sees, and the wrapper stays after its end."""
    kept: list[torch.Tensor] = []

    def leak(x: torch.Tensor) -> torch.Tensor:
        kept.append(x * 1.0)
        return x.sum()

    source = normal(3)
    results = []
    for accelerated in (False, True):
        kept.clear()
        torch.func.grad(leak)(source)
        optimizer = torchopt.adam(0.1, eps_root=1e-3, use_accelerated_op=accelerated)
        (update,), _ = optimizer.update(kept, optimizer.init([source]), inplace=False)
        results.append([update, *torch.autograd.grad(update.sum(), source)])
    assert_trees_close(*results, rtol=1e-12, atol=1e-12)


class TestChoice:
    """Kernels, or the rule where that is faster."""

    @pytest.fixture(autouse=True)
    def as_for_users(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(choice, 'MANY_ELEMENTS', 1 << 20)

    @pytest.mark.parametrize(
        ('options', 'count', 'fused'),
        [
            ({}, 11, False),
            ({}, 12, True),
            ({'weight_decay': 0.1}, 1, False),
            ({'weight_decay': 0.1}, 2, True),
            ({'momentum': 0.9}, 1, False),
            ({'momentum': 0.9}, 2, True),
        ],
    )
    def test_few_tensors(
        self, options: dict[str, Any], count: int, fused: bool, launches: list[str]
    ) -> None:
        optimizer = torchopt.sgd(0.1, **options, use_accelerated_op=True)
        grads = [normal(3, seed=i) for i in range(count)]
        updates, _ = optimizer.update(grads, optimizer.init(grads), params=grads, inplace=False)
        sum(x.sum() for x in updates).backward()
        assert launches == (
            ['sgd', 'sgd_backward']
            if fused and not options.get('momentum')
            else ['sgd_momentum', 'sgd_momentum_backward']
            if fused
            else []
        )

    def test_trees_of_trees(self, launches: list[str]) -> None:
        optimizer = torchopt.sgd(0.1, use_accelerated_op=True)
        for count in (11, 12):
            tree = {'a': [torch.ones(3)] * 5, 'b': {'c': (torch.ones(2),) * (count - 5), 'd': None}}
            optimizer.update(tree, optimizer.init(tree), inplace=False)
        assert launches == ['sgd']

    def test_large_tensors(self, launches: list[str]) -> None:
        optimizer = torchopt.sgd(0.1, use_accelerated_op=True)
        grads = [torch.ones(1 << 20), None]
        optimizer.update(grads, optimizer.init(grads), inplace=False)
        assert launches == ['sgd']

    def test_other_rules_and_steps_in_place(self, launches: list[str]) -> None:
        for name in ('adam', 'sgd'):
            optimizer = getattr(torchopt, name)(0.1, use_accelerated_op=True)
            grads = [torch.ones(3)]
            optimizer.update(grads, optimizer.init(grads), inplace=name == 'sgd')
        assert launches == ['adam', 'sgd']


def test_states_of_two_kinds_of_chain() -> None:
    """Where the parts of a state are is found again for a state of other classes."""
    optimizer = torchopt.sgd(0.1, momentum=0.9, use_accelerated_op=True)
    grads = [normal(3)]
    state = optimizer.init(grads)
    inner = next(member for member in state if hasattr(member, 'trace'))
    first, _ = optimizer.update(grads, state, inplace=False)
    alone, after = optimizer.update(grads, inner, inplace=False)
    again, _ = optimizer.update(grads, state, inplace=False)
    assert type(after) is type(inner)
    assert torch.equal(first[0], alone[0]) and torch.equal(first[0], again[0])
    assert pytree.tree_structure(after) == pytree.tree_structure(inner)
