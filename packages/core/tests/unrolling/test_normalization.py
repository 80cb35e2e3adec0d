"""Normalization in an inner loss under ``torch.vmap``: the meta-gradient is each task's own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.func import functional_call
from torch.nn import functional as F

import torchopt
from torchopt import unrolling
from torchopt.unrolling import (
    ForwardMode,
    ModuleStep,
    Recomputed,
    Snapshots,
    Stored,
    Strategy,
    Truncated,
)
from torchopt.unrolling.inner_gradients.normalization import SeparateAffine

DTYPE = torch.float64
NORMS = {
    'batch': lambda: nn.BatchNorm1d(4, track_running_stats=False),
    'batch of images': lambda: nn.BatchNorm2d(4, track_running_stats=False),
    'layer': lambda: nn.LayerNorm(4),
    'layer without bias': lambda: nn.LayerNorm(4, bias=False),
    'instance': lambda: nn.InstanceNorm1d(4, affine=True),
    'group': lambda: nn.GroupNorm(2, 4),
}
SHAPES = {'batch of images': (2, 4, 3, 1), 'instance': (2, 4, 3)}
MODES: list[Strategy] = [Stored(), Recomputed(), Snapshots(1), Truncated(2), ForwardMode()]
Loss = Callable[[dict[str, torch.Tensor], torch.Tensor], torch.Tensor]


def make(name: str) -> tuple[Loss, dict[str, torch.Tensor], torch.Tensor]:
    """Return an inner loss, parameters, and the data of three tasks."""
    torch.manual_seed(0)
    norm, shape = NORMS[name]().to(DTYPE), SHAPES.get(name, (6, 4))
    params = {key: torch.rand_like(param) + 0.5 for key, param in norm.named_parameters()}
    params['scale'] = torch.rand(shape[1:], dtype=DTYPE) + 0.5

    def loss(params: dict[str, torch.Tensor], x: torch.Tensor) -> torch.Tensor:
        own = {key: param for key, param in params.items() if key != 'scale'}
        out = functional_call(norm, own, (torch.tanh(x * params['scale']),))
        return (out - 1).pow(3).mean()

    return loss, params, torch.randn(3, *shape, dtype=DTYPE)


def after_steps(loss: Loss, backward: Strategy, grad: Any = unrolling.grad) -> Loss:
    def step(
        params: dict[str, torch.Tensor], _: None, x: torch.Tensor
    ) -> tuple[dict[str, torch.Tensor], None]:
        gradients = grad(loss)(params, x)
        return {key: params[key] - 0.3 * gradients[key] for key in params}, None

    def trained_loss(params: dict[str, torch.Tensor], x: torch.Tensor) -> torch.Tensor:
        params, _ = torchopt.unroll(step, params, consts=x, length=2, backward=backward)
        return loss(params, x)

    return trained_loss


def gradient_of(
    loss: Callable[[dict[str, torch.Tensor]], torch.Tensor], params: dict[str, torch.Tensor]
) -> dict[str, torch.Tensor]:
    leaves = {key: param.detach().requires_grad_() for key, param in params.items()}
    return dict(zip(leaves, torch.autograd.grad(loss(leaves), list(leaves.values()))))


@pytest.mark.parametrize('grad', [unrolling.grad, torch.func.grad], ids=['ours', 'torchs'])
@pytest.mark.parametrize('backward', MODES, ids=str)
@pytest.mark.parametrize('name', NORMS)
def test_tasks_under_vmap_equal_tasks_in_a_loop(name: str, backward: Strategy, grad: Any) -> None:
    loss, params, x = make(name)
    one = after_steps(loss, backward, grad)
    expected = gradient_of(
        lambda params: torch.stack([after_steps(loss, Stored())(params, each) for each in x]).sum(),
        params,
    )
    found = gradient_of(lambda params: torch.vmap(one, (None, 0))(params, x).sum(), params)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


def test_around_vmap_by_torch_func() -> None:
    """``torch.func.grad`` outside, our ``grad`` inside."""
    loss, params, x = make('layer')
    one = after_steps(loss, Stored())
    found = torch.func.grad(lambda params: torch.vmap(one, (None, 0))(params, x).sum())(params)
    expected = gradient_of(
        lambda params: torch.stack([one(params, each) for each in x]).sum(), params
    )
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


def test_torch_alone_is_wrong_there() -> None:
    """When this fails, torch is mended, and what the pages say about it can go."""
    loss, params, x = make('layer')

    def trained_loss(params: dict[str, torch.Tensor], x: torch.Tensor) -> torch.Tensor:
        gradients = torch.func.grad(loss)(params, x)
        return loss({key: params[key] - 0.3 * gradients[key] for key in params}, x)

    outside = torch.func.grad(lambda p: torch.vmap(trained_loss, (None, 0))(p, x).sum())(params)
    inside = torch.vmap(torch.func.grad(trained_loss), (None, 0))(params, x)
    expected = gradient_of(
        lambda params: torch.stack([trained_loss(params, each) for each in x]).sum(), params
    )
    for key, right in expected.items():
        torch.testing.assert_close(inside[key].sum(0), right)
    assert not torch.allclose(outside['scale'], expected['scale'], rtol=1e-3)


@pytest.mark.parametrize('arguments', [(), ('weight',), ('weight', 'bias')], ids=str)
@pytest.mark.parametrize('name', ['batch', 'layer', 'instance'])
def test_values_are_torchs(name: str, arguments: tuple[str, ...]) -> None:
    torch.manual_seed(0)
    x, affine = torch.randn(3, 2, 4, 5, dtype=DTYPE), torch.rand(2, 5, dtype=DTYPE)
    size = 5 if name == 'layer' else 4
    given: dict[str, Any] = dict(zip(arguments, affine[:, :size]))
    calls: dict[str, Callable[..., torch.Tensor]] = {
        'batch': lambda x, **affine: F.batch_norm(x, None, None, training=True, **affine),
        'layer': lambda x, **affine: F.layer_norm(x, (5,), eps=1e-3, **affine),
        'instance': lambda x, **affine: F.instance_norm(x, eps=1e-3, **affine),
    }

    def loss(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        out = calls[name](x, **given)
        return out.square().sum(), out

    (_, out) = torch.vmap(unrolling.grad(loss, has_aux=True))(x)
    expected = torch.stack([calls[name](each, **given) for each in x])
    torch.testing.assert_close(out, expected)


@pytest.mark.parametrize('name', ['batch', 'instance'])
def test_16_bit_inputs_stay_16_bit_beside_weights_in_float32(name: str) -> None:
    norm, shape = NORMS[name](), SHAPES.get(name, (6, 4))
    x = torch.randn(shape, dtype=torch.bfloat16)
    with SeparateAffine():
        assert norm(x).dtype == norm.to(torch.bfloat16)(x).dtype == torch.bfloat16


def test_running_averages_are_written() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 1)).to(DTYPE)
    x, weights = torch.randn(2, 3, 8, 3, dtype=DTYPE), torch.ones(8, 1, dtype=DTYPE)
    weights.requires_grad_()

    def averages(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        step = ModuleStep(net, torchopt.sgd(0.1), lambda net, x, w: (w * net(x).square()).mean())
        carry, losses = torchopt.unroll(step, step.init(), x, weights, backward=Recomputed())
        return carry.buffers['1.running_mean'], losses[-1]

    alone = [averages(each) for each in x]
    means, losses = torch.vmap(averages)(x)
    torch.testing.assert_close(means, torch.stack([mean for mean, _ in alone]))
    found, expected = (
        torch.autograd.grad(total, weights)[0]
        for total in (losses.sum(), torch.stack([loss for _, loss in alone]).sum())
    )
    torch.testing.assert_close(found, expected)


@pytest.mark.compile
def test_compiled_steps() -> None:
    loss, params, x = make('layer')
    one = after_steps(loss, Recomputed(compile='aot_eager'), torch.func.grad)
    found = gradient_of(lambda params: torch.vmap(one, (None, 0))(params, x).sum(), params)
    plain = after_steps(loss, Stored())
    expected = gradient_of(
        lambda params: torch.stack([plain(params, each) for each in x]).sum(), params
    )
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.compile
def test_in_one_compiled_graph() -> None:
    loss, params, x = make('layer')
    one = after_steps(loss, Stored())

    def total(params: dict[str, torch.Tensor]) -> torch.Tensor:
        return torch.vmap(one, (None, 0))(params, x).sum()

    compiled = torch.compile(torch.func.grad(total), backend='aot_eager', fullgraph=True)
    torch.testing.assert_close(compiled(params), torch.func.grad(total)(params))
