"""A run that was interrupted goes on, and gives the same gradient bit for bit."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

import torchopt
from support.killed import killed_runs
from support.unrolls import DTYPE, assert_equal
from torchopt.unrolling import Disk, Recomputed, Snapshots, Stored, Strategy, Truncated, grad

LENGTH = 20
Make = Callable[[Any], Strategy]
makes = pytest.mark.parametrize(
    'make',
    [
        lambda storage: Recomputed(storage=storage),
        lambda storage: Recomputed(keep_gradients=True, storage=storage),
        lambda storage: Snapshots(storage=storage),
        lambda storage: Snapshots(2, storage=storage),
        lambda storage: Truncated(LENGTH - 2, Snapshots(storage=storage)),
    ],
    ids=['recomputed', 'keep_gradients', 'snapshots', 'two snapshots', 'truncated'],
)


@pytest.mark.newer_torch
@pytest.mark.slow
@pytest.mark.parametrize(
    'function',
    [
        'recomputed',
        'recomputed_and_kept',
        'with_gradients',
        'snapshots',
        'snapshots_and_kept',
        'until',
        'module',
    ],
)
def test_killed_at_any_moment(function: str, tmp_path: Path) -> None:
    # With stride=1, at every event: some hundred kills, which takes minutes.
    report = killed_runs(f'support.resumed:{function}', tmp_path, stride=41)
    assert report.kills >= 6
    assert all(report.equal)
    if 'kept' in function:
        assert report.most <= 1.4 * report.steps
        assert 'cotangents-00000000.pt' in report.left
    else:
        assert not report.left


@pytest.mark.slow
def test_another_interpreter_goes_on(tmp_path: Path) -> None:
    """With other hashes of strings, and other addresses of everything."""
    program = (
        'import sys, torch\n'
        'from pathlib import Path\n'
        'from support import killed, resumed\n'
        'killed._Events.killed_at = int(sys.argv[2])\n'
        'found = resumed.module(Path(sys.argv[1]) / "run")\n'
        'torch.save([tensor.detach() for tensor in found], Path(sys.argv[1]) / "found.pt")\n'
        'print(killed._Events.steps)\n'
    )

    def run(killed_at: int, seed: str) -> subprocess.CompletedProcess[str]:
        paths = os.pathsep.join(path for path in sys.path if path)
        environment = {**os.environ, 'PYTHONPATH': paths, 'PYTHONHASHSEED': seed}
        return subprocess.run(
            [sys.executable, '-c', program, str(tmp_path), str(killed_at)],
            env=environment,
            stdout=subprocess.PIPE,
            text=True,
            timeout=300,
        )

    plain = run(-1, '1')
    expected = torch.load(tmp_path / 'found.pt')
    assert run(11, '2').returncode == -signal.SIGKILL
    again = run(-1, '3')
    assert again.returncode == 0
    assert all(map(torch.equal, torch.load(tmp_path / 'found.pt'), expected))
    # Steps 11, 12, … and 5 of the forward pass are left, of two backward passes all.
    assert int(again.stdout) < int(plain.stdout)


class Interrupted(Exception):
    pass


class Problem:
    """An unroll whose step can be interrupted, and counts its calls."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.w = torch.randn(4, dtype=DTYPE, requires_grad=True)
        self.xs = torch.randn(LENGTH, 4, dtype=DTYPE, requires_grad=True)
        self.k = torch.tensor(0.8, dtype=DTYPE, requires_grad=True)
        self.calls = 0
        self.stops_at = -1
        self.seen: list[int] = []

    def run(self, backward: Strategy, stops_at: int = -1, **options: Any) -> list[torch.Tensor]:
        """Return the results and the gradients, or raise at a call of the step."""
        self.calls, self.stops_at, self.seen = 0, stops_at, []
        end, ys = self.unrolled(backward, **options)
        loss = end[0].square().sum() + ys.sum()
        found = torch.autograd.grad(loss, [self.w, self.xs, self.k], materialize_grads=True)
        return [end[0].detach(), ys.detach(), *found]

    def unrolled(self, backward: Strategy, **options: Any) -> Any:
        problem = self

        def step(carry: Any, x: torch.Tensor, k: torch.Tensor) -> Any:
            problem.called()
            w, count = carry
            w = w - 0.1 * grad(lambda w, x, k: (w * k - x).sin().square().sum())(w, x, k)
            return (w + 0.01 * torch.randn_like(w), count + 1), w.sum() * k

        torch.manual_seed(1)
        return torchopt.unroll(
            step,
            (self.w, 0),
            self.xs,
            self.k,
            backward=backward,
            progress=lambda taken, carry, y: self.seen.append(taken),
            **options,
        )

    def called(self) -> None:
        if self.calls == self.stops_at:
            raise Interrupted
        self.calls += 1


@makes
def test_interrupted_by_an_exception(make: Make, tmp_path: Path) -> None:
    """Again and again, in either pass; progress goes on where the forward pass does."""
    problem = Problem()
    expected = problem.run(make(Disk(tmp_path / 'whole')))
    whole, folder = problem.calls, tmp_path / 'run'
    total = 0
    for stops_at in (0, 7, 9, 3, 8):
        with pytest.raises(Interrupted):
            problem.run(make(Disk(folder)), stops_at)
        total += problem.calls
    found = problem.run(make(Disk(folder)))
    total += problem.calls
    assert all(map(torch.equal, found, expected))
    # Each interruption costs a step that is run again, and a sixteenth of a pass.
    assert total <= whole + 6 * 5
    assert not os.listdir(folder)


def test_progress_goes_on_where_the_forward_pass_does(tmp_path: Path) -> None:
    problem = Problem()
    backward = Recomputed(storage=Disk(tmp_path))
    with pytest.raises(Interrupted):
        problem.run(backward, 8)
    assert problem.seen == list(range(1, 9))
    problem.run(backward)
    assert problem.seen == list(range(8, LENGTH + 1))


@makes
def test_without_a_backward_pass_the_results_stay(make: Make, tmp_path: Path) -> None:
    problem = Problem()
    backward = make(Disk(tmp_path))
    end, ys = problem.unrolled(backward)
    drawn = torch.rand(3)
    assert 'end.pt' in os.listdir(tmp_path)
    with pytest.raises(RuntimeError, match='is used by another unroll'):
        problem.unrolled(backward)
    calls = problem.calls
    expected = [end[0].detach(), ys.detach(), drawn]
    del end, ys
    again, ys_again = problem.unrolled(backward)
    assert again[1] == LENGTH
    prefix = 2 if isinstance(backward, Truncated) else 0
    assert problem.calls == calls + 1 + prefix
    assert all(map(torch.equal, [again[0].detach(), ys_again.detach(), torch.rand(3)], expected))


@makes
def test_results_that_are_kept(make: Make, tmp_path: Path) -> None:
    problem = Problem()
    backward = make(Disk(tmp_path, keep=True))
    expected = problem.run(backward)
    assert problem.calls > LENGTH
    assert not list(tmp_path.glob('step-*'))
    assert all(map(torch.equal, problem.run(backward), expected))
    assert problem.calls == 1 + (2 if isinstance(backward, Truncated) else 0)


def test_another_backward_pass_begins_anew(tmp_path: Path) -> None:
    """An outer loss that has changed finds no cotangent of the old one."""
    problem = Problem()
    backward = Recomputed(storage=Disk(tmp_path, every=1))
    end, ys = problem.unrolled(backward)
    problem.stops_at = problem.calls + 9
    with pytest.raises(Interrupted):
        torch.autograd.grad(end[0].sum(), problem.k)
    assert list(tmp_path.glob('cotangents-*'))
    del end, ys
    for loss in (lambda end, ys: end[0].square().sum(), lambda end, ys: ys.sum()):
        found = []
        for mode in (Stored(), backward):
            problem.stops_at = -1
            found.append(torch.autograd.grad(loss(*problem.unrolled(mode)), [problem.k, problem.w]))
        assert_equal(list(found[0]), list(found[1]))


def test_a_second_derivative_of_a_resumed_run(tmp_path: Path) -> None:
    def second(backward: Strategy) -> list[torch.Tensor]:
        end, ys = problem.unrolled(backward)
        loss = end[0].square().sum() + ys.sum()
        (first,) = torch.autograd.grad(loss, problem.k, create_graph=True)
        return list(torch.autograd.grad(first, [problem.w, problem.xs, problem.k]))

    problem = Problem()
    backward = Recomputed(storage=Disk(tmp_path))
    with pytest.raises(Interrupted):
        problem.run(backward, 12)
    problem.stops_at = -1
    found = second(backward)
    assert_equal(found, second(Stored()))


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


W = torch.ones(3, dtype=DTYPE)


@dataclass
class Config:
    decay: float = 0.0


BASE: dict[str, Any] = {
    'config': Config(),
    'table': {'scale': [1.0]},
    'rate': 0.1,
    'w': W,
    'xs': torch.ones(6, 3, dtype=DTYPE),
    'k': torch.tensor(0.8, dtype=DTYPE, requires_grad=True),
    'captured': torch.ones(3, dtype=DTYPE),
    'strategy': Recomputed,
    'options': {},
}


def variant(**changes: Any) -> Callable[[Any], Any]:
    """Return a run like that of the base, but for ``changes``."""
    given = {**BASE, **changes}
    rate, captured, config, table = (given[n] for n in ('rate', 'captured', 'config', 'table'))

    def step(carry: Any, x: torch.Tensor, k: torch.Tensor) -> Any:
        w = carry['w'] * (1 - config.decay) * table['scale'][0]
        return {'w': w - rate * k * (x + captured) * carry['w']}, None

    def other(carry: Any, x: torch.Tensor, k: torch.Tensor) -> Any:
        return {'w': carry['w'] - rate * k * (x - captured) * carry['w']}, None

    def run(storage: Any, **more: Any) -> Any:
        return torchopt.unroll(
            other if given.get('other') else step,
            {'w': given['w']},
            given['xs'],
            given['k'],
            backward=given['strategy'](storage=storage, **given['options']),
            **more,
        )

    return run


@pytest.mark.parametrize(
    ('change', 'mark'),
    [
        ({'rate': 0.2}, 'code of the step'),
        ({'config': Config(0.1)}, 'code of the step'),
        ({'table': {'scale': [0.9]}}, 'code of the step'),
        ({'other': True}, 'step'),
        ({'w': 2 * W}, 'values of carry, xs and consts'),
        ({'w': W.float(), 'xs': BASE['xs'].float()}, 'shapes and dtypes'),
        ({'xs': BASE['xs'] * 2}, 'values of carry, xs and consts'),
        ({'xs': BASE['xs'][:5]}, 'length'),
        ({'k': BASE['k'].detach().add(0.1).requires_grad_()}, 'values of carry, xs and consts'),
        ({'w': torch.ones(3, dtype=DTYPE, requires_grad=True)}, 'what requires grad'),
        ({'captured': 3 * W}, 'tensors that the step captures'),
        ({'strategy': Snapshots}, 'strategy'),
        ({'options': {'keep_gradients': True}}, 'strategy'),
    ],
    ids=lambda value: str(value)[:30],
)
def test_a_folder_of_another_run(change: dict[str, Any], mark: str, tmp_path: Path) -> None:
    end, _ = variant()(Disk(tmp_path))
    expected = end['w'].detach()
    before = contents(tmp_path)
    del end
    with pytest.raises(ValueError, match=f'belongs to another run, which differs in .*{mark}'):
        variant(**change)(Disk(tmp_path))
    assert contents(tmp_path) == before
    end, _ = variant()(Disk(tmp_path))
    assert torch.equal(end['w'], expected)


def test_one_folder_after_the_other(tmp_path: Path) -> None:
    """A folder is free when its backward pass has ended."""
    for w in (W, 2 * W):
        end, _ = variant(w=w)(Disk(tmp_path))
        assert torch.autograd.grad(end['w'].sum(), BASE['k'])[0].any()
        del end
        assert not os.listdir(tmp_path)


def test_a_folder_of_something_else(tmp_path: Path) -> None:
    (tmp_path / 'thesis.tex').write_text('years of work')
    with pytest.raises(ValueError, match=r'files that are not of an unroll, such as thesis\.tex'):
        variant()(Disk(tmp_path))
    assert contents(tmp_path) == {'thesis.tex': b'years of work'}
    with pytest.raises(OSError, match='cannot use the folder'):
        variant()(Disk(tmp_path / 'thesis.tex'))


FACTOR, STOP = 'TORCHOPT_TEST_FACTOR', 'TORCHOPT_TEST_STOP'


def test_a_step_that_has_changed_unseen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def step(c: torch.Tensor, x: torch.Tensor, k: torch.Tensor) -> Any:
        if os.environ[STOP] == str(int(x)):
            raise Interrupted
        return c * k * float(os.environ[FACTOR]), None

    def run() -> Any:
        backward = Recomputed(storage=Disk(tmp_path))
        return torchopt.unroll(step, W, torch.arange(9), BASE['k'], backward=backward)

    monkeypatch.setenv(FACTOR, '0.9')
    monkeypatch.setenv(STOP, '4')
    with pytest.raises(Interrupted):
        run()
    monkeypatch.setenv(FACTOR, '0.91')
    monkeypatch.setenv(STOP, '')
    with pytest.raises(RuntimeError, match='step 3 of unroll gives another result'):
        run()
    monkeypatch.setenv(FACTOR, '0.9')
    end, _ = run()
    torch.testing.assert_close(end, W * (0.8 * 0.9) ** 9)


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """Let writing fail, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@makes
@pytest.mark.parametrize('part', ['forward', 'backward'])
def test_a_full_disk(make: Make, part: str, tmp_path: Path) -> None:
    problem = Problem()
    expected = problem.run(make(Disk(tmp_path / 'whole')))
    folder = tmp_path / 'run'
    backward = make(Disk(folder, every=3))
    with pytest.raises(Interrupted):
        problem.run(backward, 9 if part == 'forward' else LENGTH + 7)
    with largest_file(500), pytest.raises(OSError, match=r'cannot write .* still good: make room'):
        problem.run(backward)
    assert not list(folder.glob('*.unfinished'))
    assert all(map(torch.equal, problem.run(backward), expected))


def test_a_damaged_file(tmp_path: Path) -> None:
    problem = Problem()
    expected = problem.run(Recomputed(storage=Disk(tmp_path / 'whole')))
    folder = tmp_path / 'run'
    backward = Recomputed(storage=Disk(folder))
    with pytest.raises(Interrupted):
        problem.run(backward, 9)
    last = folder / 'step-00000008.pt'
    last.write_bytes(last.read_bytes()[:700])
    with pytest.raises(OSError, match=r'step-00000008\.pt .* is damaged .* delete this file'):
        problem.run(backward)
    last.unlink()
    assert all(map(torch.equal, problem.run(backward), expected))
    assert problem.seen[0] == 8


@pytest.mark.parametrize('name', ['end.pt', 'run.pt', 'ys-00000007.pt', 'cotangents', 'step'])
def test_other_damaged_files(name: str, tmp_path: Path) -> None:
    problem = Problem()
    backward = Recomputed(storage=Disk(tmp_path, every=2))
    with pytest.raises(Interrupted):
        problem.run(backward, LENGTH + 7)
    (file,) = list(tmp_path.glob(f'{name}*'))[:1]
    file.write_bytes(b'')
    with pytest.raises(OSError, match=r'is damaged .* empty the folder to begin again'):
        problem.run(backward)


def test_another_process_uses_the_folder(tmp_path: Path) -> None:
    program = (
        'import fcntl, os, sys\n'
        'lock = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT)\n'
        'fcntl.lockf(lock, fcntl.LOCK_EX)\n'
        'print("locked", flush=True)\n'
        'sys.stdin.read()\n'
    )
    with subprocess.Popen(
        [sys.executable, '-c', program, str(tmp_path / 'lock')],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as other:
        assert other.stdout is not None and other.stdin is not None
        other.stdout.readline()
        with pytest.raises(RuntimeError, match='is used by another unroll'):
            variant()(Disk(tmp_path))
        other.stdin.close()
        other.wait()
    variant()(Disk(tmp_path))


def test_files_can_be_read(tmp_path: Path) -> None:
    """With the function of torch that runs no code."""
    problem = Problem()
    with pytest.raises(Interrupted):
        problem.run(Recomputed(storage=Disk(tmp_path, every=2)), LENGTH + 7)
    kinds = {path.name.split('-')[0].split('.')[0]: path for path in tmp_path.glob('*.pt')}
    assert set(kinds) == {'run', 'step', 'ys', 'end', 'rows', 'cotangents'}
    for path in kinds.values():
        assert torch.load(path, weights_only=True)
    ((w,), count) = torch.load(tmp_path / 'step-00000003.pt', weights_only=True)['carry']
    assert w.shape == (4,) and count == 3
