"""An unroll to differentiate: a small regression, trained with learned hyperparameters."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch

import torchopt
from support.trees import generator
from torchopt import unrolling

DTYPE = torch.float64
Optimizer = Callable[[torch.Tensor], torchopt.GradientTransformation]


def sgd(lr: torch.Tensor) -> torchopt.GradientTransformation:
    return torchopt.sgd(lr, momentum=0.9)


class Problem(NamedTuple):
    """Arguments of ``unroll``, and the tensors whose gradients are wanted."""

    step: Callable[[Any, Any, Any], tuple[Any, Any]]
    carry: Any
    xs: Any
    consts: Any
    wanted: list[torch.Tensor]

    def run(self, backward: unrolling.Strategy, **options: Any) -> tuple[Any, Any]:
        return torchopt.unroll(
            self.step, self.carry, self.xs, self.consts, backward=backward, **options
        )

    def outer_loss(self, backward: unrolling.Strategy, **options: Any) -> torch.Tensor:
        """A loss that depends on all results."""
        (params, _, _), ys = self.run(backward, **options)
        fit = params['weight'].square().sum() + 3 * params['bias'].sum()
        return fit if ys is None else fit + ys['loss'].square().sum()

    def gradients(self, backward: unrolling.Strategy, **options: Any) -> list[torch.Tensor]:
        """The meta-gradients, with zeros where there are none."""
        found = torch.autograd.grad(
            self.outer_loss(backward, **options), self.wanted, allow_unused=True
        )
        return [
            torch.zeros_like(x) if g is None else g for x, g in zip(self.wanted, found, strict=True)
        ]


def inner_loss(params: Any, x: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    outputs = torch.tanh(x @ params['weight'] + params['bias'])
    return (outputs.sum(-1).square() * weights).mean()


def problem(
    optimizer: Optimizer = sgd,
    length: int = 6,
    *,
    counter: Any = 0,
    gradient: Callable[..., Any] = unrolling.grad_and_value,
) -> Problem:
    """A problem whose carry holds parameters, one of them absent, a state and a count."""
    source = generator(length)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=source, dtype=DTYPE).requires_grad_()

    params = {'weight': normal(3, 2), 'bias': normal(2), 'absent': None}
    xs = {'x': normal(length, 4, 3), 'nothing': None}
    consts = {
        'lr': torch.tensor(0.05, dtype=DTYPE, requires_grad=True),
        'weights': normal(4).detach().abs().requires_grad_(),
        'power': 1.0,
    }

    def step(carry: Any, x: Any, consts: Any) -> Any:
        params, state, count = carry
        trained = {name: leaf for name, leaf in params.items() if leaf is not None}
        gradients, loss = gradient(inner_loss)(trained, x['x'], consts['weights'])
        gradients = {**gradients, 'absent': None}
        updates, state = optimizer(consts['lr']).update(
            gradients, state, params=params, inplace=False
        )
        params = torchopt.apply_updates(params, updates, inplace=False)
        return (params, state, count + 1), {'loss': loss ** consts['power'], 'nothing': None}

    carry = (params, optimizer(consts['lr'].detach()).init(params), counter)
    wanted = [params['weight'], params['bias'], xs['x'], consts['lr'], consts['weights']]
    return Problem(step, carry, xs, consts, wanted)


def assert_equal(found: list[torch.Tensor], expected: list[torch.Tensor]) -> None:
    """Assert equality up to rounding."""
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)
