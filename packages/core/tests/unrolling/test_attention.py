"""Attention in an inner loss: second derivatives, and autocast."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

import torchopt
from torchopt import unrolling
from torchopt.unrolling import ModuleStep, Recomputed, Snapshots, Stored, Strategy
from torchopt.unrolling.inner_gradients.attention import attention

MODES: list[Strategy] = [
    Stored(),
    Recomputed(),
    Recomputed(keep_gradients=True),
    Recomputed(keep_gradients=True, order='forward-over-reverse'),
    Snapshots(1),
]
every_mode = pytest.mark.parametrize('backward', MODES, ids=str)
LOWER = torch.ones(5, 5, dtype=torch.bool).tril()


@pytest.mark.parametrize('dtype', [torch.float64, torch.bfloat16])
@pytest.mark.parametrize(
    'options',
    [
        {},
        {'is_causal': True},
        {'attn_mask': LOWER},
        {'attn_mask': torch.linspace(-1, 1, 25).view(5, 5)},
        {'attn_mask': LOWER & LOWER.roll(1, 0)},  # the first query may look at nothing
        {'scale': 0.3},
        {'scale': -0.3},
        pytest.param({'enable_gqa': True}, marks=pytest.mark.newer_torch),
    ],
    ids=str,
)
def test_the_same_as_torch(options: dict[str, Any], dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    heads = 2 if options.get('enable_gqa') else 4
    query = torch.randn(2, 4, 5, 8, dtype=dtype)
    key, value = torch.randn(2, 2, heads, 5, 8, dtype=dtype)
    mask = options.get('attn_mask')
    if mask is not None and mask.dtype != torch.bool:
        options = {'attn_mask': mask.to(dtype)}

    def results(fn: Any) -> Any:
        inputs = [tensor.clone().requires_grad_() for tensor in (query, key, value)]
        with sdpa_kernel(SDPBackend.MATH):
            out = fn(*inputs, **options)
        return [out, *torch.autograd.grad(out.float().square().sum(), inputs)]

    close = {} if dtype == torch.float64 else {'rtol': 5e-2, 'atol': 5e-2}
    found, expected = results(attention), results(F.scaled_dot_product_attention)
    torch.testing.assert_close(found, expected, **close)
    assert all(tensor.isfinite().all() for tensor in found)


def test_dropout_and_arguments() -> None:
    torch.manual_seed(0)
    eye = torch.eye(64).expand(1, 64, 64)
    out = attention(torch.zeros(1, 64, 64), torch.zeros(1, 64, 64), eye, dropout_p=0.25)
    assert 0.2 < (out == 0).float().mean() < 0.3
    torch.testing.assert_close(out.max(), torch.tensor(1 / 64 / 0.75))
    with pytest.raises(ValueError, match='not both'):
        attention(eye, eye, eye, attn_mask=torch.ones(64, 64), is_causal=True)


class Heads(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.into, self.out = nn.Linear(8, 24), nn.Linear(8, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = self.into(x).view(*x.shape[:2], 3, 2, 4).permute(2, 0, 3, 1, 4)
        hidden = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        out: torch.Tensor = self.out(hidden.transpose(1, 2).flatten(2))
        return out


class Encoder(nn.Module):
    """``nn.MultiheadAttention`` does not ask for its weights here."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
        self.out = nn.Linear(8, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.out(self.layer(x))
        return out


def gradient(kind: type[nn.Module], backward: Strategy, cast: bool, plain: bool) -> torch.Tensor:
    torch.manual_seed(0)
    net, xs = kind(), torch.randn(3, 2, 5, 8)
    weights = torch.linspace(0.5, 1.5, 10).view(2, 5, 1).requires_grad_()

    def loss(net: Any, x: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        with torch.autocast('cpu', dtype=torch.bfloat16, enabled=cast):
            return (weights * net(x).float().square()).mean()

    if plain:
        params = dict(net.named_parameters())

        def step(params: Any, x: torch.Tensor, weights: torch.Tensor) -> Any:
            def value(params: Any, x: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
                call = torch.func.functional_call
                return loss(lambda x: call(net, params, (x,)), x, weights)

            found = unrolling.grad(value)(params, x, weights)
            return {name: p - 0.1 * found[name] for name, p in params.items()}, None

        end, _ = torchopt.unroll(step, params, xs, weights, backward=backward)
    else:
        inner = ModuleStep(net, torchopt.sgd(0.1), loss)
        carry, _ = torchopt.unroll(inner, inner.init(), xs, weights, backward=backward)
        end = carry.params
    outer = sum(p.square().sum() for p in end.values())
    return torch.autograd.grad(outer, weights)[0]


def by_hand(kind: type[nn.Module]) -> torch.Tensor:
    """The same in float32 with torch's own composition, without a transform."""
    torch.manual_seed(0)
    net, xs = kind(), torch.randn(3, 2, 5, 8)
    weights = torch.linspace(0.5, 1.5, 10).view(2, 5, 1).requires_grad_()
    params = dict(net.named_parameters())
    for x in xs:
        with sdpa_kernel(SDPBackend.MATH):
            out = torch.func.functional_call(net, params, (x,))
        value = (weights * out.square()).mean()
        found = torch.autograd.grad(value, list(params.values()), create_graph=True)
        params = {name: p - 0.1 * g for (name, p), g in zip(params.items(), found)}
    outer = sum(p.square().sum() for p in params.values())
    return torch.autograd.grad(outer, weights)[0]


@every_mode
@pytest.mark.parametrize('kind', [Heads, Encoder])
@pytest.mark.parametrize('plain', [False, True])
def test_a_second_derivative(kind: type[nn.Module], backward: Strategy, plain: bool) -> None:
    found = gradient(kind, backward, cast=False, plain=plain)
    torch.testing.assert_close(found, by_hand(kind), rtol=1e-3, atol=1e-6)


@every_mode
@pytest.mark.parametrize('kind', [Heads, Encoder])
@pytest.mark.parametrize('plain', [False, True])
def test_autocast_in_the_loss(kind: type[nn.Module], backward: Strategy, plain: bool) -> None:
    found, expected = gradient(kind, backward, cast=True, plain=plain), by_hand(kind)
    # bfloat16 has 8 bits.
    assert (found - expected).norm() < 0.1 * expected.norm()
    assert not torch.equal(found, expected)
