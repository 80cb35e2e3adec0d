"""A torch without its private names: results stay correct, or an error says what is refused."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest
import torch

from support.unrolls import assert_equal, problem
from torchopt.unrolling import ForwardMode, Recomputed, Snapshots, Stored, Strategy, remat

pytestmark = pytest.mark.newer_torch

WITHOUT_NAMES = """
import torch
del torch._C._functorch.get_interpreter_stack
del torch._C._functorch.is_legacy_batchedtensor
del torch._C._functorch.is_functorch_wrapped_tensor
del torch._C._functorch.CVmapInterpreterPtr
del torch._C._set_fwd_grad_enabled
del torch._C._is_fwd_grad_enabled
del torch._C._autograd._get_current_graph_task_keep_graph
"""
MODES = [Recomputed(), Recomputed(keep_gradients=True), Snapshots(2), ForwardMode(200)]
every_mode = pytest.mark.parametrize('backward', MODES, ids=str)


@pytest.fixture
def without_names(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with monkeypatch.context() as patched:
        patched.delattr(torch._C._functorch, 'get_interpreter_stack')
        patched.delattr(torch._C._functorch, 'is_legacy_batchedtensor')
        patched.delattr(torch._C._functorch, 'is_functorch_wrapped_tensor')
        patched.delattr(torch._C._functorch, 'CVmapInterpreterPtr')
        patched.delattr(torch._C._autograd, '_get_current_graph_task_keep_graph')
        yield


@pytest.mark.slow
def test_import_needs_none_of_them() -> None:
    # torch.func comes first, because torch's own modules need the names when they are imported.
    program = f'import torch.func\n{WITHOUT_NAMES}\nimport torchopt.unrolling\n'
    subprocess.run([sys.executable, '-c', program], check=True)


@every_mode
@pytest.mark.usefixtures('without_names')
def test_gradients_stay_right(backward: Strategy) -> None:
    example = problem(length=5)
    assert_equal(example.gradients(backward), example.gradients(Stored()))


@every_mode
@pytest.mark.usefixtures('without_names')
def test_a_second_backward_pass_still_needs_a_retained_graph(backward: Strategy) -> None:
    example = problem(length=3)
    loss = example.outer_loss(backward)
    first = torch.autograd.grad(loss, example.wanted, retain_graph=True)
    assert_equal(list(torch.autograd.grad(loss, example.wanted)), list(first))
    with pytest.raises(RuntimeError, match='second time'):
        torch.autograd.grad(loss, example.wanted)


@every_mode
@pytest.mark.usefixtures('without_names')
def test_transforms_are_refused(backward: Strategy) -> None:
    example = problem(length=3)

    def loss(x: torch.Tensor) -> torch.Tensor:
        return example._replace(xs={'x': x, 'nothing': None}).outer_loss(backward)

    x = example.xs['x'].detach()
    for transformed, argument in (
        (torch.func.grad(loss), x),
        (torch.vmap(loss), torch.stack([x, x])),
    ):
        with pytest.raises(RuntimeError, match='functorch transforms'):
            transformed(argument)


def random_block(x: torch.Tensor) -> torch.Tensor:
    return x.sin() * torch.rand(())


@pytest.mark.usefixtures('without_names')
def test_remat_stays_right_or_refuses() -> None:
    def second(block: Callable[[torch.Tensor], torch.Tensor]) -> list[torch.Tensor]:
        torch.manual_seed(0)
        x = torch.ones(3, requires_grad=True)
        (first,) = torch.autograd.grad(block(x).sum(), x, create_graph=True)
        return list(torch.autograd.grad(first.sum(), x))

    assert_equal(second(remat(random_block)), second(random_block))
    mask = torch.ones(3)
    for block, message in (
        (random_block, 'draws random numbers under torch.vmap'),
        (lambda x: x * mask, 'mask. Their derivatives would be lost'),
    ):
        with pytest.raises(RuntimeError, match=message):
            torch.vmap(remat(block), randomness='same')(torch.ones(2, 3))
