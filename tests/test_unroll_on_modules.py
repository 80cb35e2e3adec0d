"""Inner loops over modules: ``unroll`` gives what ``MetaOptimizer`` gives."""

import copy

import pytest
import torch
from torch import nn
from torch.nn.utils.parametrizations import spectral_norm, weight_norm

import torchopt
from torchopt.registry import OPTIMIZERS
from torchopt.unrolling import ModuleStep, Recomputed, Snapshots, Stored

BATCHES = torch.randn(5, 8, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
HELD_OUT = torch.ones(4, 3, dtype=torch.float64)
MODES = [Stored(), Recomputed(), Recomputed(keep_gradients=True), Snapshots(2)]


class Net(nn.Module):
    """A network with running averages, a frozen layer, and a weight that two layers share."""

    def __init__(self):
        super().__init__()
        self.first, self.norm = nn.Linear(3, 3), nn.BatchNorm1d(3)
        self.frozen = nn.Linear(3, 3).requires_grad_(False)
        self.last = nn.Linear(3, 3)
        self.last.weight = self.first.weight

    def forward(self, x):
        return self.last(torch.tanh(self.norm(self.frozen(self.first(x)))))


def make_net():
    torch.manual_seed(0)
    return Net().double()


def make_weights():
    return torch.linspace(0.5, 1.5, 8, dtype=torch.float64).unsqueeze(1).requires_grad_()


def loss(net, x, weights):
    return (weights * (net(x) - 1).square()).mean()


def held_out_loss(net):
    return net(HELD_OUT).square().sum()


def assert_equal(found, expected):
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize('backward', MODES, ids=str)
@pytest.mark.parametrize('entry', OPTIMIZERS, ids=lambda entry: entry.name)
def test_the_same_as_a_meta_optimizer(entry, backward):
    net, weights = make_net(), make_weights()
    start = [param for param in net.parameters() if param.requires_grad]
    inner = getattr(torchopt, f'Meta{entry.class_name}')(net, lr=0.05)
    losses = []
    for batch in BATCHES:
        losses.append(loss(net, batch, weights))
        inner.step(losses[-1])
    trained = {name: tensor.detach().clone() for name, tensor in net.state_dict().items()}
    expected = torch.autograd.grad(held_out_loss(net), [weights, *start])

    other, weights = make_net(), make_weights()
    start = [param for param in other.parameters() if param.requires_grad]
    before = copy.deepcopy(other.state_dict())
    step = ModuleStep(other, entry.factory(lr=0.05), loss)
    carry, path = torchopt.unroll(step, step.init(), BATCHES, weights, backward=backward)
    assert_equal(other.state_dict(), before)
    step.write(carry)
    assert_equal(path, torch.stack(losses))
    assert_equal(dict(other.state_dict()), trained)
    assert other.last.weight is other.first.weight
    assert_equal(torch.autograd.grad(held_out_loss(other), [weights, *start]), expected)


class Shared(nn.Module):
    """One submodule under two names."""

    def __init__(self):
        super().__init__()
        self.a = self.b = nn.Linear(3, 3)
        self.n = self.m = nn.BatchNorm1d(3)

    def forward(self, x):
        return self.m(self.b(torch.tanh(self.n(self.a(x)))))


class Unused(nn.Module):
    """A layer without influence, which weight decay must not touch."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(3, 3), nn.Linear(3, 3)

    def forward(self, x):
        return self.a(x)


def spectral():
    return nn.Sequential(spectral_norm(nn.Linear(3, 3)), nn.Tanh(), nn.Linear(3, 3))


def weight_normed():
    return nn.Sequential(weight_norm(nn.Linear(3, 3)), nn.Tanh(), nn.Linear(3, 3))


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.cell = nn.LSTM(3, 3, batch_first=True)

    def forward(self, x):
        return self.cell(x.unsqueeze(1))[0].squeeze(1)


@pytest.mark.parametrize('backward', MODES, ids=str)
@pytest.mark.parametrize('make', [Net, Shared, Unused, spectral, weight_normed, Recurrent])
def test_kinds_of_modules(make, backward):
    def gradients(train):
        torch.manual_seed(0)
        net, weights = make().double(), make_weights()
        start = list(net.parameters())
        train(net, weights)
        net.eval()
        start = [param for param in start if param.requires_grad]
        outer = held_out_loss(net) + sum(param.square().sum() for param in net.parameters())
        return dict(net.state_dict()), torch.autograd.grad(outer, [weights, *start])

    def by_meta_optimizer(net, weights):
        inner = torchopt.MetaSGD(net, lr=0.05, momentum=0.9, weight_decay=0.1)
        for batch in BATCHES:
            inner.step(loss(net, batch, weights))

    def by_unroll(net, weights):
        step = ModuleStep(net, torchopt.sgd(0.05, momentum=0.9, weight_decay=0.1), loss)
        carry, _ = torchopt.unroll(step, step.init(), BATCHES, weights, backward=backward)
        step.write(carry)

    found, expected = gradients(by_unroll), gradients(by_meta_optimizer)
    assert_equal(found[0], expected[0])
    assert_equal(found[1], expected[1])


def test_a_buffer_that_learns():
    net = nn.Linear(3, 3).double()
    net.register_buffer('scale', torch.ones(3, dtype=torch.float64, requires_grad=True))
    scale, weights = net.scale, make_weights()

    def scaled_loss(net, x, weights):
        return (weights * (net(x) * net.scale - 1).square()).mean()

    step = ModuleStep(net, torchopt.sgd(0.1), scaled_loss)
    carry, _ = torchopt.unroll(step, step.init(), BATCHES, weights, backward=Recomputed())
    step.write(carry)
    found = torch.autograd.grad(scaled_loss(net, BATCHES[0], weights), scale)
    assert found[0].all()
    torchopt.stop_gradient(net)
    assert net.scale.grad_fn is None


def test_rounds_of_a_meta_learner():
    def learned(backward):
        net, weights = make_net(), make_weights()
        step = ModuleStep(net, torchopt.adam(0.05), loss)
        outer = torchopt.Adam([weights], lr=0.1)
        for _ in range(3):
            carry, _ = torchopt.unroll(step, step.init(), BATCHES, weights, backward=backward)
            step.write(carry)
            outer.zero_grad()
            held_out_loss(net).backward()
            outer.step()
            torchopt.stop_gradient(net)
        assert all(param.is_leaf for param in net.parameters())
        return weights.detach()

    found = learned(Snapshots())
    assert_equal(found, learned(Stored()))
    assert (found != make_weights()).all()


@pytest.mark.parametrize('backward', MODES, ids=str)
def test_hyperparameters_that_are_learned(backward):
    rate = torch.tensor(0.05, dtype=torch.float64, requires_grad=True)

    def gradient(mode):
        net = make_net()
        step = ModuleStep(
            net,
            lambda consts: torchopt.sgd(consts['rate'], momentum=0.9),
            lambda net, x, consts: loss(net, x, consts['weights']),
        )
        consts = {'rate': rate, 'weights': make_weights()}
        carry, _ = torchopt.unroll(step, step.init(consts), BATCHES, consts, backward=mode)
        step.write(carry)
        return torch.autograd.grad(held_out_loss(net), rate)[0]

    assert gradient(backward) != 0
    assert_equal(gradient(backward), gradient(Stored()))


def test_a_network_that_the_loss_captures_is_named():
    net, learned = make_net(), nn.Linear(3, 1).double()
    step = ModuleStep(net, torchopt.sgd(0.1), lambda net, x, _: (learned(x) * net(x)).mean())
    with pytest.raises(RuntimeError, match=r'learned\.weight \(a tensor of shape \(1, 3\)'):
        torchopt.unroll(step, step.init(), BATCHES, backward=Recomputed())


class Average(nn.Module):
    """Assigns its buffer anew instead of writing into it."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(3))
        self.register_buffer('mean', torch.zeros(3))

    def forward(self, x):
        self.mean = 0.5 * self.mean + 0.5 * x.detach().float().mean(0)
        return x.float() * self.scale - self.mean


@pytest.mark.parametrize('backward', [Stored(), Recomputed()], ids=str)
def test_a_buffer_that_is_assigned(backward):
    net, trained = Average(), Average()
    step = ModuleStep(net, torchopt.sgd(0.1), lambda net, x, _: net(x).square().mean())
    carry, _ = torchopt.unroll(step, step.init(), BATCHES, backward=backward)
    step.write(carry)
    for batch in BATCHES:
        trained(batch)
    torch.testing.assert_close(net.mean, trained.mean)
    assert net.mean.any()


def test_nothing_to_train():
    with pytest.raises(ValueError, match='nothing to train'):
        ModuleStep(nn.Linear(1, 1).requires_grad_(False), torchopt.sgd(0.1), loss)
