"""What only a GPU can show: streams, graphs, launches, no waiting, no access out of bounds.

Values, derivatives, layouts and special values on a GPU are in the tests that take a ``device``.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from typing import Any

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

import torchopt
from support.gpu import waiting_raises
from support.optimizer_cases import FUSED_CASES as CASES
from support.optimizer_cases import FUSED_MAIN_CASES as MAIN_CASES
from support.optimizer_cases import OptimizerCase
from support.trees import assert_trees_close, generator
from torchopt import pytree
from torchopt_accel.platform import obstacle

_REASON = obstacle(torch.device('cuda'))
pytestmark = [pytest.mark.cuda, pytest.mark.skipif(bool(_REASON), reason=_REASON)]

FUSED = [case for case in MAIN_CASES if case.has_kernel]
ADAM = next(case for case in FUSED if str(case) == 'adam-defaults')
each_case = pytest.mark.parametrize('case', FUSED, ids=str)


def normal(*shape: int, seed: int = 0, **options: Any) -> torch.Tensor:
    drawn = torch.randn(shape, generator=generator(seed), dtype=torch.float64)
    return drawn.to(**{'device': 'cuda', **options})


def derivative(
    optimizer: torchopt.GradientTransformation, gradients: list[torch.Tensor], *others: torch.Tensor
) -> tuple[Any, Any]:
    """Take two steps; return the result, and its derivatives by ``gradients`` and ``others``."""
    state = optimizer.init(gradients)
    for _ in range(2):
        updates, state = optimizer.update(gradients, state, params=gradients, inplace=False)
    outputs = [*updates, *(x for x in pytree.tree_leaves(state) if x.requires_grad)]
    cotangents = [x.detach().cos() for x in outputs]
    return (updates, state), torch.autograd.grad(outputs, [*gradients, *others], cotangents)


def both(
    case: OptimizerCase, gradients: list[torch.Tensor], *others: torch.Tensor, **options: Any
) -> None:
    """Compare kernels with the composite rule."""
    actual = derivative(case.make(use_accelerated_op=True, **options), gradients, *others)
    expected = derivative(case.make(**options), gradients, *others)
    assert_trees_close(actual, expected, rtol=1e-11, atol=1e-11)


class TestNoWaiting:
    @pytest.mark.parametrize('case', CASES, ids=str)
    def test_steps_and_derivatives(self, case: OptimizerCase) -> None:
        gradients = [normal(3, 2), normal(1025, seed=1)]
        for gradient in gradients:
            gradient.requires_grad_()
        with waiting_raises():
            derivative(case.make(use_accelerated_op=True), gradients)

    @pytest.mark.parametrize('case', CASES, ids=str)
    def test_in_place_with_absent_gradients(self, case: OptimizerCase) -> None:
        params = [normal(3, 2), normal(5), normal(1025)]
        optimizer = case.make(use_accelerated_op=True)
        state = optimizer.init(params)
        with waiting_raises():
            for _ in range(3):
                gradients = [params[0].sin(), None, params[2].sin()]
                updates, state = optimizer.update(gradients, state, params=params)
                params = torchopt.apply_updates(params, updates)

    @each_case
    def test_learning_rates(self, case: OptimizerCase) -> None:
        gradients = [normal(1025).requires_grad_()]
        lr = normal(seed=1).square().requires_grad_()
        with waiting_raises():
            derivative(case.make(lr=lr, use_accelerated_op=True), gradients, lr)
            for schedule in (lambda count: 0.1, lambda count: lr / (1 + count)):
                derivative(case.make(lr=schedule, use_accelerated_op=True), gradients)


@each_case
def test_current_stream(case: OptimizerCase) -> None:
    """A busy stream: a kernel on another stream would read gradients of zero."""
    value = normal(70_001)
    optimizer = case.make(lr=0.1, use_accelerated_op=True)
    expected = derivative(optimizer, [value.clone().requires_grad_()])
    gradient = torch.zeros_like(value)
    stream = torch.cuda.Stream()
    torch.cuda.synchronize()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(100_000_000)
        gradient.copy_(value)
        actual = derivative(optimizer, [gradient.requires_grad_()])
    stream.synchronize()
    assert_trees_close(actual, expected)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason='needs two GPUs')
@each_case
def test_second_device(case: OptimizerCase, launches: list[str]) -> None:
    gradients = [normal(1025, device=f'cuda:{index % 2}', seed=index) for index in range(4)]
    for gradient in gradients:
        gradient.requires_grad_()
    both(case, gradients)
    assert sum(not name.endswith('_backward') for name in launches) == 2 * 2
    assert torch.cuda.current_device() == 0


def test_cpu_and_gpu_in_one_list(launches: list[str]) -> None:
    gradients = [normal(5).requires_grad_(), normal(5, device='cpu').requires_grad_()]
    both(ADAM, gradients)
    assert launches.count('adam') == launches.count('adam_backward') == 2 * 2


def test_learning_rate_on_the_gpu_for_tensors_on_the_cpu() -> None:
    """It may be what a GPU is still computing."""
    busy = torch.ones(4096, 4096, device='cuda')
    gradient = torch.ones(3, requires_grad=True)
    for _ in range(5):
        for _ in range(8):
            busy = busy @ busy / 4096
        rate = (busy[0, 0] * 0 + 0.5).requires_grad_()
        optimizer = torchopt.sgd(rate, use_accelerated_op=True)
        (update,), _ = optimizer.update([gradient], optimizer.init([gradient]), inplace=False)
        assert torch.equal(update.detach(), torch.full((3,), -0.5))
        (derivative,) = torch.autograd.grad(update.sum(), rate)
        assert derivative.device.type == 'cuda'
        assert derivative.item() == -3


def test_learning_rate_on_the_cpu() -> None:
    lr = torch.tensor(0.03, dtype=torch.float64, requires_grad=True)
    both(ADAM, [normal(70_001).requires_grad_(), normal(3).requires_grad_()], lr, lr=lr)


@pytest.mark.parametrize('inplace', [True, False])
def test_state_on_another_device_raises_as_the_rule_does(inplace: bool) -> None:
    gradients = [torch.ones(3, device='cuda')]
    messages = []
    for accelerated in (False, True):
        optimizer = torchopt.adam(use_accelerated_op=accelerated)
        first, *rest = optimizer.init(gradients)
        state = (first._replace(mu=[torch.zeros(3)]), *rest)
        with pytest.raises(ValueError, match='cpu') as caught:
            optimizer.update(gradients, state, inplace=inplace)
        messages.append(str(caught.value))
    assert messages[0] == messages[1]


class TestLists:
    def test_longer_than_the_arguments_of_a_kernel(self) -> None:
        gradients = [normal(1 + i % 3, seed=i).requires_grad_() for i in range(1500)]
        lr = torch.tensor(0.03, dtype=torch.float64, device='cuda', requires_grad=True)
        actual = derivative(torchopt.adam(lr, use_accelerated_op=True), gradients, lr)
        expected = derivative(torchopt.adam(lr), gradients, lr)
        assert_trees_close(actual, expected, rtol=1e-11, atol=1e-11)

    def test_longer_than_all_blocks_at_once(self) -> None:
        gradients = [torch.full((20_000_003,), 2.0, device='cuda'), normal(5, dtype=torch.float32)]
        params = [torch.ones_like(gradient) for gradient in gradients]
        results = []
        for accelerated in (False, True):
            optimizer = torchopt.adamw(0.1, use_accelerated_op=accelerated)
            state = optimizer.init(params)
            results.append(optimizer.update(gradients, state, params=params, inplace=False))
        assert_trees_close(*results, rtol=1e-5, atol=1e-6)

    def test_cotangent_of_the_learning_rate_is_reproducible(self) -> None:
        gradients = [normal(70_001, seed=i).requires_grad_() for i in range(5)]
        lr = torch.tensor(0.03, device='cuda', requires_grad=True)
        optimizer = torchopt.adam(lr, use_accelerated_op=True)
        first, second = (derivative(optimizer, gradients, lr)[1][-1] for _ in range(2))
        assert torch.equal(first, second)


# Profilers warn about events that they skip.
@pytest.mark.filterwarnings('ignore::UserWarning')
@each_case
def test_one_launch_for_each_dtype(case: OptimizerCase) -> None:
    gradients = [
        normal(64, 1 + i % 3, seed=i, dtype=dtype).requires_grad_()
        for i in range(60)
        for dtype in (torch.float32, torch.bfloat16)
    ]
    optimizer = case.make(lr=0.1, use_accelerated_op=True)
    state = optimizer.init(gradients)

    def kernels_of(run: Any) -> tuple[int, Any]:
        with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as profiler:
            result = run()
            torch.cuda.synchronize()
        names = [
            event.name
            for event in profiler.events()
            if event.device_type == torch.autograd.DeviceType.CUDA
        ]
        assert names, 'this machine does not let kernels be profiled'
        return sum('torchopt' in name for name in names), result

    def forward() -> Any:
        return optimizer.update(gradients, state, params=gradients, inplace=False)

    forward()
    count, (updates, _) = kernels_of(forward)
    assert count == 2
    loss = sum(x.float().sum() for x in updates)
    count, _ = kernels_of(lambda: torch.autograd.grad(loss, gradients))
    assert count == 2


class TestGraphs:
    """Captured steps: their counts are on the device, and grow in every replay."""

    def captured(self, run: Any) -> tuple[torch.cuda.CUDAGraph, Any]:
        # A kernel is loaded on its first run, which must not happen during capture.
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            run()
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            result = run()
        return graph, result

    @each_case
    @pytest.mark.parametrize('rate', ['number', 'tensor', 'schedule', 'schedule of numbers'])
    def test_steps_in_place(self, case: OptimizerCase, rate: str) -> None:
        lr = {
            'number': 0.1,
            'tensor': torch.tensor(0.1, dtype=torch.float64, device='cuda'),
            'schedule': lambda count: 0.1 / (1 + count),
            'schedule of numbers': lambda count: 0.1,
        }[rate]

        def stepper(accelerated: bool) -> tuple[Any, list[torch.Tensor], Any]:
            params = [normal(1025), normal(33, 3, seed=1)]
            optimizer = case.make(lr=lr, use_accelerated_op=accelerated)
            state = optimizer.init(params)

            def step() -> None:
                gradients = [param.sin() for param in params]
                updates, after = optimizer.update(gradients, state, params=params, inplace=True)
                for old, new in zip(pytree.tree_leaves(state), pytree.tree_leaves(after)):
                    assert old is new
                for param, update in zip(params, updates):
                    param.add_(update)

            return step, params, state

        step, params, state = stepper(True)
        graph, _ = self.captured(step)
        for _ in range(3):
            graph.replay()
        step, *expected = stepper(False)
        # One step to warm up, none during capture, three replayed.
        for _ in range(4):
            step()
        assert_trees_close([params, state], expected, rtol=1e-11, atol=1e-11)

    @each_case
    def test_derivative(self, case: OptimizerCase) -> None:
        gradients = [normal(1025).requires_grad_(), normal(33, 3, seed=1).requires_grad_()]
        lr = torch.tensor(0.1, dtype=torch.float64, device='cuda', requires_grad=True)
        optimizer = case.make(lr=lr, use_accelerated_op=True)
        graph, result = self.captured(lambda: derivative(optimizer, gradients, lr))
        with torch.no_grad():
            for gradient in gradients:
                gradient.mul_(-0.5)
        graph.replay()
        torch.cuda.synchronize()
        assert_trees_close(
            result, derivative(case.make(lr=lr), gradients, lr), rtol=1e-11, atol=1e-11
        )


STRAY = """
import torch, torchopt
from torchopt.registry import OPTIMIZERS
from torchopt_accel.kernels import DTYPES

for entry in (entry for entry in OPTIMIZERS if entry.fused):
    for dtype in DTYPES:
        lr = torch.tensor(0.1, device='cuda', requires_grad=True)
        optimizer = entry.factory(lr=lr, use_accelerated_op=True)
        gradients = [torch.ones(n, dtype=dtype, device='cuda') for n in (0, 1, 3, 1023, 1025, 9001)]
        # Not aligned to 16 bytes, up to the last byte of its memory.
        gradients.append(torch.ones(1026, dtype=dtype, device='cuda')[1:])
        gradients = [gradient.requires_grad_() for gradient in gradients]
        state = optimizer.init(gradients)
        updates, _ = optimizer.update(gradients, state, params=gradients, inplace=False)
        loss = sum(update.float().sum() for update in updates)
        torch.autograd.grad(loss, [*gradients, lr])
        with torch.no_grad():
            optimizer.update([g.detach().clone() for g in gradients], state, params=gradients)
torch.cuda.synchronize()
"""


@pytest.mark.skipif(not shutil.which('compute-sanitizer'), reason='needs compute-sanitizer')
def test_no_stray_access() -> None:
    command = ['compute-sanitizer', '--tool', 'memcheck', '--report-api-errors', 'no']
    command += ['--error-exitcode', '1', sys.executable, '-c', STRAY]
    # Without the cache every tensor has its own memory, so that an access past its end is found.
    env = {**os.environ, 'PYTORCH_NO_CUDA_MEMORY_CACHING': '1'}
    finished = subprocess.run(command, env=env, capture_output=True, text=True, timeout=1800)
    assert finished.returncode == 0, finished.stdout[-5000:] + finished.stderr[-5000:]
