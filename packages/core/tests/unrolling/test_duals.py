"""Dual tensors around an unroll: their tangents come through, or their loss is an error."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.autograd import forward_ad

import torchopt
from torchopt.unrolling import ForwardMode, Recomputed, Snapshots, Stored, Strategy, Truncated

MODES = [
    Recomputed(),
    Recomputed(keep_gradients=True),
    Snapshots(2),
    ForwardMode(),
    Truncated(2, Recomputed()),
]
every_mode = pytest.mark.parametrize('backward', MODES, ids=str)


def dual() -> torch.Tensor:
    return forward_ad.make_dual(torch.tensor(0.5), torch.tensor(1.0))


def run(backward: Strategy, captured: torch.Tensor, **arguments: Any) -> torch.Tensor:
    def step(c: Any, x: Any, k: Any) -> Any:
        return c - 0.1 * captured * x * k * c.sin(), None

    given = {'carry': torch.tensor(1.0), 'xs': torch.ones(3), 'consts': torch.tensor(1.0)}
    return torchopt.unroll(step, **{**given, **arguments}, backward=backward)[0]


@every_mode
@pytest.mark.parametrize('place', ['captured', 'xs', 'consts'])
@pytest.mark.parametrize('grad_mode', [True, False])
def test_tangents_that_would_be_lost(backward: Strategy, place: str, grad_mode: bool) -> None:
    with forward_ad.dual_level(), torch.set_grad_enabled(grad_mode):
        arguments = {'captured': torch.tensor(1.0)}
        arguments[place] = dual().expand(3) if place == 'xs' else dual()
        match = r'depends on a dual tensor.*captured \(' if place == 'captured' else 'dual tensors'
        with pytest.raises(RuntimeError, match=rf'{match}.*Stored\(\)'):
            run(backward, **arguments)
        plain = run(Stored(), **arguments)
        assert forward_ad.unpack_dual(plain).tangent is not None


@pytest.mark.parametrize('backward', MODES[:-1], ids=str)
def test_a_dual_carry(backward: Strategy) -> None:
    with forward_ad.dual_level(), pytest.raises(RuntimeError, match='dual tensors'):
        run(backward, torch.tensor(1.0), carry=dual())


def test_under_vmap() -> None:
    with forward_ad.dual_level():
        captured = dual()

        def mapped(c: torch.Tensor) -> torch.Tensor:
            return run(Recomputed(), captured, carry=c)

        with pytest.raises(RuntimeError, match='depends on a dual tensor'):
            torch.vmap(mapped)(torch.ones(2))


@pytest.mark.parametrize('backward', [mode for mode in MODES if mode != ForwardMode()], ids=str)
def test_a_level_without_duals_changes_nothing(backward: Strategy) -> None:
    k = torch.tensor(0.5, requires_grad=True)
    expected = torch.autograd.grad(run(backward, torch.tensor(1.0), consts=k), k)
    with forward_ad.dual_level():
        found = torch.autograd.grad(run(backward, torch.tensor(1.0), consts=k), k)
    assert found == expected


def test_without_the_name_that_lets_tangents_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched, forward_ad.dual_level():
        patched.delattr(torch._C, '_set_fwd_grad_enabled')
        with pytest.raises(RuntimeError, match='dual tensors'):
            run(Recomputed(), torch.tensor(1.0))
