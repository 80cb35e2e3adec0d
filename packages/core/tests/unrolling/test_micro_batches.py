"""Steps whose batch is differentiated part by part."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import torchopt
from support.live_bytes import LiveBytes
from support.unrolls import DTYPE, assert_equal
from torchopt.unrolling import (
    ForwardMode,
    ModuleStep,
    Recomputed,
    Snapshots,
    Stored,
    Strategy,
    Truncated,
)

LENGTH, BATCH = 3, 8
REVERSE: list[Strategy] = [
    Stored(),
    Recomputed(),
    Recomputed(keep_gradients=True),
    Recomputed(keep_gradients=True, order='forward-over-reverse'),
    Snapshots(2),
    Truncated(2, Recomputed()),
    Truncated(2, Snapshots(1)),
]
every_mode = pytest.mark.parametrize(
    'backward',
    [
        *REVERSE,
        ForwardMode(200),
        pytest.param(Recomputed(compile='eager'), marks=pytest.mark.compile),
        pytest.param(Snapshots(2, compile='aot_eager'), marks=pytest.mark.compile),
    ],
    ids=str,
)


class Net(nn.Module):
    """A small network; the last layer is not used."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second, self.other = (nn.Linear(3, 3, dtype=DTYPE) for _ in range(3))
        self.register_buffer('scale', torch.ones((), dtype=DTYPE))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden: torch.Tensor = self.second(self.first(x).tanh()) * self.scale
        return hidden


def batches() -> dict[str, Any]:
    """Indices and images; what is not split; and what is not there."""
    source = torch.Generator().manual_seed(0)
    return {
        'indices': torch.arange(LENGTH * BATCH).view(LENGTH, BATCH),
        'images': torch.randn(LENGTH, BATCH, 3, dtype=DTYPE, generator=source),
        'temperature': torch.linspace(1, 2, LENGTH, dtype=DTYPE),
        'nothing': None,
    }


def make_consts() -> dict[str, torch.Tensor]:
    """Weights of all examples, and a learning rate."""
    weights = torch.linspace(0.5, 1.5, LENGTH * BATCH, dtype=DTYPE)
    return {
        'weights': weights.requires_grad_(),
        'lr': torch.tensor(0.1, dtype=DTYPE, requires_grad=True),
    }


def loss(net: Any, x: dict[str, Any], consts: Any) -> torch.Tensor:
    assert x['nothing'] is None
    errors = (net(x['images']) - 1).square().sum(-1) / x['temperature']
    return (consts['weights'][x['indices']] * errors).mean()


def adam(consts: Any) -> torchopt.GradientTransformation:
    return torchopt.adam(consts['lr'], eps_root=1e-8)


def meta_gradients(
    net: nn.Module, fn: Any, backward: Strategy, number: int, optimizer: Any = adam
) -> list[torch.Tensor]:
    """Results of an unroll, then the gradients of consts and, in reverse mode, of the start."""
    step = ModuleStep(net, optimizer, fn, micro_batches=number)
    consts = make_consts()
    carry = step.init(consts)
    carry = carry._replace(params={n: p.detach() for n, p in carry.params.items()})
    if not isinstance(backward, ForwardMode):
        carry = carry._replace(params={n: p.requires_grad_() for n, p in carry.params.items()})
    torch.manual_seed(7)
    end, losses = torchopt.unroll(step, carry, batches(), consts, backward=backward)
    outer = sum((p.square().sum() for p in end.params.values()), losses.square().sum())
    torch.manual_seed(8)  # the backward pass replays what the forward pass has drawn
    wanted = [tensor for tensor in consts.values() if optimizer is adam or tensor.dim()]
    if not isinstance(backward, ForwardMode):
        wanted += list(carry.params.values())
    found = torch.autograd.grad(outer, wanted, allow_unused=isinstance(backward, Truncated))
    found = tuple(torch.zeros(()) if gradient is None else gradient for gradient in found)
    results = [*end.params.values(), *end.buffers.values(), losses]
    return [result.detach() for result in results] + list(found)


@every_mode
def test_as_the_whole_batch(backward: Strategy) -> None:
    expected = meta_gradients(Net(), loss, backward, 1)
    assert_equal(meta_gradients(Net(), loss, backward, 4), expected)


@pytest.mark.parametrize('number', [2, BATCH])
def test_any_number_of_parts(number: int) -> None:
    expected = meta_gradients(Net(), loss, Recomputed(), 1)
    assert_equal(meta_gradients(Net(), loss, Recomputed(), number), expected)


def test_a_parameter_that_one_part_does_not_use() -> None:
    """Its gradient is a mean that counts a 0; a parameter that no part uses keeps its state."""

    def fn(net: Any, x: Any, consts: Any) -> torch.Tensor:
        images = x['images']
        outputs = net(images) if x['indices'][0] % BATCH else net.first(images)
        return (consts['weights'][x['indices']] * outputs.square().sum(-1)).mean()

    def whole(net: Any, x: Any, consts: Any) -> torch.Tensor:
        parts = ({k: x[k][s] for k in ('indices', 'images')} for s in (slice(0, 4), slice(4, 8)))
        return sum((fn(net, part, consts) for part in parts), torch.zeros((), dtype=DTYPE)) / 2

    net = Net()
    for backward in REVERSE:
        expected = meta_gradients(net, whole, backward, 1)
        found = meta_gradients(net, fn, backward, 2)
        assert_equal(found, expected)
        names = [name for name, _ in net.named_parameters()]
        assert_equal([found[names.index('other.weight')]], [net.other.weight.detach()])


def test_a_loss_of_which_no_part_uses_the_module() -> None:
    step = ModuleStep(Net(), adam, lambda net, x, c: c['weights'].sum(), micro_batches=2)
    consts = make_consts()
    with pytest.raises(RuntimeError, match='depends on no parameter that the step trains'):
        torchopt.unroll(step, step.init(consts), batches(), consts)


class Normalised(Net):
    """Draws random numbers, has running averages, and does something else in every second call."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(3, dtype=DTYPE)
        self.calls = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        outputs = super().forward(nn.functional.dropout(self.norm(x), 0.3))
        return outputs if self.calls % 2 else outputs.sin()


@pytest.mark.parametrize('backward', REVERSE[1:5], ids=str)
@pytest.mark.parametrize('number', [1, 2, 4])
def test_each_part_finds_what_it_found(backward: Strategy, number: int) -> None:
    """Random numbers, averages and plain attributes of modules."""
    expected = meta_gradients(Normalised(), loss, Stored(), number)
    assert_equal(meta_gradients(Normalised(), loss, backward, number), expected)


def test_running_averages_go_from_part_to_part() -> None:
    net = Normalised()
    step = ModuleStep(net, torchopt.sgd(0.1), loss, micro_batches=4)
    x = {name: leaf if leaf is None else leaf[0] for name, leaf in batches().items()}
    carry, _ = step(step.init(), x, make_consts())
    reference = nn.BatchNorm1d(3, dtype=DTYPE)
    for part in x['images'].split(2):
        reference(part)
    assert_equal([carry.buffers['norm.running_var']], [reference.running_var])
    assert carry.buffers['norm.num_batches_tracked'] == 4


@pytest.mark.parametrize('backward', [Stored(), Recomputed()], ids=str)
def test_differentiated_twice(backward: Strategy) -> None:
    found = []
    for mode, number in ((Stored(), 1), (backward, 4)):
        consts = make_consts()
        step = ModuleStep(Net(), adam, loss, micro_batches=number)
        end, _ = torchopt.unroll(step, step.init(consts), batches(), consts, backward=mode)
        outer = sum(p.square().sum() for p in end.params.values())
        first = torch.autograd.grad(outer, list(consts.values()), create_graph=True)
        squares = sum(gradient.square().sum() for gradient in first)
        found.append([*first, *torch.autograd.grad(squares, list(consts.values()))])
    assert_equal(found[1], found[0])


@pytest.mark.parametrize('backward', [Stored(), Recomputed()], ids=str)
def test_under_vmap(backward: Strategy) -> None:
    net = Net()
    step = ModuleStep(net, torchopt.sgd(0.1), loss, micro_batches=2)
    start = step.init()._replace(params={n: p.detach() for n, p in net.named_parameters()})

    xs = batches()

    def trained(weights: torch.Tensor) -> torch.Tensor:
        end, _ = torchopt.unroll(step, start, xs, {'weights': weights}, backward=backward)
        return sum((p.square().sum() for p in end.params.values()), torch.zeros((), dtype=DTYPE))

    weights = torch.stack([torch.ones(24), torch.linspace(0, 1, 24)]).to(DTYPE).requires_grad_()
    (found,) = torch.autograd.grad(torch.vmap(trained)(weights).sum(), weights)
    expected = [torch.autograd.grad(trained(row), weights)[0] for row in weights]
    assert_equal([found], [expected[0] + expected[1]])


def test_many_cotangents() -> None:
    consts = make_consts()
    step = ModuleStep(Net(), adam, loss, micro_batches=2)
    carry = step.init(consts)
    _, losses = torchopt.unroll(step, carry, batches(), consts, backward=Recomputed())
    wanted = list(consts.values())
    rows = [torch.autograd.grad(x, wanted, retain_graph=True, allow_unused=True) for x in losses]
    found = torch.autograd.grad(
        losses, wanted, torch.eye(LENGTH, dtype=DTYPE), is_grads_batched=True, allow_unused=True
    )
    zeros = [[torch.zeros_like(w) if g is None else g for w, g in zip(wanted, r)] for r in rows]
    assert_equal(list(found), [torch.stack(column) for column in zip(*zeros)])


@pytest.mark.parametrize('backward', [Recomputed(), Snapshots(2)], ids=str)
def test_in_a_loop_whose_step_is_a_loop(backward: Strategy) -> None:
    """The inner loop is part of a gradient that the outer step takes."""
    net, xs = Net(), batches()

    def meta_gradients_of(mode: Strategy, number: int) -> list[torch.Tensor]:
        inner = ModuleStep(net, torchopt.sgd(0.1), loss, micro_batches=number)
        start = inner.init()._replace(params={n: p.detach() for n, p in net.named_parameters()})

        def inner_loss(weights: torch.Tensor) -> torch.Tensor:
            end, _ = torchopt.unroll(inner, start, xs, {'weights': weights})
            total: torch.Tensor = sum(p.square().sum() for p in end.params.values())
            return total

        def step(weights: torch.Tensor, _: Any, rate: torch.Tensor) -> Any:
            return weights - rate * torchopt.unrolling.grad(inner_loss)(weights), None

        weights, rate = make_consts().values()
        end, _ = torchopt.unroll(step, weights, None, rate, length=2, backward=mode)
        return list(torch.autograd.grad(end.square().sum(), [weights, rate]))

    assert_equal(meta_gradients_of(backward, 2), meta_gradients_of(Stored(), 1))


@pytest.mark.parametrize(
    'number, error, match',
    [
        (2.0, TypeError, 'micro_batches must be an integer, got float'),
        (True, TypeError, 'micro_batches must be an integer, got bool'),
        (0, ValueError, 'micro_batches must be at least 1, got 0'),
    ],
)
def test_numbers_that_are_none(number: Any, error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        ModuleStep(Net(), adam, loss, micro_batches=number)


@pytest.mark.parametrize(
    'change, match',
    [
        ({'images': torch.ones(LENGTH, 4, 3)}, r'sizes differ: \[4, 8\]\. Pass .* through consts'),
        ({'images': None, 'indices': None}, 'x has no tensor with a dimension'),
        ({}, r'a batch of 8 examples has no 3 equal parts'),
    ],
)
def test_batches_that_cannot_be_split(change: Any, match: str) -> None:
    step = ModuleStep(Net(), adam, loss, micro_batches=3)
    consts = make_consts()
    with pytest.raises(ValueError, match=match):
        torchopt.unroll(step, step.init(consts), {**batches(), **change}, consts)


def test_how_it_is_printed() -> None:
    step = ModuleStep(Net(), torchopt.sgd(0.1), loss, micro_batches=4)
    assert repr(step) == f'ModuleStep(Net, {torchopt.sgd(0.1)!r}, loss, micro_batches=4)'


@pytest.mark.parametrize(
    'backward',
    [Recomputed(), Recomputed(keep_gradients=True), Snapshots(2), Truncated(2, Recomputed())],
    ids=str,
)
def test_the_peak_is_the_graph_of_one_part(backward: Strategy) -> None:
    """Activations outweigh parameters here; the rest is what does not depend on the batch."""
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for _ in range(4):
        layers += [nn.Linear(16, 16), nn.Tanh()]
    net = nn.Sequential(*layers)
    xs = torch.randn(4, 512, 16)

    def fn(net: Any, x: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        return (weights * net(x).square().sum(-1).mean()).sum()

    peaks = {}
    for number in (1, 2, 8):
        weights = torch.ones(1, requires_grad=True)
        step = ModuleStep(net, torchopt.sgd(0.1), fn, micro_batches=number)
        carry = step.init()
        with LiveBytes() as live:
            end, _ = torchopt.unroll(step, carry, xs, weights, backward=backward)
            sum(p.square().sum() for p in end.params.values()).backward()
            peaks[number] = live.peak
    assert peaks[2] < 0.62 * peaks[1]
    assert peaks[8] < 0.3 * peaks[1]


@pytest.mark.parametrize('backward', [Recomputed(), Recomputed(keep_gradients=True)], ids=str)
def test_a_captured_tensor_is_named(backward: Strategy) -> None:
    captured = torch.ones((), dtype=DTYPE, requires_grad=True)

    def fn(net: Any, x: Any, consts: Any) -> torch.Tensor:
        return captured * loss(net, x, consts)

    step = ModuleStep(Net(), torchopt.sgd(0.1), fn, micro_batches=2)
    with pytest.raises(RuntimeError, match=r'lost: .*captured \(a tensor of shape \(\)'):
        torchopt.unroll(step, step.init(), batches(), make_consts(), backward=backward)
