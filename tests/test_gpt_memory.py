"""The memory of a large model's meta-gradient, computed on fake tensors: nothing is run."""

from __future__ import annotations

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

import torchopt
from support.language_model import LanguageModel
from support.live_bytes import LiveBytes
from torchopt.unrolling import ModuleStep, Recomputed, Snapshots, Strategy, remat

pytestmark = [
    pytest.mark.slow,
    # unroll watches where captured tensors lie, which fake ones do only under protest.
    pytest.mark.filterwarnings('ignore:Accessing the data pointer of FakeTensor'),
]
GIB = 2**30
TEXTS, TOKENS = 4, 1024


def peak(length: int, backward: Strategy) -> float:
    """GiB for the gradient of GPT-2 small's last loss by the weights of all steps."""
    # The states of random number generators are real.
    with FakeTensorMode(allow_non_fake_inputs=True), LiveBytes() as memory:
        net = LanguageModel(12, 768, 12, 50257, TOKENS, wrap=remat)
        texts = torch.zeros(length, TEXTS, TOKENS + 1, dtype=torch.int64)
        weights = torch.ones(length, requires_grad=True)

        def loss(net: LanguageModel, x: dict[str, torch.Tensor], _: None) -> torch.Tensor:
            return x['weights'] * net(x['texts'])

        inner = ModuleStep(net, torchopt.adamw(1e-4), loss)
        xs = {'texts': texts, 'weights': weights}
        _, losses = torchopt.unroll(inner, inner.init(), xs, backward=backward)
        torch.autograd.grad(losses[-1], weights)
    return memory.peak / GIB


def test_one_step() -> None:
    """Without ``remat`` it is 16 GiB."""
    assert peak(1, Recomputed()) <= 8


def test_eight_steps() -> None:
    assert peak(8, Snapshots(4)) <= 16
