"""Steps on fake tensors, with which the memory of a run can be planned."""

from __future__ import annotations

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

import torchopt
from support.optimizer_cases import CASES, OptimizerCase


@pytest.mark.parametrize('case', CASES, ids=str)
def test_a_transformation_serves_real_and_fake_tensors(case: OptimizerCase) -> None:
    def step(optimizer: torchopt.GradientTransformation) -> torch.Tensor:
        params = [torch.ones(3, dtype=torch.float32)]
        updates, _ = optimizer.update(params, optimizer.init(params), params=params, inplace=False)
        return updates[0]

    made_outside = case.make()
    with FakeTensorMode(allow_non_fake_inputs=False):
        assert step(made_outside).shape == (3,)
        made_inside = case.make()
    assert torch.equal(step(made_inside), step(made_outside))
