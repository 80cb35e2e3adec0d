"""What ``explain`` says of the mistakes that users make: each has its cause in words."""

from __future__ import annotations

from inspect import signature
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

import torchopt
from torchopt.registry import OPTIMIZERS, OptimizerEntry
from torchopt.unrolling import ForwardMode, ModuleStep, Recomputed, Snapshots, Stored, Truncated
from torchopt_utils import Explanation

X = torch.linspace(-1, 1, 48).view(16, 3)
Y = X.sum(1, keepdim=True).sin()
ALL_MODES = [Stored(), Recomputed(), Snapshots(2), ForwardMode(), Truncated(2)]


def made() -> tuple[nn.Linear, torch.Tensor]:
    torch.manual_seed(0)
    return nn.Linear(3, 1), torch.ones(16, 1, requires_grad=True)


def inner_loss(net: nn.Module, weights: torch.Tensor) -> torch.Tensor:
    result: torch.Tensor = (weights * (net(X) - Y).square()).mean()
    return result


def outer_loss(net: nn.Module) -> torch.Tensor:
    result: torch.Tensor = net(X.flip(0)).square().mean()
    return result


def assert_explains(
    report: Explanation, kinds: list[str], *words: str, reached: bool = False
) -> None:
    assert list(report.kinds) == kinds
    assert all(tensor.reached is reached for tensor in report.tensors)
    assert max(map(len, str(report).splitlines())) <= 100
    text = ' '.join(str(report).split())
    for word in words:
        assert word in text
        assert word in ' '.join(report._repr_html_().replace('&#x27;', "'").split())


def stepped(count: int = 1, **options: Any) -> tuple[nn.Linear, torch.Tensor, Any]:
    net, weights = made()
    inner = torchopt.MetaAdam(net, lr=0.1)
    for _ in range(count):
        inner.step(inner_loss(net, weights), **options)
    return net, weights, inner


def test_no_step() -> None:
    net, weights = made()
    report = torchopt.explain(outer_loss(net), weights, module=net)
    assert_explains(report, ['no-step'], 'bias, weight alone', 'inner.step(inner_loss)')


def test_a_loss_older_than_the_last_step() -> None:
    net, weights = made()
    inner = torchopt.MetaAdam(net, lr=0.1)
    loss = outer_loss(net)
    inner.step(inner_loss(net, weights))
    report = torchopt.explain(loss, weights)
    assert_explains(report, ['older-loss'], 'bias, weight', 'by MetaAdam', 'after the step')


def test_a_loss_between_two_steps() -> None:
    net, _, inner = stepped(2)
    loss = outer_loss(net)
    late = torch.ones(16, 1, requires_grad=True)
    inner.step(inner_loss(net, late))
    assert torchopt.explain(loss, late).kinds == ('older-loss', 'unused')


def test_an_old_handle_of_a_parameter() -> None:
    net, weights = made()
    inner = torchopt.MetaAdam(net, lr=0.1)
    weight = net.weight
    inner.step(inner_loss(net, weights))
    report = torchopt.explain((X @ weight.T).square().mean(), weights)
    assert_explains(report, ['older-loss'], 'uses weight from before', 'read net.weight again')


@pytest.mark.parametrize('given', [False, True])
@pytest.mark.parametrize('kind', [torchopt.Adam, torchopt.SGD, torch.optim.SGD])
def test_a_plain_optimizer(kind: Any, given: bool) -> None:
    net, weights = made()
    plain = kind(net.parameters(), lr=0.1)
    inner_loss(net, weights).backward()
    plain.step()
    report = torchopt.explain(outer_loss(net), weights, optimizer=plain if given else None)
    name = kind.__name__
    home = 'torch.optim' if kind is torch.optim.SGD else 'torchopt'
    assert_explains(report, ['plain-optimizer'], f'{home}.{name}', f'torchopt.Meta{name}(net')


@pytest.mark.parametrize('target', ['module', 'state'])
def test_stop_gradient_before_the_loss(target: str) -> None:
    net, weights, _ = stepped()
    torchopt.stop_gradient(net if target == 'module' else torchopt.extract_state_dict(net))
    report = torchopt.explain(outer_loss(net), weights, module=net)
    assert_explains(report, ['stop-gradient'], 'bias, weight', 'after the backward pass')


def test_stop_gradient_in_the_middle() -> None:
    net, weights, inner = stepped()
    torchopt.stop_gradient(net)
    torchopt.stop_gradient(inner)
    inner.step(inner_loss(net, torch.ones(16, 1)))
    report = torchopt.explain(outer_loss(net), weights, module=net)
    assert_explains(report, ['unused'], 'used by steps before stop_gradient')


def test_extract_by_deepcopy() -> None:
    net, weights, _ = stepped()
    torchopt.recover_state_dict(net, torchopt.extract_state_dict(net, by='deepcopy'))
    report = torchopt.explain(outer_loss(net), weights, module=net)
    assert_explains(report, ['deepcopy'], "by='deepcopy'", "by='copy'")


def test_extract_by_reference_and_by_copy_are_connected() -> None:
    for by in ('reference', 'copy'):
        net, weights, _ = stepped()
        torchopt.recover_state_dict(net, torchopt.extract_state_dict(net, by=by))  # type: ignore[call-overload]
        assert torchopt.explain(outer_loss(net), weights).kinds == ()


def test_first_order() -> None:
    net, weights, _ = stepped(2, first_order=True)
    report = torchopt.explain(outer_loss(net), weights)
    assert_explains(report, ['first-order'], 'All inner steps', 'without first_order=True')


def functional(
    create_graph: bool = True, detach: bool = False
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    rate = torch.tensor(0.1, requires_grad=True)
    weights = torch.tensor([1.0, 2.0], requires_grad=True)
    params = {'w': torch.tensor([1.0, -2.0], requires_grad=True)}
    meta = {'rate': rate, 'weights': weights, 'start': params['w']}
    optimizer = torchopt.adam(lr=rate)
    state = optimizer.init(params)
    for _ in range(3):
        loss = (weights * params['w'].square()).sum()
        (grad,) = torch.autograd.grad(loss, params['w'], create_graph=create_graph)
        updates, state = optimizer.update({'w': grad}, state, inplace=False)
        params = torchopt.apply_updates(params, updates, inplace=False)
        if detach:
            params = {'w': params['w'].detach().requires_grad_()}
    return params['w'].square().sum(), meta


def test_create_graph_forgotten() -> None:
    loss, meta = functional(create_graph=False)
    report = torchopt.explain(loss, {name: meta[name] for name in ('rate', 'start')})
    assert_explains(report, ['first-order'], 'All inner steps', 'create_graph=True', reached=True)
    assert all(step.first_order for step in report.steps)
    report = torchopt.explain(loss, meta['weights'])
    assert_explains(report, ['first-order'], 'create_graph=True')


@pytest.mark.parametrize('create_graph', [True, False])
@pytest.mark.parametrize('entry', OPTIMIZERS, ids=lambda entry: entry.name)
def test_create_graph_with_every_optimizer(entry: OptimizerEntry, create_graph: bool) -> None:
    cases: list[dict[str, Any]] = [{}]
    if 'weight_decay' in signature(entry.factory).parameters:
        cases.append({'weight_decay': 0.1})  # by which updates depend on the parameters, too
    if entry.fused and torchopt.accelerated_op_available():
        cases.append({**cases[-1], 'use_accelerated_op': True})
    for options in cases:
        start = torch.tensor([1.0, -2.0], dtype=torch.float64, requires_grad=True)
        optimizer = entry.factory(**options)
        params, state = start, optimizer.init(start)
        for _ in range(3):
            loss = params.pow(4).sum()
            (grad,) = torch.autograd.grad(loss, params, create_graph=create_graph)
            updates, state = optimizer.update(grad, state, params=params, inplace=False)
            params = torchopt.apply_updates(params, updates, inplace=False)
        report = torchopt.explain(params.square().sum(), start)
        assert report.kinds == (() if create_graph else ('first-order',)), options


def test_create_graph_forgotten_in_one_step() -> None:
    w = torch.tensor([1.0, -2.0], requires_grad=True)
    optimizer = torchopt.sgd(lr=0.1)
    params, state = w, optimizer.init(w)
    for number in range(4):
        (grad,) = torch.autograd.grad(params.square().sum(), params, create_graph=number != 2)
        updates, state = optimizer.update(grad, state, inplace=False)
        params = torchopt.apply_updates(params, updates, inplace=False)
    report = torchopt.explain(params.sum(), w)
    assert [step.first_order for step in report.steps] == [False, False, True, False]
    assert_explains(report, ['first-order'], 'Inner steps 3', reached=True)


def test_parameters_detached_in_functional_code() -> None:
    loss, meta = functional(detach=True)
    report = torchopt.explain(loss, meta)
    assert_explains(report, ['no-step'], 'detached before the loss', 'inplace=False')


@pytest.mark.parametrize('only_net', [False, True])
def test_stop_gradient_forgotten_between_outer_rounds(only_net: bool) -> None:
    net, weights, inner = stepped()
    outer_loss(net).backward()
    if only_net:
        torchopt.stop_gradient(net)
    inner.step(inner_loss(net, weights))
    report = torchopt.explain(outer_loss(net), weights)
    said = 'the state of its optimizer was not' if only_net else 'earlier outer rounds'
    assert_explains(
        report, ['freed-earlier-round'], said, 'torchopt.stop_gradient(inner)', reached=True
    )


@pytest.mark.parametrize('backward', [Stored(), Recomputed()])
def test_the_loss_was_differentiated_before(backward: Any) -> None:
    loss, weights = unrolled(backward, write=True)
    loss.backward()
    report = torchopt.explain(loss, weights)
    assert_explains(report, ['freed'], 'before loss.backward()', reached=True)
    assert report['wrt'].norm is None


def test_the_outer_optimizer_holds_old_parameters() -> None:
    net, weights = made()
    outer = torch.optim.Adam(net.parameters(), lr=0.1)
    torchopt.MetaAdam(net, lr=0.1).step(inner_loss(net, weights))
    report = torchopt.explain(outer_loss(net), weights, module=net, optimizer=outer)
    assert_explains(report, ['optimizer-holds-old'], 'recover_state_dict', reached=True)


def test_load_state_dict_of_torch_writes_into_parameters_with_a_graph() -> None:
    net, weights = made()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    torchopt.MetaAdam(net, lr=0.1).step(inner_loss(net, weights))
    net.load_state_dict(before)
    report = torchopt.explain(outer_loss(net), weights, module=net)
    assert_explains(report, ['written-in-place'], 'weight, bias were written', reached=True)


def test_a_plain_step_before_the_backward_pass() -> None:
    weights = torch.ones(3, requires_grad=True)
    loss = weights.square().sum()
    with torch.no_grad():
        weights.add_(1.0)
    report = torchopt.explain(loss, weights)
    assert_explains(report, ['written-in-place'], 'write into a clone', reached=True)


def test_the_state_alone_is_detached() -> None:
    net, weights, inner = stepped()
    inner.load_state_dict(torchopt.extract_state_dict(inner, by='deepcopy'))
    report = torchopt.explain(outer_loss(net), weights, module=net, optimizer=inner)
    assert_explains(report, ['state-detached'], 'moments count as constants', reached=True)


def test_stop_gradient_cuts_a_state_that_the_backward_pass_needs() -> None:
    net, weights, inner = stepped()
    torchopt.stop_gradient(inner)
    report = torchopt.explain(outer_loss(net), weights)
    assert_explains(report, ['stop-gradient'], 'after the backward pass', reached=True)


def test_frozen_detached_and_integer_tensors() -> None:
    net, _, _ = stepped()
    wanted = {'frozen': torch.ones(3), 'count': torch.tensor(3)}
    report = torchopt.explain(outer_loss(net), wanted)
    assert [finding.kind for finding in report['frozen'].findings] == ['requires-no-grad']
    assert [finding.kind for finding in report['count'].findings] == ['not-floating']


def test_a_loss_without_a_graph() -> None:
    net, weights, _ = stepped()
    with torch.no_grad():
        loss = outer_loss(net)
    assert_explains(torchopt.explain(loss, weights), ['loss-has-no-graph'], 'no_grad')


def test_a_tensor_that_nobody_uses() -> None:
    net, _, _ = stepped()
    report = torchopt.explain(outer_loss(net), torch.ones(2, requires_grad=True))
    assert_explains(report, ['unused'], 'without .detach()')


def test_another_tensor_than_the_one_in_use() -> None:
    net, raw = made()
    inner = torchopt.MetaAdam(net, lr=0.1)
    inner.step(inner_loss(net, raw / raw.sum()))
    loss = outer_loss(net)
    assert_explains(torchopt.explain(loss, raw / raw.sum()), ['other-tensor'], 'the very tensor')
    alias = raw.detach().requires_grad_()
    assert_explains(torchopt.explain(loss, alias), ['other-tensor'], 'same memory')


def unrolled(backward: Any, write: bool) -> tuple[torch.Tensor, torch.Tensor]:
    net, weights = made()
    step = ModuleStep(net, torchopt.adam(0.1), lambda net, _, consts: inner_loss(net, consts))
    carry, _ = torchopt.unroll(step, step.init(), consts=weights, length=4, backward=backward)
    if write:
        step.write(carry)
    return outer_loss(net), weights


@pytest.mark.parametrize('backward', ALL_MODES, ids=lambda mode: type(mode).__name__)
def test_the_carry_of_an_unroll_was_not_written(backward: Any) -> None:
    loss, weights = unrolled(backward, write=False)
    report = torchopt.explain(loss, weights)
    if isinstance(backward, Truncated):
        assert_explains(report, ['no-step'], 'what unroll returned was not written')
    else:
        assert_explains(report, ['older-loss'], 'inner_step.write(carry)')


@pytest.mark.parametrize('backward', [Stored(), Recomputed()])
def test_truncated(backward: Any) -> None:
    net, weights = made()
    step = ModuleStep(net, torchopt.adam(0.1), lambda net, _, consts: inner_loss(net, consts))
    start = net.weight
    carry, _ = torchopt.unroll(
        step, step.init(), consts=weights, length=5, backward=Truncated(2, backward)
    )
    step.write(carry)
    report = torchopt.explain(outer_loss(net), {'weights': weights, 'start': start})
    assert report.kinds == ('truncated',)
    assert (report['weights'].reached, report['weights'].steps) == (True, 2)
    assert not report['start'].reached
    assert 'left 3 earlier steps' in str(report)


def test_a_module_given_after_its_steps() -> None:
    net, _, _ = stepped(2)
    report = torchopt.explain(outer_loss(net), net)
    assert_explains(report, ['wrt-after-steps'], 'not by the initial ones', reached=True)
    assert [tensor.steps for tensor in report.tensors] == [0, 0]


def test_a_checkpoint_that_hides_its_graph() -> None:
    net, weights, _ = stepped()
    inputs = X.clone().requires_grad_()
    loss = checkpoint(net, inputs, use_reentrant=True).mean()
    report = torchopt.explain(loss, weights)
    assert_explains(report, ['hidden'], 'use_reentrant=False')
