"""On a GPU, a step never waits for the device, and gives the same result as on the CPU."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import torchopt
from support.block_cases import BLOCKS, BlockCase
from support.gpu import waiting_raises
from support.optimizer_cases import CASES, OptimizerCase
from support.trees import assert_trees_close, copied, sample_gradients, sample_params
from torchopt import pytree

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a GPU'),
]

every_case = pytest.mark.parametrize('case', [*CASES, *BLOCKS], ids=str)


def on(device: str, tree: Any) -> Any:
    return pytree.tree_map(lambda x: x.to(device), tree)


def after_three_steps(case: OptimizerCase | BlockCase, params: Any, gradients: list[Any]) -> Any:
    optimizer = torchopt.chain(torchopt.clip_grad_norm(1.0), case.make())
    state = optimizer.init(params)
    for inplace, grads in zip((False, True, False), gradients):
        updates, state = optimizer.update(grads, state, params=params, inplace=inplace)
        params = torchopt.apply_updates(params, updates, inplace=inplace)
    return params


@every_case
def test_steps_do_not_wait_and_equal_steps_on_the_cpu(case: OptimizerCase | BlockCase) -> None:
    params = sample_params()
    gradients = [sample_gradients(params, step, sparse=True) for step in range(3)]
    on_device = on('cuda', (params, gradients))
    with waiting_raises():
        found = after_three_steps(case, *on_device)
    expected = after_three_steps(case, *copied((params, gradients)))
    assert_trees_close(on('cpu', found), expected)


@every_case
def test_meta_gradients_do_not_wait(case: OptimizerCase | BlockCase) -> None:
    net = torch.nn.Linear(3, 2, device='cuda')
    x = torch.randn(4, 3, device='cuda')
    optimizer = torchopt.MetaOptimizer(net, case.make())
    start = list(net.parameters())
    with waiting_raises():
        for _ in range(3):
            optimizer.step(net(x).square().mean())
        torch.autograd.grad(net(x).square().mean(), start)
