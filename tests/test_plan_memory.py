"""The formulas of docs/examples/plan_memory.py hold, and the table made of them is current."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

import torchopt
from support.language_model import LanguageModel
from support.live_bytes import LiveBytes
from torchopt import unrolling

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / 'docs' / 'examples'))
import plan_memory  # noqa: E402
from plan_memory import FLOAT, MODELS, Shape, plans, step_memory  # noqa: E402

TOLERANCE = 0.1
"""How far a formula may be from what is measured; the page says so."""


def measured(shape: Shape, texts: int, *, is_remat: bool = False, parts: int = 1) -> int:
    """The peak of the backward pass of two steps, without the carry that the first begins with."""
    with FakeTensorMode(allow_non_fake_inputs=True):
        net = LanguageModel(*shape, wrap=unrolling.remat if is_remat else None)
        assert sum(param.numel() for param in net.parameters()) == shape.params
        batches = torch.zeros(2, texts, shape.length + 1, dtype=torch.long)
        weight = torch.ones((), requires_grad=True)
        options: Any = {'micro_batches': parts} if parts > 1 else {}
        optimizer = torchopt.adamw(1e-3, eps_root=1e-8)
        inner = unrolling.ModuleStep(net, optimizer, lambda net, x, w: w * net(x), **options)
        with LiveBytes() as memory:
            carry, _ = torchopt.unroll(
                inner, inner.init(), batches, weight, backward=unrolling.Snapshots()
            )
            loss = torch.stack([param.sum() for param in carry.params.values()]).sum()
            del carry
            memory.restart()
            torch.autograd.grad(loss, weight)
    # The initial moments are counted; the initial parameters are not.
    return memory.peak - 2 * FLOAT * shape.params


WIDE = Shape(layers=2, width=128, heads=2, vocabulary=100, length=32)
LONG = Shape(layers=1, width=64, heads=4, vocabulary=100, length=256)
WORDS = Shape(layers=1, width=32, heads=1, vocabulary=4000, length=64)


@pytest.mark.slow
@pytest.mark.filterwarnings('ignore:Accessing the data pointer of FakeTensor:UserWarning')
@pytest.mark.parametrize('is_remat', [False, True])
@pytest.mark.parametrize(('shape', 'texts'), [(WIDE, 4), (LONG, 1), (WORDS, 2)])
def test_the_graph_of_a_step(shape: Shape, texts: int, is_remat: bool) -> None:
    expected = step_memory(shape, texts, remat=is_remat)
    assert measured(shape, texts, is_remat=is_remat) == pytest.approx(expected, rel=TOLERANCE)


@pytest.mark.slow
@pytest.mark.filterwarnings('ignore:Accessing the data pointer of FakeTensor:UserWarning')
def test_micro_batches_need_the_graph_of_one() -> None:
    expected = step_memory(LONG, 1, remat=False)
    # Beside the graph of one part, the sum of the gradients of the others.
    expected += FLOAT * LONG.params
    assert measured(LONG, 4, parts=4) == pytest.approx(expected, rel=TOLERANCE)


# Half a million parameters without activations: what is measured is carries.
CARRIES = Shape(layers=2, width=144, heads=1, vocabulary=100, length=1)


def ones(number: int) -> list[torch.Tensor]:
    """So many parameters, in tensors that are small beside all of them."""
    return list(torch.ones(number).split(number // 16))


def total(parts: list[torch.Tensor]) -> torch.Tensor:
    return torch.stack([part.square().sum() for part in parts]).sum()


class Run:
    """A run of AdamW on a quadratic function, whose memory, files and steps are counted."""

    def __init__(self, call: str, steps: int, folder: Path) -> None:
        self.evaluations = self.disk = 0
        weight, start = torch.ones((), requires_grad=True), ones(CARRIES.params)
        optimizer = torchopt.adamw(1e-3, eps_root=1e-8)

        def step(carry: Any, _: None, weight: torch.Tensor) -> tuple[Any, None]:
            self.evaluations += 1
            self.disk = max(self.disk, size_of(folder))
            params, state = carry
            gradient = unrolling.grad(lambda parts: weight * total(parts))(params)
            updates, state = optimizer.update(gradient, state, params=params, inplace=False)
            return (torchopt.apply_updates(params, updates, inplace=False), state), None

        call = call.replace('Disk(...)', f'Disk({str(folder)!r})')
        backward = eval(call, vars(unrolling).copy())
        with LiveBytes() as memory:
            (params, _), _ = torchopt.unroll(
                step, (start, optimizer.init(start)), consts=weight, length=steps, backward=backward
            )
            loss = total(params)
            del params
            torch.autograd.grad(loss, weight)
        self.device = memory.peak + FLOAT * CARRIES.params


def size_of(folder: Path) -> int:
    return sum(
        entry.stat().st_size if entry.is_file() else size_of(Path(entry.path))
        for entry in os.scandir(folder)
    )


CALLS = list(dict.fromkeys(plan.call for plan in plans(CARRIES, 16, 1)))


def plan_for(call: str, steps: int) -> plan_memory.Plan:
    return next(plan for plan in plans(CARRIES, steps, 1) if plan.call == call)


@pytest.mark.slow
@pytest.mark.parametrize('call', [call for call in CALLS if "'cpu'" not in call])
def test_carries_files_and_evaluations(call: str, tmp_path: Path) -> None:
    runs = {}
    for steps in (16, 49):
        folder = tmp_path / str(steps)
        folder.mkdir()
        runs[steps] = Run(call, steps, folder)
        assert runs[steps].evaluations - steps == plan_for(call, steps).forward
    few, many = runs.values()
    fewer, more = (plan_for(call, steps) for steps in runs)
    carry = 3 * FLOAT * CARRIES.params
    assert (many.device - few.device) / carry == pytest.approx(
        (more.device - fewer.device) / carry, abs=0.1
    )
    # The loss has a graph of its own, of as many tensors as a carry.
    assert abs(many.device - more.device) / carry < 1.2
    assert 0.9 * more.disk <= many.disk <= 1.02 * more.disk


def test_the_models_have_their_sizes() -> None:
    sizes = {name: round(shape.params / 1e6) for name, shape in MODELS.items()}
    assert sizes == {'GPT-2 small': 124, 'GPT-2 medium': 355, '1.3B': 1314, '7B': 6654}


def test_the_table_of_the_page_is_current() -> None:
    assert (
        plan_memory.markdown_table() in (ROOT / 'docs' / 'guides' / 'training-runs.md').read_text()
    )


def test_the_command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, 'argv', ['plan_memory.py', '--params', '400e6', '--memory', '80'])
    plan_memory.main()
    shown = capsys.readouterr().out
    assert '355 M' in shown
    assert shown.count('the fastest that fits') == 1
