"""``inplace=True`` with kernels: core's rule, which never cuts a graph; schedules called once."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.autograd import forward_ad

import torchopt
from support.inplace import assert_same_under_torch_func, meta_gradients
from support.optimizer_cases import FUSED_CASES as CASES
from support.optimizer_cases import FUSED_MAIN_CASES as MAIN_CASES
from support.optimizer_cases import OptimizerCase
from support.trees import assert_trees_close, copied
from torchopt import pytree

# Options that no kernel computes.
FUSED = [case for case in MAIN_CASES if case.has_kernel]


@pytest.mark.parametrize('inputs', ['params', 'rate', 'schedule'])
@pytest.mark.parametrize('case', FUSED, ids=str)
def test_forgotten_inplace_gives_the_same_meta_gradient(
    case: OptimizerCase, inputs: str, launches: list[str]
) -> None:
    expected = meta_gradients(case, {'inplace': False}, inputs)
    assert_trees_close(meta_gradients(case, {}, inputs, use_accelerated_op=True), expected)
    assert len([name for name in launches if not name.endswith('_backward')]) == 3


@pytest.mark.parametrize('case', FUSED, ids=str)
def test_forgotten_inplace_under_torch_func(case: OptimizerCase, launches: list[str]) -> None:
    assert_same_under_torch_func(case.make(use_accelerated_op=True))
    assert launches


@pytest.mark.parametrize('case', CASES, ids=str)
def test_plain_training_still_writes_in_place(case: OptimizerCase) -> None:
    """Leaf parameters that decay are no reason to build a graph."""
    if case.value('moment_requires_grad'):
        pytest.skip('states that require grad carry a graph')
    params = [torch.tensor([1.0, -2.0], requires_grad=True)]
    optimizer = case.make(use_accelerated_op=True)
    state, gradients = optimizer.init(params), [torch.ones(2)]
    updates, _ = optimizer.update(gradients, state, params=params)
    assert updates[0] is gradients[0]
    assert torchopt.apply_updates(params, updates)[0] is params[0]


@pytest.mark.parametrize('case', FUSED, ids=str)
def test_graphs_of_what_is_overwritten_are_lost(case: OptimizerCase) -> None:
    """Without grad mode nothing is cut that anybody could want."""
    results = []
    for accelerated in (False, True):
        leaf = torch.tensor([1.0, 2.0], requires_grad=True)
        gradients = [leaf.sin()]
        optimizer = case.make(use_accelerated_op=accelerated)
        state = optimizer.init([leaf])
        with torch.no_grad():
            updates, _ = optimizer.update(gradients, state, params=[leaf])
        assert not updates[0].requires_grad
        assert updates[0].data_ptr() == gradients[0].data_ptr()
        results.append(updates)
    assert_trees_close(*results, rtol=1e-6)


@pytest.mark.parametrize('case', FUSED, ids=str)
def test_gradients_that_share_memory_through_detach(
    case: OptimizerCase, launches: list[str]
) -> None:
    params = [torch.tensor([1.0, 2.0], requires_grad=True) for _ in range(2)]
    optimizer = case.make(use_accelerated_op=True)
    state = optimizer.init(params)
    found = torch.autograd.grad((params[0] + params[1]).square().sum(), params)
    shared = [gradient.detach() for gradient in found]
    assert shared[0].data_ptr() == shared[1].data_ptr()
    apart = optimizer.update(copied(shared), copied(state), params=params, inplace=False)
    with torch.no_grad():
        together = optimizer.update(shared, state, params=params)
    assert_trees_close(together, pytree.tree_map(torch.Tensor.detach, apart), rtol=1e-6)
    assert len(launches) == 2


@pytest.mark.parametrize('case', FUSED, ids=str)
def test_tangents_are_written_too(case: OptimizerCase) -> None:
    results = []
    for accelerated in (False, True):
        optimizer = case.make(use_accelerated_op=accelerated)
        params = [torch.tensor([1.0, 2.0], dtype=torch.float64)]
        state = optimizer.init(params)
        with torch.no_grad(), forward_ad.dual_level():
            dual = forward_ad.make_dual(params[0].cos(), torch.ones_like(params[0]))
            new = pytree.tree_leaves(optimizer.update([dual], state, params=params))
            pairs = [forward_ad.unpack_dual(x) for x in new]
            results.append([[x for x in pair if x is not None] for pair in pairs])
    assert_trees_close(*results)
    update, *moments = results[0]
    # The tangent of a sign is 0, but not the tangents of the moments.
    assert (update if case.entry.smooth else moments[0])[1].any()


@pytest.mark.parametrize('kind', ['strided', 'shared', 'graph', 'negative'])
def test_what_kernels_cannot_write_calls_the_schedule_once(kind: str, launches: list[str]) -> None:
    base = torch.ones(4)
    gradients = {
        'strided': lambda: [base[::2]],
        'shared': lambda: [base[:3], base[1:]],
        'graph': lambda: [base.requires_grad_().cos()],
        'negative': lambda: [torch._neg_view(base)],
    }[kind]()
    calls = []

    def schedule(count: torch.Tensor) -> float:
        calls.append(int(count))
        return 0.1

    optimizer = torchopt.adam(schedule, use_accelerated_op=True)
    state = optimizer.init(gradients)
    with torch.no_grad():
        for _ in range(2):
            gradients, state = optimizer.update(gradients, state)
    assert calls == [0, 1]
    assert launches == ['adam', 'adam']


@pytest.mark.parametrize('value', [2, torch.tensor(2), torch.tensor(2.0), True])
@pytest.mark.parametrize('inplace', [True, False])
def test_schedules_of_any_number(value: Any, inplace: bool) -> None:
    results = []
    for accelerated in (False, True):
        optimizer = torchopt.sgd(lambda count: value, use_accelerated_op=accelerated)
        gradients = [torch.tensor([1.0, -2.0])]
        results.append(optimizer.update(gradients, optimizer.init(gradients), inplace=inplace))
    assert_trees_close(*results)
