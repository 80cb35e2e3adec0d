"""Inner loops that begin with the state of a trained optimizer."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import torchopt
from support.optimizer_cases import OptimizerCase
from torchopt.registry import OPTIMIZERS, OptimizerEntry

X = torch.tensor([[1.0, -2.0], [0.5, 3.0]], dtype=torch.float64)
OPTIONS: dict[str, list[dict[str, Any]]] = {
    'adagrad': [{'lr_decay': 0.1, 'initial_accumulator_value': 0.2}],
    'adam': [{'amsgrad': True, 'betas': (0.7, 0.8)}],
    'adamw': [{'weight_decay': 0.3}],
    'rmsprop': [{'momentum': 0.9, 'centered': True}],
    'sgd': [{'momentum': 0.9, 'dampening': 0.2}, {'momentum': 0.9, 'nesterov': True}],
}
IN_TORCH = [
    pytest.param(entry, options, id=f'{entry.name}-{index}')
    for entry in OPTIMIZERS
    if entry.torch_name is not None
    for index, options in enumerate([{}, *OPTIONS.get(entry.name, [])])
]


def make_net(*, bias: bool = True) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(2, 2, bias), nn.Linear(2, 1, bias)).double()


def loss_of(net: nn.Module) -> torch.Tensor:
    loss: torch.Tensor = net(X).square().mean()
    return loss


def train(net: nn.Module, optimizer: Any, steps: int = 3) -> None:
    for _ in range(steps):
        optimizer.zero_grad()
        loss_of(net).backward()
        optimizer.step()
    optimizer.zero_grad()


def assert_goes_on(net: nn.Module, trained: Any, inner: torchopt.MetaOptimizer) -> None:
    """The steps of ``inner`` on ``net`` are the next steps of ``trained``."""
    state = torchopt.extract_state_dict(net)
    before = tensors_of(trained)
    for _ in range(2):
        inner.step(loss_of(net))
    found = [param.detach().clone() for param in net.parameters()]
    torchopt.recover_state_dict(net, state)
    assert all(map(torch.equal, tensors_of(trained), before))
    train(net, trained, 2)
    for one, other in zip(net.parameters(), found):
        torch.testing.assert_close(one.detach(), other, rtol=1e-10, atol=1e-12)


def tensors_of(optimizer: Any) -> list[torch.Tensor]:
    leaves = torchopt.pytree.tree_leaves(optimizer.state_dict()['state'])
    return [leaf.clone() for leaf in leaves if isinstance(leaf, torch.Tensor)]


@pytest.mark.parametrize('source', ['torch.optim', 'torchopt'])
@pytest.mark.parametrize('general', [False, True])
@pytest.mark.parametrize(('entry', 'options'), IN_TORCH)
def test_steps_go_on_where_the_trained_optimizer_stands(
    entry: OptimizerEntry, options: dict[str, Any], source: str, general: bool
) -> None:
    # torch's Muon takes nothing but matrices.
    net = make_net(bias=source == 'torchopt' or entry.torch_name != 'Muon')
    case = OptimizerCase(entry, source, {'lr': 0.05, **options})
    make: Any = case.make_torch if source == 'torch.optim' else case.make_class
    trained = make(list(net.parameters()))
    train(net, trained)
    kind = torchopt.MetaOptimizer if general else getattr(torchopt, f'Meta{entry.class_name}')
    inner = kind.from_torch(net, trained)
    assert type(inner) is kind
    assert_goes_on(net, trained, inner)


def test_groups_keep_their_hyperparameters() -> None:
    net: Any = make_net()
    trained = torch.optim.Adam(
        [{'params': net[0].parameters(), 'lr': 0.01}, {'params': net[1].parameters(), 'eps': 0.1}],
        lr=0.2,
    )
    train(net, trained)
    inner = torchopt.MetaAdam.from_torch(net, trained)
    assert 'lr: 0.01' in repr(inner)
    assert 'eps: 0.1' in repr(inner)
    assert_goes_on(net, trained, inner)


def test_a_changed_rate_is_taken_from_the_groups() -> None:
    net = make_net()
    trained = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    schedule = torch.optim.lr_scheduler.ExponentialLR(trained, 0.5)
    train(net, trained)
    schedule.step()
    assert_goes_on(net, trained, torchopt.MetaSGD.from_torch(net, trained))


def test_hyperparameters_can_be_replaced_and_learned() -> None:
    net = make_net()
    trained = torch.optim.Adam(net.parameters(), lr=0.1)
    train(net, trained)
    rate = torch.tensor(0.1, dtype=torch.float64, requires_grad=True)
    inner = torchopt.MetaAdam.from_torch(net, trained, lr=rate)
    inner.step(loss_of(net))
    (gradient,) = torch.autograd.grad(loss_of(net), rate)
    assert gradient != 0
    with pytest.raises(TypeError, match="no hyperparameter 'lrr', did you mean 'lr'"):
        torchopt.MetaAdam.from_torch(net, trained, lrr=0.1)


def test_the_trained_optimizer_and_its_parameters_are_left_alone() -> None:
    net = make_net()
    trained = torch.optim.Adam(net.parameters(), lr=0.1)
    train(net, trained)
    weight = next(net.parameters())
    moment = trained.state[weight]['exp_avg'].clone()
    inner = torchopt.MetaAdam.from_torch(net, trained)
    inner.step(loss_of(net))
    assert torch.equal(trained.state[weight]['exp_avg'], moment)
    held = inner.state_dict()[0][0].mu['0.weight'].detach().clone()
    trained.step()
    assert torch.equal(inner.state_dict()[0][0].mu['0.weight'], held)


def test_parameters_that_the_optimizer_does_not_hold_are_left_alone() -> None:
    net: Any = make_net()
    trained = torch.optim.SGD(net[1].parameters(), lr=0.1)
    train(net, trained)
    inner = torchopt.MetaSGD.from_torch(net, trained)
    first, second = net[0].weight, net[1].weight
    inner.step(loss_of(net))
    assert net[0].weight is first
    assert net[1].weight is not second


def test_an_optimizer_without_steps_gives_first_values() -> None:
    net = make_net()
    trained = torch.optim.Adam(net.parameters(), lr=0.1)
    assert_goes_on(net, trained, torchopt.MetaAdam.from_torch(net, trained))


@pytest.mark.parametrize(
    ('make', 'error', 'match'),
    [
        (lambda net: torch.optim.SGD(net.parameters()), TypeError, r'use torchopt\.MetaSGD\.from'),
        (lambda net: torch.optim.RAdam(net.parameters()), TypeError, r'use torchopt\.MetaRAdam'),
        (lambda net: torch.optim.LBFGS(net.parameters()), TypeError, 'there is no rule for LBFGS'),
        (lambda net: net, TypeError, r'must be a torch\.optim\.Optimizer, got Sequential'),
        (
            lambda net: torch.optim.Adam(make_net().parameters()),
            ValueError,
            'holds no parameter.*put them',
        ),
    ],
)
def test_an_optimizer_that_does_not_fit_is_refused(make: Any, error: Any, match: str) -> None:
    net = make_net()
    with pytest.raises(error, match=match):
        torchopt.MetaAdam.from_torch(net, make(net))


def test_loading_the_state_of_a_plain_optimizer_names_the_way() -> None:
    net = make_net()
    inner = torchopt.MetaAdam(net, lr=0.1)
    plain = torchopt.Adam(net.parameters(), lr=0.1)
    with pytest.raises(ValueError, match=r'torchopt\.MetaAdam\.from_torch\(module, optimizer\)'):
        inner.load_state_dict(plain.state_dict())  # type: ignore[arg-type]
