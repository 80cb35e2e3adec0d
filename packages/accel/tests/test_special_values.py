"""Zeros, tiny numbers, infinities, NaN, negative views: all as in the rule of core."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import torchopt
from support.optimizer_cases import FUSED_CASES as CASES
from support.optimizer_cases import OptimizerCase
from support.trees import assert_trees_close
from torchopt import pytree
from torchopt_accel.platform import C

INF, NAN = float('inf'), float('nan')
FUSED = [case for case in CASES if case.has_kernel]


def one_step(case: OptimizerCase, gradient: Any, moment: float, **options: Any) -> list[Any]:
    g = gradient.clone().requires_grad_()
    optimizer = case.make(**options)
    state = pytree.tree_map(
        lambda s: (s + moment).requires_grad_() if s.is_floating_point() else s,
        optimizer.init([g]),
    )
    params = [torch.ones_like(g)]
    updates, new = optimizer.update([g], state, params=params, inplace=False)
    outputs = [*updates, *(x for x in pytree.tree_leaves(new) if x.is_floating_point())]
    moments = [x for x in pytree.tree_leaves(state) if x.is_floating_point()]
    total = sum(x.sum() for x in outputs)
    grads = torch.autograd.grad(total, [g, *moments], materialize_grads=True)
    return [outputs, grads]


@pytest.mark.parametrize('case', FUSED, ids=str)
@pytest.mark.parametrize('dtype', [torch.float64, torch.float32])
@pytest.mark.parametrize('moment', [0.0, 0.5])
def test_zero_and_tiny_gradients(
    case: OptimizerCase, dtype: torch.dtype, moment: float, device: str
) -> None:
    numbers = [0.0, -0.0, 1e-30, -1e-12, 1e-8, 1.0, 1e10]
    gradient = torch.tensor(numbers, dtype=dtype, device=device)
    expected = one_step(case, gradient, moment)
    actual = one_step(case, gradient, moment, use_accelerated_op=True)
    resolution = 1e-11 if dtype == torch.float64 else 2e-5
    for mine, theirs in zip(pytree.tree_leaves(actual), pytree.tree_leaves(expected)):
        torch.testing.assert_close(mine, theirs, rtol=resolution, atol=resolution)
        assert mine[:2].isfinite().all()


@pytest.mark.parametrize('case', FUSED, ids=str)
def test_infinite_and_nan_gradients(case: OptimizerCase, device: str) -> None:
    gradient = torch.tensor([INF, -INF, NAN, 0.5], dtype=torch.float64, device=device)
    expected, actual = (
        one_step(case, gradient, 0.5, use_accelerated_op=accelerated)[0]
        for accelerated in (False, True)
    )
    for mine, theirs in zip(actual, expected):
        torch.testing.assert_close(mine, theirs, rtol=1e-12, atol=1e-12, equal_nan=True)


@pytest.mark.parametrize('name', ['adam', 'radam', 'rmsprop', 'adagrad'])
@pytest.mark.parametrize('eps', [0.0, 1e3])
def test_extreme_eps(name: str, eps: float, device: str) -> None:
    case = next(case for case in FUSED if str(case) == f'{name}-defaults')
    gradient = torch.tensor([0.3, -2.0], dtype=torch.float64, device=device)
    expected = one_step(case, gradient, 0.1, eps=eps)
    actual = one_step(case, gradient, 0.1, eps=eps, use_accelerated_op=True)
    for mine, theirs in zip(pytree.tree_leaves(actual), pytree.tree_leaves(expected)):
        torch.testing.assert_close(mine, theirs, rtol=1e-12, atol=1e-12)


def negated_when_read(tensor: torch.Tensor) -> torch.Tensor:
    """The same numbers, as a view whose memory holds their negatives.

    torch makes such views for the gradients of real tensors that a complex one is made of.
    """
    view = torch._neg_view((-tensor).detach())
    assert view.is_neg() and view.is_contiguous()
    return view


class TestNegativeViews:
    @pytest.mark.parametrize('inplace', [True, False])
    @pytest.mark.parametrize('case', FUSED, ids=str)
    def test_gradients_params_states_and_rates(
        self, case: OptimizerCase, inplace: bool, device: str, launches: list[str]
    ) -> None:
        numbers = torch.tensor([0.5, -2.0, 1.0], dtype=torch.float64, device=device)
        rate = torch.tensor(0.1, dtype=torch.float64, device=device)
        results = []
        for view in (torch.clone, negated_when_read):
            optimizer = case.make(lr=view(rate), use_accelerated_op=True)
            state = pytree.tree_map(
                lambda s, view=view: view((s + 0.5).detach()) if s.is_floating_point() else s,
                optimizer.init([numbers]),
            )
            results.append(
                optimizer.update([view(numbers)], state, params=[view(numbers)], inplace=inplace)
            )
        assert launches
        assert_trees_close(*results)

    @pytest.mark.parametrize('case', FUSED, ids=str)
    def test_cotangents(self, case: OptimizerCase, device: str) -> None:
        gradient = torch.tensor([0.5, -2.0], dtype=torch.float64, device=device).requires_grad_()
        optimizer = case.make(use_accelerated_op=True)
        updates, _ = optimizer.update(
            [gradient], optimizer.init([gradient]), params=[gradient.detach()], inplace=False
        )
        cotangent = torch.tensor([1.0, 3.0], dtype=torch.float64, device=device)
        first, second = (
            torch.autograd.grad(updates, gradient, view(cotangent), retain_graph=True)
            for view in (torch.clone, negated_when_read)
        )
        assert_trees_close(second, first)

    @pytest.mark.parametrize('name', ['param', 'gradient'])
    def test_plain_step(self, name: str) -> None:
        views = {
            key: negated_when_read if key == name else torch.clone for key in ('param', 'gradient')
        }
        param = views['param'](torch.tensor([1.0, 2.0])).requires_grad_()
        param.grad = views['gradient'](torch.tensor([0.5, -1.0]))
        torchopt.SGD([param], lr=1.0, use_accelerated_op=True).step()
        torch.testing.assert_close(param.detach(), torch.tensor([0.5, 3.0]))

    def test_parameter_of_a_complex_tensor(self) -> None:
        params = []
        for accelerated in (False, True):
            param = torch.tensor([0.5], requires_grad=True)
            optimizer = torchopt.SGD([param], lr=1.0, use_accelerated_op=accelerated)
            (torch.complex(torch.ones(1), param).conj() * (1 + 2j)).real.sum().backward()
            optimizer.step()
            params.append(param)
        assert_trees_close(*params)


@pytest.mark.parametrize('case', FUSED, ids=str)
def test_infinite_parameters_stay_infinite(case: OptimizerCase, device: str) -> None:
    """As in torch: without weight decay a step adds to a parameter, and nothing else."""
    values = torch.tensor([INF, -INF, 1.0], dtype=torch.float64, device=device)
    results = []
    for accelerated in (False, True):
        param = values.clone().requires_grad_()
        param.grad = torch.tensor([0.0, 2.0, 1.0], dtype=torch.float64, device=device)
        optimizer = case.make_class([param], use_accelerated_op=accelerated)
        optimizer.step()
        results.append(param.detach())
        decays = [case.value(name) for name in ('weight_decay', 'lambd') if case.has(name)]
        if not any(decays):
            assert torch.equal(param[:2], values[:2])
    torch.testing.assert_close(*results, rtol=1e-12, atol=1e-12, equal_nan=True)


@pytest.mark.parametrize('case', FUSED, ids=str)
@pytest.mark.parametrize('dtype', [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_sign_of_zero(case: OptimizerCase, dtype: torch.dtype, device: str) -> None:
    gradient = torch.tensor([0.0, -0.0, 1.0], dtype=dtype, device=device)
    for params in ([torch.zeros_like(gradient)], [-torch.zeros_like(gradient)]):
        results = []
        for accelerated in (False, True):
            optimizer = case.make(use_accelerated_op=accelerated)
            state = optimizer.init([gradient])
            for _ in range(2):
                updates, state = optimizer.update([gradient], state, params=params, inplace=False)
            results.append(pytree.tree_leaves((updates, state)))
        for mine, theirs in zip(*results, strict=True):
            assert torch.equal(mine.signbit(), theirs.signbit())


@pytest.mark.parametrize('dtype', [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize('case', FUSED, ids=str)
def test_after_an_overflow(case: OptimizerCase, dtype: torch.dtype, device: str) -> None:
    """A moment that has become infinite stays infinite, in the kernel and in the rule."""
    numbers = [6e4, -6e4, 1.0] if dtype == torch.float16 else [1e20, -1e25, 1.0]
    if dtype == torch.float64:
        numbers = [1e155, -1e200, 1.0]
    gradient = torch.tensor(numbers, dtype=dtype, device=device)
    results = []
    for accelerated in (False, True):
        optimizer = case.make(use_accelerated_op=accelerated)
        state = optimizer.init([gradient])
        for _ in range(3):
            updates, state = optimizer.update([gradient], state, params=[gradient], inplace=False)
        results.append(pytree.tree_leaves((updates, state)))
    tolerance = 8 * torch.finfo(dtype).eps
    for mine, theirs in zip(*results, strict=True):
        torch.testing.assert_close(
            mine.detach(), theirs.detach(), rtol=tolerance, atol=0, equal_nan=True
        )


@pytest.mark.parametrize('accelerated', [False, True])
def test_adam_equals_torch_after_an_overflow(accelerated: bool) -> None:
    params = [torch.ones(3, dtype=torch.float64, requires_grad=True) for _ in range(2)]
    optimizers = (
        torchopt.Adam(params[:1], lr=0.1, use_accelerated_op=accelerated),
        torch.optim.Adam(params[1:], lr=0.1, foreach=False),
    )
    for _ in range(3):
        for param, optimizer in zip(params, optimizers):
            param.grad = torch.tensor([1e150, -1e200, 1.0], dtype=torch.float64)
            optimizer.step()
    assert_trees_close(*params)
    moments = [o.state[p]['exp_avg_sq'] for o, p in zip(optimizers, params)]
    assert moments[1].isinf().tolist() == [False, True, False]
    assert_trees_close(*moments)


@pytest.mark.parametrize('isa', C.supported_isas())
def test_subnormal_halves_where_subnormal_floats_count_as_zero(isa: str) -> None:
    before = C.current_isa()
    C.use_isa(isa)
    # All subnormal numbers, and both neighbours of the least normal one.
    halves = torch.arange(-1025, 1026, dtype=torch.float64) * 2.0**-24
    optimizer = torchopt.sgd(2.0**10, use_accelerated_op=True)
    gradient = halves.to(torch.float16)
    if not torch.set_flush_denormal(True):
        pytest.skip('this machine keeps subnormal floats')
    try:
        (update,), _ = optimizer.update([gradient], optimizer.init([gradient]), inplace=False)
    finally:
        torch.set_flush_denormal(False)
        C.use_isa(before)
    assert torch.equal(update.double(), -(2.0**10) * halves)


def test_bias_corrections_keep_the_digits_that_a_subtraction_cancels(device: str) -> None:
    """Every step of Adamax is -1 for a gradient of 1; with ``1 - 0.999**2`` it is off by 1e-14."""
    gradient = torch.ones(1, dtype=torch.float64, device=device)
    optimizer = torchopt.adamax(1.0, betas=(0.999, 0.999), eps=0.0, use_accelerated_op=True)
    state = optimizer.init([gradient])
    for _ in range(50):
        (update,), state = optimizer.update([gradient], state, params=[gradient], inplace=False)
        torch.testing.assert_close(update, -gradient, rtol=2e-15, atol=0)
