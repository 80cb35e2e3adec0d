"""Steps made from modules: what is trained, what stays, and what the user sees."""

from __future__ import annotations

import io
from typing import Any

import pytest
import torch
from torch import nn

import torchopt
from support.unrolls import DTYPE, assert_equal
from torchopt.unrolling import (
    ForwardMode,
    ModuleCarry,
    ModuleStep,
    Recomputed,
    Snapshots,
    Stored,
    Strategy,
)

LENGTH = 4
EAGER: list[Strategy] = [
    Stored(),
    Recomputed(),
    Recomputed(keep_gradients=True),
    Recomputed(keep_gradients=True, order='forward-over-reverse'),
    Snapshots(2),
    ForwardMode(),
]
every_mode = pytest.mark.parametrize(
    'backward',
    [
        *EAGER,
        pytest.param(Recomputed(compile='eager'), marks=pytest.mark.compile),
        pytest.param(Snapshots(2, compile='aot_eager'), marks=pytest.mark.compile),
    ],
    ids=str,
)


def batches() -> torch.Tensor:
    return torch.randn(LENGTH, 8, 3, dtype=DTYPE, generator=torch.Generator().manual_seed(0))


def make_weights() -> torch.Tensor:
    return torch.linspace(0.5, 1.5, 8, dtype=DTYPE).unsqueeze(1).requires_grad_()


def loss(net: Any, x: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    return (weights * (net(x) - 1).square()).mean()


class TwoHeads(nn.Module):
    """One head is used, one is evaluated in vain, and one is not evaluated."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.used, self.vain, self.other = (nn.Linear(3, 1, dtype=DTYPE) for _ in range(3))
        # Dynamo cannot flatten a tree with an empty dictionary, as the buffers would be.
        self.register_buffer('calls', torch.zeros((), dtype=DTYPE))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.vain(x)
        return self.used(x)


def adamw() -> torchopt.GradientTransformation:
    return torchopt.adamw(0.1, weight_decay=0.5)


def by_hand(net: TwoHeads, weights: torch.Tensor) -> dict[str, torch.Tensor]:
    """The parameters of the used head after some steps by autograd."""
    params = dict(net.used.named_parameters())
    optimizer = adamw()
    state = optimizer.init(params)
    for x in batches():
        value = loss(lambda x, p=params: torch.func.functional_call(net.used, p, (x,)), x, weights)
        found = torch.autograd.grad(value, list(params.values()), create_graph=True)
        updates, state = optimizer.update(
            dict(zip(params, found)), state, params=params, inplace=False
        )
        params = torchopt.apply_updates(params, updates, inplace=False)
    return params


@every_mode
def test_a_parameter_that_the_loss_does_not_use(backward: Strategy) -> None:
    net, weights = TwoHeads(), make_weights()
    step = ModuleStep(net, adamw(), loss)
    carry = step.init()
    with torch.no_grad():
        start = {name: param.clone() for name, param in carry.params.items()}
    if isinstance(backward, ForwardMode):
        carry = carry._replace(params=start)
    end, _ = torchopt.unroll(step, carry, batches(), weights, backward=backward)
    for name in start:
        if not name.startswith('used'):
            assert torch.equal(end.params[name], start[name])
    expected = by_hand(net, weights)
    with torch.no_grad():
        same, _ = torchopt.unroll(step, carry, batches(), weights, backward=backward)
    assert_equal(list(same.params.values()), list(end.params.values()))
    assert_equal([end.params[f'used.{name}'] for name in expected], list(expected.values()))
    outer = sum(p.square().sum() for p in end.params.values())
    outer_by_hand = sum(p.square().sum() for p in expected.values())
    assert_equal(
        list(torch.autograd.grad(outer, weights, retain_graph=True)),
        list(torch.autograd.grad(outer_by_hand, weights)),
    )
    if not isinstance(backward, ForwardMode):
        (through,) = torch.autograd.grad(outer, net.vain.weight)
        assert_equal([through], [2 * net.vain.weight.detach()])


@pytest.mark.parametrize(
    'backward',
    [Stored(), Recomputed(), pytest.param(Recomputed(compile='eager'), marks=pytest.mark.compile)],
    ids=str,
)
def test_an_unused_parameter_under_vmap(backward: Strategy) -> None:
    net = TwoHeads()
    step = ModuleStep(net, adamw(), loss)
    start = {name: param.detach().clone() for name, param in net.named_parameters()}
    xs = batches()

    def trained(weights: torch.Tensor) -> dict[str, torch.Tensor]:
        carry = step.init()._replace(params=start)
        end, _ = torchopt.unroll(step, carry, xs, weights, backward=backward)
        params: dict[str, torch.Tensor] = end.params
        return params

    weights = torch.stack([make_weights().detach(), torch.ones(8, 1, dtype=DTYPE)]).requires_grad_()
    found = torch.vmap(trained)(weights)
    for row, example in enumerate(weights):
        expected = by_hand(net, example)
        assert_equal([found[f'used.{name}'][row] for name in expected], list(expected.values()))
        assert torch.equal(found['other.weight'][row], start['other.weight'])
    sum(p.square().sum() for p in found.values()).backward()
    assert weights.grad is not None and weights.grad.all()


@every_mode
def test_losses_that_use_other_parameters(backward: Strategy) -> None:
    """The same step, in two loops that are differentiated in the other order."""
    net, heads = TwoHeads(), ['used', 'other']

    def loss_of_head(net: Any, x: torch.Tensor, consts: Any) -> torch.Tensor:
        return loss(getattr(net, heads[consts['head']]), x, consts['weights'])

    step = ModuleStep(net, adamw(), loss_of_head)
    start = {name: param.detach().clone() for name, param in net.named_parameters()}

    def run(head: int, mode: Strategy) -> tuple[torch.Tensor, torch.Tensor]:
        weights = make_weights()
        carry = step.init()._replace(params=start)
        end, _ = torchopt.unroll(
            step, carry, batches(), {'weights': weights, 'head': head}, backward=mode
        )
        return sum((p.square().sum() for p in end.params.values()), torch.zeros(())), weights

    first, second = run(0, backward), run(1, backward)
    plain = run(0, Stored()), run(1, Stored())
    for pair, expected in zip((first, second), plain):
        assert_equal(list(torch.autograd.grad(*pair)), list(torch.autograd.grad(*expected)))


def test_a_loss_that_ignores_the_module() -> None:
    net = TwoHeads()
    copy = TwoHeads()
    losses = [
        lambda net, x, weights: loss(copy, x, weights),
        lambda net, x, weights: loss(net, x, weights).detach(),
        lambda net, x, weights: weights.sum(),
    ]
    for fn in losses:
        step = ModuleStep(net, torchopt.sgd(0.1), fn)
        with pytest.raises(RuntimeError, match='depends on no parameter that the step trains'):
            torchopt.unroll(step, step.init(), batches(), make_weights())


@pytest.mark.parametrize(
    'fn, what',
    [
        (lambda net, x, weights: net(x), r'a tensor of shape \(8, 1\)'),
        (lambda net, x, weights: (net(x).sum(), 1), 'tuple'),
        (lambda net, x, weights: net(x).sum().item(), 'float'),
    ],
)
def test_a_loss_that_is_not_a_scalar_tensor(fn: Any, what: str) -> None:
    step = ModuleStep(TwoHeads(), torchopt.sgd(0.1), lambda net, x, w: fn(net, x, w))
    with pytest.raises(TypeError, match=f'the loss must be a scalar.*{what}'):
        torchopt.unroll(step, step.init(), batches(), make_weights())


def test_an_optimizer_of_the_wrong_kind() -> None:
    net = TwoHeads()
    with pytest.raises(TypeError, match=r'transformation such as torchopt\.adam.*got Adam'):
        ModuleStep(net, torchopt.Adam(net.parameters()), loss)  # type: ignore[arg-type]


@pytest.mark.compile
def test_a_first_call_that_is_traced() -> None:
    net, weights = TwoHeads(), make_weights()
    step, xs = ModuleStep(net, adamw(), loss), batches()[:2]
    carry = step.init()

    def trained(weights: torch.Tensor) -> torch.Tensor:
        end, _ = torchopt.unroll(step, carry, xs, weights)
        return sum((p.square().sum() for p in end.params.values()), torch.zeros(()))

    compiled = torch.compile(trained, backend='eager', fullgraph=True)
    with pytest.raises(Exception, match=r'once outside of torch\.compile'):
        compiled(weights)
    expected = trained(weights)
    torch.testing.assert_close(compiled(weights), expected)


class Shared(nn.Module):
    """One submodule under two names, and a tied weight."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a = self.b = nn.Linear(3, 3, dtype=DTYPE)
        self.c = nn.Linear(3, 3, dtype=DTYPE)
        self.c.weight = self.a.weight
        self.n = self.m = nn.BatchNorm1d(3, dtype=DTYPE)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden = self.m(self.b(self.n(self.a(x)).tanh()))
        out: torch.Tensor = self.c(hidden).sum(-1, keepdim=True)
        return out


@every_mode
def test_a_submodule_under_two_names(backward: Strategy) -> None:
    net = Shared()
    before = [*net.parameters(), *net.buffers()]
    values = [tensor.detach().clone() for tensor in before]
    step = ModuleStep(net, torchopt.sgd(0.1), loss)
    results = []
    for _ in range(2):
        weights, carry = make_weights(), step.init()
        if isinstance(backward, ForwardMode):
            carry = carry._replace(params={n: p.detach() for n, p in carry.params.items()})
        end, _ = torchopt.unroll(step, carry, batches(), weights, backward=backward)
        outer = sum(p.square().sum() for p in end.params.values())
        results.append(torch.autograd.grad(outer, weights)[0])
        assert all(a is b for a, b in zip([*net.parameters(), *net.buffers()], before, strict=True))
        assert_equal([tensor.detach() for tensor in before], values)
    assert torch.equal(*results)

    # By hand, on tensors of their own.
    weights = make_weights()
    params = {name: param.detach().requires_grad_() for name, param in net.named_parameters()}
    buffers = {name: buffer.clone() for name, buffer in net.named_buffers()}
    eps, momentum = net.n.eps, 0.1

    def norm(x: torch.Tensor) -> torch.Tensor:
        return nn.functional.batch_norm(
            x,
            buffers['n.running_mean'],
            buffers['n.running_var'],
            params['n.weight'],
            params['n.bias'],
            True,
            momentum,
            eps,
        )

    for x in batches():
        weight = params['a.weight']
        hidden = norm(x @ weight.T + params['a.bias']).tanh()
        out = norm(hidden @ weight.T + params['a.bias']) @ weight.T + params['c.bias']
        value = (weights * (out.sum(-1, keepdim=True) - 1).square()).mean()
        found = torch.autograd.grad(value, list(params.values()), create_graph=True)
        params = {name: p - 0.1 * g for (name, p), g in zip(params.items(), found)}
    assert_equal([end.params[name] for name in params], list(params.values()))
    assert_equal([end.buffers['n.running_mean']], [buffers['n.running_mean']])
    outer = sum(p.square().sum() for p in params.values())
    assert_equal([results[0]], list(torch.autograd.grad(outer, weights)))


class LearnedBuffer(nn.Module):
    """A buffer that learns, one that is computed from it, and one that does not."""

    def __init__(self, scale: torch.Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3, dtype=DTYPE))
        self.register_buffer('scale', scale)
        self.register_buffer('count', torch.zeros(1, dtype=DTYPE))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.count += 1
        out = (x * self.weight).sum(-1, keepdim=True) * self.scale
        self.scale = self.scale * 1.1
        return out


@every_mode
def test_a_buffer_that_requires_grad(backward: Strategy) -> None:
    scale = torch.tensor(0.7, dtype=DTYPE, requires_grad=True)
    net = LearnedBuffer(scale)
    step = ModuleStep(net, torchopt.sgd(0.1), loss)
    carry = step.init()
    if isinstance(backward, ForwardMode):
        carry = carry._replace(params={'weight': carry.params['weight'].detach()})
    weights = make_weights()
    end, _ = torchopt.unroll(step, carry, batches(), weights, backward=backward)
    assert net.scale is scale
    step.write(end)
    outer = loss(net, batches()[0], weights)

    weight, factor = torch.ones(3, dtype=DTYPE, requires_grad=True), scale
    for x in batches():
        value = loss(lambda x, w=weight, f=factor: (x * w).sum(-1, keepdim=True) * f, x, weights)
        weight = weight - 0.1 * torch.autograd.grad(value, weight, create_graph=True)[0]
        factor = factor * 1.1
    expected = loss(lambda x: (x * weight).sum(-1, keepdim=True) * factor, batches()[0], weights)
    assert_equal([outer.detach()], [expected.detach()])
    assert_equal(
        list(torch.autograd.grad(outer, [scale, weights])),
        list(torch.autograd.grad(expected, [scale, weights])),
    )
    assert net.count == LENGTH + 1


def test_a_carry_is_loaded_as_weights() -> None:
    step = ModuleStep(Shared(), torchopt.adam(0.1), loss)
    carry = step.init()
    file = io.BytesIO()
    torch.save(carry, file)
    file.seek(0)
    loaded = torch.load(file, weights_only=True)
    assert isinstance(loaded, ModuleCarry)
    end, _ = torchopt.unroll(step, loaded, batches(), make_weights())
    again, _ = torchopt.unroll(step, carry, batches(), make_weights())
    assert_equal(list(end.params.values()), list(again.params.values()))


def test_how_a_step_is_printed() -> None:
    step = ModuleStep(TwoHeads(), torchopt.sgd(0.1), loss)
    assert repr(step) == f'ModuleStep(TwoHeads, {torchopt.sgd(0.1)!r}, loss)'

    class Loss:
        def __call__(self, net: Any, x: Any, consts: Any) -> Any: ...

    def optimizer_of(consts: Any) -> torchopt.GradientTransformation:
        return torchopt.sgd(consts)

    name = f'{test_how_a_step_is_printed.__name__}.<locals>.optimizer_of'
    assert (
        repr(ModuleStep(TwoHeads(), optimizer_of, Loss())) == f'ModuleStep(TwoHeads, {name}, Loss)'
    )
