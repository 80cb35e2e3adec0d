"""A vector with one number per parameter, and the entries that a plain optimizer's state holds."""

from __future__ import annotations

import pytest
import torch

from torchopt.authoring.numbers import joined, lie_in

CPU = torch.device('cpu')
VECTOR = torch.arange(4, dtype=torch.float64)


def test_a_graph_is_kept() -> None:
    vector = VECTOR.clone().requires_grad_()
    made = joined(vector.unbind(), torch.float64, CPU)
    assert torch.equal(torch.autograd.grad(made.sum(), vector)[0], torch.ones(4).double())


def test_entries_side_by_side_are_the_vector() -> None:
    vector = VECTOR.clone()
    same = joined(vector.unbind(), torch.float64, CPU)
    assert torch.equal(same, vector) and same.data_ptr() == vector.data_ptr()
    assert lie_in(vector, vector.unbind())
    rest = joined(vector.unbind()[1:3], torch.float64, CPU)
    rest += 5
    assert vector.tolist() == [0, 6, 7, 3]


OTHERS = {
    'another order': lambda x: [x[1], x[0], x[2], x[3]],
    'gaps': lambda x: [x[0], x[2]],
    'a copy among them': lambda x: [x[0], x[1].clone(), x[2], x[3]],
    'copies': lambda x: [x[0].clone(), x[1].clone()],
    'beyond the end of the memory': lambda x: [x[3], x[0]],
    'numbers of Python': lambda x: [1.0, 2.0],
    'another dtype': lambda x: x.float().unbind(),
    'none': lambda x: [],
}


@pytest.mark.parametrize('other', OTHERS.values(), ids=OTHERS)
def test_other_numbers_are_copied(other: object) -> None:
    vector = VECTOR.clone()
    numbers = other(vector)  # type: ignore[operator]
    made = joined(numbers, torch.float64, CPU)
    assert made.tolist() == [float(number) for number in numbers]
    assert made.dtype == torch.float64
    made += 5
    assert torch.equal(vector, VECTOR)
