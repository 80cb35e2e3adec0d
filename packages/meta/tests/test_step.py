"""One differentiable step: what it replaces, what it leaves alone, what it refuses."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import torchopt
from torchopt.registry import OPTIMIZERS, OptimizerEntry

REGISTRY = pytest.mark.parametrize('entry', OPTIMIZERS, ids=lambda entry: entry.name)


def make_net(**options: Any) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(3, 4, dtype=torch.float64, **options),
        nn.Tanh(),
        nn.Linear(4, 1, dtype=torch.float64, **options),
    )


def make_batch() -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(6, 3, dtype=torch.float64, generator=generator)


def unroll_functionally(
    factory: Callable[[], torchopt.GradientTransformation],
    params: Any,
    call: Callable[[Any], torch.Tensor],
    inner_loss: Callable[[torch.Tensor], torch.Tensor],
    steps: int,
) -> Any:
    """The same unroll, written with the functional form and torch.func."""
    transformation = factory()
    state = transformation.init(params)
    for _ in range(steps):
        grads = torch.func.grad(lambda params: inner_loss(call(params)))(params)
        updates, state = transformation.update(grads, state, params=params, inplace=False)
        params = torchopt.apply_updates(params, updates, inplace=False)
    return params


@REGISTRY
def test_meta_gradient_equals_that_of_the_functional_form(entry: OptimizerEntry) -> None:
    net, batch = make_net(), make_batch()
    initial = {name: param.detach().clone() for name, param in net.named_parameters()}
    target = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
    optimizer = getattr(torchopt, f'Meta{entry.class_name}')(net, lr=0.05)

    for _ in range(3):
        optimizer.step((net(batch) - target).square().mean())
    (found,) = torch.autograd.grad(net(batch).mean(), target)

    def outer(target: torch.Tensor) -> torch.Tensor:
        params = unroll_functionally(
            lambda: entry.factory(lr=0.05),
            initial,
            lambda params: torch.func.functional_call(net, params, (batch,)),
            lambda output: (output - target).square().mean(),
            steps=3,
        )
        return torch.func.functional_call(net, params, (batch,)).mean()

    expected = torch.func.grad(outer)(target.detach())
    assert expected.abs() > 1e-6 if entry.smooth else expected == 0
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-14)


@REGISTRY
def test_class_takes_the_arguments_of_the_factory_and_equals_the_low_level_form(
    entry: OptimizerEntry,
) -> None:
    net, batch = make_net(), make_batch()
    twin = make_net()
    twin.load_state_dict(net.state_dict())
    high = getattr(torchopt, f'Meta{entry.class_name}')(net, lr=0.1, weight_decay=0.3)
    low = torchopt.MetaOptimizer(twin, entry.factory(lr=0.1, weight_decay=0.3))

    for optimizer, module in ((high, net), (low, twin)):
        for _ in range(2):
            optimizer.step(module(batch).square().mean())

    for left, right in zip(net.parameters(), twin.parameters(), strict=True):
        assert torch.equal(left, right)


def test_step_replaces_parameters_by_tensors_with_a_graph() -> None:
    net, batch = make_net(), make_batch()
    before = dict(net.named_parameters())
    torchopt.MetaSGD(net, lr=0.1).step(net(batch).mean())

    for name, param in net.named_parameters():
        assert param is not before[name]
        assert param.grad_fn is not None
    assert torch.autograd.grad(net(batch).mean(), list(before.values()))


def test_tied_weights_stay_one_tensor() -> None:
    net = make_net()
    net.append(net[0])
    net.register_parameter('alias', net[0].weight)
    net.append(nn.Linear(1, 3, bias=False, dtype=torch.float64))
    net = nn.ModuleDict({'body': net, 'again': net[0]})
    loss = net['again'].weight.square().sum() + net['body'].alias.sum()
    (gradient,) = torch.autograd.grad(loss, net['again'].weight, retain_graph=True)
    start = net['again'].weight

    torchopt.MetaSGD(net, lr=0.5).step(loss)

    assert net['body'].alias is net['body'][0].weight is net['again'].weight
    torch.testing.assert_close(net['again'].weight, start - 0.5 * gradient)


def test_frozen_parameters_are_left_alone() -> None:
    net, batch = make_net(), make_batch()
    frozen = net[0].weight.requires_grad_(False)
    torchopt.MetaAdam(net, lr=0.1).step(net(batch).mean())

    assert net[0].weight is frozen
    assert net[0].bias.grad_fn is not None


def test_parameter_unfrozen_later_is_refused_until_it_is_added() -> None:
    net, batch = make_net(), make_batch()
    net[0].weight.requires_grad_(False)
    optimizer = torchopt.MetaSGD(net, lr=0.1)
    net[0].weight.requires_grad_(True)
    before = dict(net.named_parameters())

    with pytest.raises(RuntimeError, match=r"'0.weight'.*add_param_group"):
        optimizer.step(net(batch).mean())
    assert all(param is before[name] for name, param in net.named_parameters())

    optimizer.add_param_group(net)
    optimizer.step(net(batch).mean())
    assert net[0].weight.grad_fn is not None


def test_parameter_frozen_later_keeps_value_and_state() -> None:
    net, batch = make_net(), make_batch()
    optimizer = torchopt.MetaOptimizer(net, torchopt.adam(lr=0.1))
    kept = net[2].bias.requires_grad_(False)
    optimizer.step(net(batch).mean())

    ((state, _),) = optimizer.state_dict()
    assert net[2].bias is kept
    assert state.steps.tolist() == [1, 1, 0, 1]  # optree sorts: 0.bias, 0.weight, 2.bias, 2.weight
    assert not state.mu['2.bias'].any()


def test_parameter_the_loss_does_not_depend_on_keeps_value_and_state() -> None:
    net = make_net()
    optimizer = torchopt.MetaAdam(net, lr=0.1)
    kept = net[2].weight
    optimizer.step(net[0].weight.square().sum())

    ((state, _),) = optimizer.state_dict()
    assert net[2].weight is kept
    assert state.steps.sum() == 1
    assert net[0].weight.grad_fn is not None


def test_module_without_bias() -> None:
    net, batch = make_net(bias=False), make_batch()
    torchopt.MetaAdam(net, lr=0.1).step(net(batch).mean())
    assert net[0].bias is None
    assert net[0].weight.grad_fn is not None


@pytest.mark.parametrize('layer', [nn.RNN, nn.LSTM, nn.GRU])
def test_recurrent_layers_compute_with_the_new_parameters(layer: Callable[..., nn.Module]) -> None:
    net = layer(3, 2, dtype=torch.float64)
    sequence = torch.randn(4, 1, 3, dtype=torch.float64)
    scale = torch.ones((), dtype=torch.float64, requires_grad=True)
    before = net(sequence)[0].sum().item()

    torchopt.MetaSGD(net, lr=0.1).step(scale * net(sequence)[0].sum())

    after = net(sequence)[0].sum()
    assert after.item() < before
    (gradient,) = torch.autograd.grad(after, scale)
    assert gradient < 0


def test_first_order_treats_gradients_as_constants() -> None:
    net = nn.Linear(1, 1, bias=False, dtype=torch.float64)
    start = net.weight
    torchopt.MetaSGD(net, lr=0.1).step(net.weight.pow(3).sum(), first_order=True)
    (first,) = torch.autograd.grad(net.weight.sum(), start)
    torch.testing.assert_close(first, torch.ones_like(first))

    net = nn.Linear(1, 1, bias=False, dtype=torch.float64)
    start = net.weight
    torchopt.MetaSGD(net, lr=0.1).step(net.weight.pow(3).sum())
    (full,) = torch.autograd.grad(net.weight.sum(), start)
    torch.testing.assert_close(full, 1 - 0.6 * start.detach())


def test_first_order_keeps_a_graph_that_the_next_loss_shares() -> None:
    net, batch = make_net(), make_batch()
    meta = torch.ones(3, dtype=torch.float64, requires_grad=True)
    features = batch * meta.exp()
    optimizer = torchopt.MetaSGD(net, lr=0.1)
    for _ in range(2):
        optimizer.step(net(features).mean(), first_order=True)
    assert torch.autograd.grad(net(features).mean(), meta)[0].any()


@REGISTRY
def test_learning_rate_learns(entry: OptimizerEntry) -> None:
    net, batch = make_net(), make_batch()
    lr = torch.tensor(0.05, dtype=torch.float64, requires_grad=True)
    optimizer = getattr(torchopt, f'Meta{entry.class_name}')(net, lr=lr)
    for _ in range(2):
        optimizer.step(net(batch).square().mean())
    (gradient,) = torch.autograd.grad(net(batch).square().mean(), lr)
    assert gradient.isfinite()
    assert gradient != 0


def test_learning_rate_for_every_entry() -> None:
    net, batch = make_net(), make_batch()
    rates = {
        name: torch.full_like(param, 0.1).requires_grad_() for name, param in net.named_parameters()
    }
    optimizer = torchopt.MetaSGD(net, lr=rates)
    start = {name: param.detach() for name, param in net.named_parameters()}
    loss = net(batch).square().mean()
    gradients = torch.autograd.grad(loss, list(net.parameters()), retain_graph=True)
    optimizer.step(loss)
    names = list(start)
    for name, gradient in zip(names, gradients, strict=True):
        torch.testing.assert_close(dict(net.named_parameters())[name], start[name] - 0.1 * gradient)
    total = sum(param.sum() for param in net.parameters())
    for found, gradient in zip(
        torch.autograd.grad(total, [rates[name] for name in names]), gradients, strict=True
    ):
        torch.testing.assert_close(found, -gradient)


def refused_losses(
    net: nn.Module, batch: torch.Tensor
) -> dict[str, tuple[Any, type[Exception], str]]:
    output = net(batch)
    return {
        'not scalar': (output, ValueError, 'scalar'),
        'not a tensor': (1.0, TypeError, 'float'),
        'detached': (output.mean().detach(), ValueError, 'does not depend'),
        'of another net': (make_net()(batch).mean(), ValueError, 'does not depend'),
    }


@pytest.mark.parametrize('case', ['not scalar', 'not a tensor', 'detached', 'of another net'])
def test_bad_loss_is_refused_before_anything_changes(case: str) -> None:
    net, batch = make_net(), make_batch()
    optimizer = torchopt.MetaAdam(net)
    params, state = dict(net.named_parameters()), optimizer.state_dict()
    loss, error, match = refused_losses(net, batch)[case]

    with pytest.raises(error, match=match):
        optimizer.step(loss)

    assert all(param is params[name] for name, param in net.named_parameters())
    assert all(new is old for new, old in zip(optimizer.state_dict(), state, strict=True))


def test_failing_update_changes_nothing() -> None:
    net, batch = make_net(), make_batch()
    other = make_net()
    broken = torchopt.base.GradientTransformation(
        lambda params: (), lambda updates, state, *, params=None, inplace=True: 1 / 0
    )
    optimizer = torchopt.MetaOptimizer(net, torchopt.sgd(lr=0.1))
    optimizer.add_param_group(other, broken)
    params = dict(net.named_parameters())
    with pytest.raises(ZeroDivisionError):
        optimizer.step(net(batch).mean() + other(batch).mean())
    assert all(param is params[name] for name, param in net.named_parameters())


def test_step_without_grad_mode_is_refused() -> None:
    net, batch = make_net(), make_batch()
    optimizer = torchopt.MetaSGD(net, lr=0.1)
    loss = net(batch).mean()
    with torch.no_grad(), pytest.raises(RuntimeError, match='no_grad'):
        optimizer.step(loss)


@pytest.mark.compile
def test_step_cannot_be_compiled() -> None:
    net, batch = make_net(), make_batch()
    optimizer = torchopt.MetaSGD(net, lr=0.1)

    def inner(batch: torch.Tensor) -> torch.Tensor:
        optimizer.step(net(batch).mean())
        return net(batch).mean()

    with pytest.raises(RuntimeError, match='Compile the functional form'):
        torch.compile(inner, backend='eager', fullgraph=True)(batch)


@pytest.mark.compile
def test_step_inside_a_partly_compiled_function_runs_eagerly_and_is_right() -> None:
    """Without ``fullgraph`` Dynamo answers the refusal by running the code as it stands."""
    results = []
    for compiled in (False, True):
        torch.manual_seed(0)
        net, batch = make_net(), make_batch()
        scale = torch.ones((), dtype=torch.float64, requires_grad=True)
        optimizer = torchopt.MetaSGD(net, lr=0.1)

        def inner(
            batch: torch.Tensor,
            net: nn.Module = net,
            scale: torch.Tensor = scale,
            optimizer: Any = optimizer,
        ) -> torch.Tensor:
            optimizer.step((scale * net(batch)).square().mean())
            return net(batch).mean()

        run = torch.compile(inner, backend='aot_eager') if compiled else inner
        results.append(torch.autograd.grad(run(batch), scale)[0])
    torch.testing.assert_close(*results)


@pytest.mark.parametrize('target', [None, [torch.ones(2)], {'w': torch.ones(2)}, nn.Linear])
def test_target_that_is_no_module_is_refused(target: Any) -> None:
    with pytest.raises(TypeError, match='FuncOptimizer'):
        torchopt.MetaSGD(target, lr=0.1)


def test_impl_that_is_no_transformation_is_refused() -> None:
    with pytest.raises(TypeError, match='gradient transformation'):
        torchopt.MetaOptimizer(make_net(), torch.optim.SGD)


def test_module_without_trainable_parameters_is_refused() -> None:
    with pytest.raises(ValueError, match='no parameter that requires grad'):
        torchopt.MetaSGD(make_net().requires_grad_(False), lr=0.1)


def test_bad_hyperparameter_is_refused() -> None:
    with pytest.raises(ValueError, match='lr must be at least 0'):
        torchopt.MetaSGD(make_net(), lr=-1.0)
    with pytest.raises(TypeError, match='lrr'):
        torchopt.MetaSGD(make_net(), lrr=1.0)


def test_parameter_removed_from_its_module_is_named() -> None:
    net, batch = make_net(), make_batch()
    optimizer = torchopt.MetaSGD(net, lr=0.1)
    loss = net(batch).mean()
    net[0].bias = None
    with pytest.raises(RuntimeError, match=r"'0.bias' has been removed"):
        optimizer.step(loss)


def test_parameter_that_is_shared_no_longer_is_named() -> None:
    net = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False))
    net[1].weight = net[0].weight
    optimizer = torchopt.MetaSGD(net, lr=0.1)
    net[1].weight = own = nn.Parameter(torch.ones(2, 2))
    with pytest.raises(RuntimeError, match=r"'0.weight' was shared"):
        optimizer.step(net(torch.ones(1, 2)).sum())
    assert net[1].weight is own
