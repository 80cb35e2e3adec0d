"""The numbers in the report of ``explain``, and the operations that it names."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import nn

import torchopt
from torchopt.unrolling import ForwardMode, ModuleStep, Recomputed, Snapshots, Stored, grad
from torchopt_utils import Explanation

X = torch.linspace(-1, 1, 24, dtype=torch.float64).view(8, 3)
Y = X.sum(1, keepdim=True).sin()


def loss_of(net: nn.Module, weights: Any = 1.0) -> torch.Tensor:
    result: torch.Tensor = (weights * (net(X) - Y).square()).mean()
    return result


def words(report: Explanation) -> str:
    return ' '.join(str(report).split())


def norm(tensors: Any) -> float:
    return math.hypot(*(float(tensor.norm()) for tensor in tensors))


@pytest.mark.parametrize('kind', [torchopt.MetaAdam, torchopt.MetaSGD])
def test_cotangents_are_the_gradients_by_the_parameters_of_each_step(kind: Any) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1)).double()
    weights = torch.ones(8, 1, dtype=torch.float64, requires_grad=True)
    inner = kind(net, lr=0.1)
    path = []
    for _ in range(5):
        inner.step(loss_of(net, weights))
        path.append(list(net.parameters()))
    loss = loss_of(net)
    report = torchopt.explain(loss, weights)
    assert [step.index for step in report.steps] == [1, 2, 3, 4, 5]
    for step, params in zip(report.steps, path):
        expected = norm(torch.autograd.grad(loss, params, retain_graph=True))
        assert step.norm == pytest.approx(expected, rel=1e-12)
        assert step.by == kind.__name__
    (expected_gradient,) = torch.autograd.grad(loss, weights)
    assert report['wrt'].norm == pytest.approx(float(expected_gradient.norm()), rel=1e-12)
    assert report.loss == loss.item()
    assert report['wrt'].steps == 5
    assert report.kinds == ()


@pytest.mark.skipif(not torchopt.accelerated_op_available(), reason='needs the kernels')
def test_fused_steps() -> None:
    torch.manual_seed(0)
    start = nn.Linear(3, 1).double()
    reports = []
    for fused in (False, True):
        net = nn.Linear(3, 1).double()
        net.load_state_dict(start.state_dict())
        weights = torch.ones(8, 1, dtype=torch.float64, requires_grad=True)
        inner = torchopt.MetaAdam(net, lr=0.1, use_accelerated_op=fused)
        for _ in range(3):
            inner.step(loss_of(net, weights))
        reports.append(torchopt.explain(loss_of(net), weights))
    for one, other in zip(*(report.steps for report in reports), strict=True):
        assert one.norm is not None
        assert other.norm == pytest.approx(one.norm, rel=1e-9)
    assert reports[1].kinds == ()


def of_unroll(backward: Any) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    torch.manual_seed(0)
    net = nn.Linear(3, 1).double()
    weights = torch.ones(8, 1, dtype=torch.float64, requires_grad=True)
    step = ModuleStep(net, torchopt.adam(0.1), lambda net, _, consts: loss_of(net, consts))
    carry, _ = torchopt.unroll(step, step.init(), consts=weights, length=6, backward=backward)
    wanted = {'weights': weights, 'start': net.weight}
    step.write(carry)
    return loss_of(net), wanted


@pytest.mark.parametrize(
    'backward',
    [Recomputed(), Recomputed(keep_gradients=True), Snapshots(2), Recomputed(storage='cpu')],
    ids=['recomputed', 'kept', 'snapshots', 'cpu'],
)
def test_loops_in_one_node_report_the_cotangents_of_the_plain_graph(backward: Any) -> None:
    expected, found = (torchopt.explain(*of_unroll(mode)) for mode in (Stored(), backward))
    for one, other in zip(expected.steps, found.steps, strict=True):
        assert one.norm is not None
        assert other.norm == pytest.approx(one.norm, rel=1e-10)
    for name in ('weights', 'start'):
        assert expected[name].norm is not None
        assert found[name].norm == pytest.approx(expected[name].norm, rel=1e-10)
        assert found[name].steps == expected[name].steps == 6
    assert found.kinds == ()


def test_forward_mode_says_that_it_has_no_cotangents() -> None:
    report = torchopt.explain(*of_unroll(ForwardMode()))
    assert report.kinds == ('unseen-steps',)
    assert [step.norm for step in report.steps] == [None] * 6
    stored = torchopt.explain(*of_unroll(Stored()))
    assert report['weights'].norm == pytest.approx(stored['weights'].norm, rel=1e-10)  # type: ignore[arg-type]


def test_tasks_side_by_side_share_their_levels() -> None:
    start = torch.tensor([1.0, 2.0], dtype=torch.float64, requires_grad=True)
    losses, ends = [], []
    for task in range(3):
        params, optimizer = start, torchopt.FuncOptimizer(torchopt.sgd(lr=0.1))
        for _ in range(2):
            params = optimizer.step((params - task).square().sum(), params)
        ends.append(params)
        losses.append(params.pow(4).sum())
    loss = torch.stack(losses).sum()
    report = torchopt.explain(loss, start)
    assert [(step.index, step.side_by_side) for step in report.steps] == [(1, 3), (2, 3)]
    expected = norm(torch.autograd.grad(loss, ends))
    assert report.steps[1].norm == pytest.approx(expected, rel=1e-12)
    assert '3 side by side' in str(report)
    assert report.kinds == ()


def test_steps_by_hand_in_an_unroll() -> None:
    def step(w: torch.Tensor, _: None, rate: torch.Tensor) -> tuple[torch.Tensor, None]:
        return w - rate * grad(torch.square)(w), None

    rate = torch.tensor(0.25, dtype=torch.float64, requires_grad=True)
    start = torch.tensor(1.0, dtype=torch.float64)
    for backward in (Stored(), Recomputed()):
        w, _ = torchopt.unroll(step, start, consts=rate, length=3, backward=backward)
        report = torchopt.explain(w, rate)
        assert [each.norm for each in report.steps] == [0.25, 0.5, 1.0]


def test_a_tensor_in_the_middle_counts_the_steps_after_it() -> None:
    w = torch.tensor([1.0], requires_grad=True)
    optimizer = torchopt.FuncOptimizer(torchopt.sgd(lr=0.25))
    path = [w]
    for _ in range(3):
        path.append(optimizer.step(path[-1].square().sum(), path[-1]))
    report = torchopt.explain(path[-1].sum(), path)
    assert [report[str(position)].steps for position in range(4)] == [3, 2, 1, 0]
    assert [report[str(position)].norm for position in range(4)] == [0.125, 0.25, 0.5, 1.0]


def flow(rate: float, steps: int) -> Explanation:
    w = torch.tensor([1.0, 3.0], dtype=torch.float64, requires_grad=True)
    optimizer = torchopt.FuncOptimizer(torchopt.sgd(lr=rate))
    params = w
    for _ in range(steps):
        params = optimizer.step(0.5 * params.square().sum(), params)
    return torchopt.explain(params.sum(), w)


def test_vanishing_and_exploding_cotangents() -> None:
    vanishing = flow(0.95, 8)  # a factor of 0.05 a step
    assert vanishing.kinds == ('vanishing',)
    assert 'From step 4 on' in words(vanishing)
    exploding = flow(21.0, 8)  # a factor of 20
    assert exploding.kinds == ('exploding',)
    assert 'From step 4 on' in words(exploding)
    assert flow(0.1, 8).kinds == ()


def test_the_operation_that_makes_nan() -> None:
    w = torch.tensor([0.0, 1.0], requires_grad=True)
    optimizer = torchopt.FuncOptimizer(torchopt.sgd(lr=0.1))
    params = optimizer.step(w.square().sum(), w)
    report = torchopt.explain(params.sqrt().sum() * 0.0 + (0 * params.sqrt()).sum(), w)
    assert report.kinds == ('not-finite',)
    assert 'SqrtBackward0 (after the last inner step)' in words(report)
    assert not report.steps[0].is_finite

    scale = torch.tensor(0.0, requires_grad=True)
    params = optimizer.step((scale.sqrt() + 1) * w.square().sum(), w)
    report = torchopt.explain(params.sum(), scale)
    assert 'SqrtBackward0 (in inner step 1)' in words(report)
    assert report.steps[0].is_finite


def test_anomaly_detection_adds_the_line() -> None:
    with torch.autograd.set_detect_anomaly(True, check_nan=False):
        w = torch.zeros(2, requires_grad=True)
        loss = w.sqrt().sum()
        report = torchopt.explain(loss, w)
    assert 'loss = w.sqrt().sum()' in str(report)


def test_a_loss_that_is_not_finite() -> None:
    w = torch.zeros(1, requires_grad=True)
    assert 'The loss itself is inf' in words(torchopt.explain((1 / w).sum(), w))
    report = torchopt.explain(w.sum() + float('nan'), w)
    assert report.kinds == ('not-finite',)
    assert report['wrt'].norm == 1.0


def test_zero_gradients_name_the_operation() -> None:
    net = nn.Linear(3, 1).double()
    weights = torch.ones(8, 1, dtype=torch.float64, requires_grad=True)
    inner = torchopt.MetaSGD(net, lr=0.1)
    inner.step(loss_of(net, weights.sign()))
    report = torchopt.explain(loss_of(net), weights)
    assert report.kinds == ('zero',)
    assert 'SignBackward0 (in inner step 1)' in words(report)

    dead = torch.tensor([-1.0], requires_grad=True)
    assert 'ReluBackward0' in str(torchopt.explain(dead.relu().sum(), dead))
    assert torchopt.explain((dead - dead).sum(), dead).kinds == ('cancelled',)


def test_many_zero_gradients_are_searched_a_few_times() -> None:
    tensors = [torch.ones(1, requires_grad=True) for _ in range(6)]
    report = torchopt.explain(sum(t.round() for t in tensors), tensors)
    texts = [tensor.findings[0].text for tensor in report.tensors]
    assert all('RoundBackward0' in text for text in texts[:3])
    assert all('as for tensors above' in text for text in texts[3:])


def test_underflow_in_float16() -> None:
    w = torch.ones(4, dtype=torch.float16, requires_grad=True)
    assert torchopt.explain((w * 2e-6).sum(), w).kinds == ('low-precision',)
    assert torchopt.explain(w.sum(), w).kinds == ()


def test_other_kinds_of_tensors() -> None:
    z = torch.tensor([3.0 + 4.0j], requires_grad=True)
    assert torchopt.explain(z.abs().sum(), z)['wrt'].norm == pytest.approx(1.0)
    table = nn.Embedding(5, 2, sparse=True)
    report = torchopt.explain(table(torch.tensor([1, 1])).sum(), table)
    assert report['weight'].norm == pytest.approx(math.sqrt(8))


def test_a_gradient_that_an_operation_swallows() -> None:
    class Swallow(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
            return x.clone()

        @staticmethod
        def backward(ctx: Any, gradient: torch.Tensor) -> None:
            return None

    w = torch.ones(2, requires_grad=True)
    assert torchopt.explain(Swallow.apply(w).sum(), w).kinds == ('passes-no-gradient',)
