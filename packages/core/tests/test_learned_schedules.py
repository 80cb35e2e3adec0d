"""Every number of a schedule can be learned."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import torchopt


def learned(numbers: list[float]) -> list[torch.Tensor]:
    return [torch.tensor(n, dtype=torch.float64, requires_grad=True) for n in numbers]


@pytest.mark.parametrize(
    ('make', 'numbers'),
    [
        (torchopt.constant_schedule, [0.3]),
        (torchopt.polynomial_schedule, [1.0, 0.2, 1.5, 5.3, 0.4]),
        (lambda v, steps, begin, r: torchopt.exponential_decay(v, steps, r, begin),
         [1.0, 2.3, 0.4, 0.7]),
        (lambda v, r, end: torchopt.exponential_decay(v, 2, r, end_value=end), [1.0, 0.6, 0.3]),
        (torchopt.cosine_decay_schedule, [1.0, 5.3, 0.2, 1.5]),
        (torchopt.warmup_constant_schedule, [0.1, 1.0, 2.3]),
        (torchopt.warmup_linear_decay_schedule, [0.1, 1.0, 2.3, 5.7, 0.3]),
        (torchopt.warmup_cosine_decay_schedule, [0.1, 1.0, 2.3, 5.7, 0.3, 1.5]),
        (torchopt.warmup_exponential_decay_schedule, [0.1, 1.0, 2.3, 1.7, 0.6, 0.2]),
        (lambda v, a, n, m: torchopt.sgdr_schedule([
            {'init_value': v, 'peak_value': a, 'warmup_steps': 1, 'decay_steps': n},
            {'init_value': a, 'peak_value': v, 'warmup_steps': m, 'decay_steps': 3},
        ]), [0.3, 1.0, 3.4, 1.3]),
        (lambda v, a, b: torchopt.piecewise_constant_schedule(v, {2: a, 4: b}), [1.0, 0.5, 0.3]),
        (lambda v, a, b: torchopt.piecewise_interpolate_schedule('cosine', v, {2: a, 4: b}),
         [1.0, 0.5, 0.3]),
        (lambda p, d, f: torchopt.linear_onecycle_schedule(7, p, div_factor=d, final_div_factor=f),
         [1.0, 5.0, 20.0]),
        (lambda p, d, f: torchopt.cosine_onecycle_schedule(7, p, div_factor=d, final_div_factor=f),
         [1.0, 5.0, 20.0]),
    ],
)  # fmt: skip
def test_every_number_can_be_learned(make: Any, numbers: list[float]) -> None:
    def values(*tensors: torch.Tensor) -> torch.Tensor:
        return torch.stack([make(*tensors)(t) for t in range(8)])

    inputs = learned(numbers)
    assert torch.autograd.gradcheck(values, inputs)
    grads = torch.autograd.grad(values(*inputs).square().sum(), inputs)
    assert all(grad.abs() > 0 for grad in grads)


@pytest.mark.parametrize('make', [torchopt.polynomial_schedule, torchopt.cosine_decay_schedule])
@pytest.mark.parametrize('power', [0.5, 1.0, 2.0])
def test_derivatives_are_finite_where_a_schedule_has_ended(make: Any, power: float) -> None:
    is_polynomial = make is torchopt.polynomial_schedule
    inputs = learned([1.0, 0.1, power, 5.0] if is_polynomial else [1.0, 5.0, 0.1, power])
    for count in (0, 4, 5, 6):
        firsts = torch.autograd.grad(make(*inputs)(count), inputs, create_graph=True)
        seconds = torch.autograd.grad(sum(firsts), inputs, materialize_grads=True)
        assert all(value.isfinite() for value in (*firsts, *seconds))
