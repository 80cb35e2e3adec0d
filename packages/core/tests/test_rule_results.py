"""What the rule of an author must return: a mistake there raises, instead of being broadcast."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch

from torchopt.authoring.per_tensor import elementwise


class AverageState(NamedTuple):
    average: Any


@pytest.mark.parametrize('inplace', [True, False])
@pytest.mark.parametrize(
    ('rule', 'error', 'match'),
    [
        # As many entries as results: taken apart, it would look right.
        (lambda g, average: g.tanh(), TypeError, r'2 in all, got a tensor of shape \(2,\)'),
        (lambda g, average: (g,), TypeError, '2 in all, got 1'),
        (lambda g, average: None, TypeError, '2 in all, got None'),
        (lambda g, average: (g.sum(), average), ValueError, r'\(2,\), got a tensor of shape \(\)'),
        (lambda g, average: (g, average[:1]), ValueError, r'\(2,\), got a tensor of shape \(1,\)'),
        (lambda g, average: (g, 0.0), ValueError, r'\(2,\), got float 0.0'),
    ],
)
def test_wrong_results_raise_and_change_nothing(
    rule: Callable[..., Any], error: type[Exception], match: str, inplace: bool
) -> None:
    optimizer = elementwise(AverageState, rule)
    gradient = {'w': torch.tensor([1.0, 2.0])}
    state = optimizer.init(gradient)
    with pytest.raises(error, match=match):
        optimizer.update(gradient, state, inplace=inplace)
    assert torch.equal(gradient['w'], torch.tensor([1.0, 2.0]))
    assert torch.equal(state.average['w'], torch.zeros(2))


def test_a_list_of_results_is_taken() -> None:
    optimizer = elementwise(AverageState, lambda g, average: [g + average, g])  # type: ignore[arg-type, return-value]
    gradient = torch.ones(2)
    update, state = optimizer.update(gradient, optimizer.init(gradient), inplace=False)
    assert torch.equal(update, gradient) and torch.equal(state.average, gradient)


def test_a_rule_that_changes_the_shape_of_some_tensors_only() -> None:
    def rule(g: torch.Tensor, average: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return g, average + g.mean(-1) if g.dim() == 1 else g.mean(-1)

    optimizer = elementwise(AverageState, rule)
    gradients = [torch.ones(2), torch.ones(2, 2)]
    state = optimizer.init(gradients)
    with pytest.raises(ValueError, match=r'of shape \(2,\) into a tensor of shape \(2, 2\)'):
        optimizer.update(gradients, state)
    _, state = optimizer.update(gradients, state, inplace=False)
    with pytest.raises(ValueError, match='does not fit'):
        optimizer.update(gradients, state, inplace=False)
