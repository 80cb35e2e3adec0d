"""Fixtures of this package's tests."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from support.modules import Net, StandIn


@pytest.fixture
def net() -> Net:
    torch.manual_seed(0)
    return Net().double()


@pytest.fixture
def linear() -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(2, 1).double()


@pytest.fixture
def optimizer(linear: nn.Linear) -> StandIn:
    return StandIn(linear)


@pytest.fixture
def x() -> torch.Tensor:
    return torch.tensor([[1.0, 2.0], [3.0, -1.0], [0.5, 0.25]], dtype=torch.float64)
