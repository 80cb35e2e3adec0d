"""Steps notice torch's modes and transforms, even in a torch without today's private names."""

from __future__ import annotations

import functools
from collections.abc import Callable

import pytest
import torch
from torch.autograd import forward_ad
from torch.utils import dlpack

import torchopt
from torchopt.authoring import torch_internals
from torchopt_accel import internals, kernels

pytestmark = pytest.mark.newer_torch

NAMES = {
    'forward_mode': (forward_ad, '_current_level'),
    'transforming': (torch._C, '_are_functorch_transforms_active'),
    'old_vmap': (torch._C, '_dispatch_tls_is_dispatch_key_included'),
    'dispatching': (torch._C, '_len_torch_dispatch_stack'),
}
ONE = torch.tensor([1.0, -2.0], dtype=torch.float64)


def forget(monkeypatch: pytest.MonkeyPatch, mode: str) -> None:
    """Hide a private name, as if torch had never had it.

    Its own calls need the name, so that only the module that asks is shown a torch without it.
    """

    class Without:
        def __init__(self, module: object, name: str) -> None:
            self._module, self._name = module, name

        def __getattr__(self, name: str) -> object:
            if name == self._name:
                raise AttributeError(name)
            return getattr(self._module, name)

    module, name = NAMES[mode]
    if module is forward_ad:
        monkeypatch.setattr(internals, 'forward_ad', Without(module, name))
    else:
        torch_without = Without(torch, '_C')
        torch_without._C = Without(module, name)  # type: ignore[attr-defined]
        asking = torch_internals if mode == 'transforming' else internals
        monkeypatch.setattr(asking, 'torch', torch_without)


@pytest.fixture(params=['now', 'forward_mode', 'transforming', 'dispatching'])
def future_torch(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param != 'now':
        forget(monkeypatch, request.param)


def step(gradient: torch.Tensor, *, accelerated: bool = True) -> torch.Tensor:
    optimizer = torchopt.adam(0.1, eps_root=1e-3, use_accelerated_op=accelerated)
    (update,), _ = optimizer.update([gradient], optimizer.init([gradient]), inplace=False)
    return update


@pytest.mark.parametrize('mode', NAMES)
def test_torch_has_the_names(mode: str) -> None:
    module, name = NAMES[mode]
    assert hasattr(module, name), f'internals.{mode} needs another way'


@pytest.mark.usefixtures('future_torch')
@pytest.mark.parametrize(
    'transform',
    [
        lambda f: f(ONE),
        lambda f: torch.func.grad(lambda x: f(x).sum())(ONE),
        lambda f: torch.func.jvp(f, (ONE,), (ONE,))[1],
        lambda f: torch.vmap(f)(torch.stack([ONE, -ONE])),
        lambda f: torch.func.hessian(lambda x: f(x).sum())(ONE),
    ],
    ids=['plain', 'grad', 'jvp', 'vmap', 'hessian'],
)
def test_transforms(transform: Callable[[Callable[..., torch.Tensor]], torch.Tensor]) -> None:
    composite = functools.partial(step, accelerated=False)
    torch.testing.assert_close(transform(step), transform(composite), rtol=1e-12, atol=1e-12)


@pytest.mark.usefixtures('future_torch')
def test_first_order_stays_fused(launches: list[str]) -> None:
    gradient = ONE.clone().requires_grad_()
    step(gradient).sum().backward()
    assert launches == ['adam', 'adam_backward']


def test_unknown_batches_raise(monkeypatch: pytest.MonkeyPatch) -> None:
    forget(monkeypatch, 'old_vmap')
    gradient = ONE.clone().requires_grad_()
    with pytest.raises(RuntimeError):
        torch.autograd.grad(step(gradient), gradient, torch.eye(2).double(), is_grads_batched=True)


def test_results_come_through_the_public_function_too(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = step(ONE)
    monkeypatch.setattr(kernels, 'from_dlpack', dlpack.from_dlpack)
    assert torch.equal(step(ONE), expected)
