"""What the package reports: where kernels run, why they don't, and what to do about it."""

from __future__ import annotations

import subprocess
import sys
from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch

import torchopt
from torchopt_accel import __main__ as report
from torchopt_accel import platform
from torchopt_accel.platform import HAS_CUDA, C


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    """A torch that finds two GPUs, and a build with kernels for them."""
    monkeypatch.setattr(platform, 'HAS_CUDA', True)
    monkeypatch.setattr(torch.version, 'cuda', '13.0')
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
    monkeypatch.setattr(torch.cuda, 'device_count', lambda: 2)
    monkeypatch.setattr(platform, '_obstacle_of', lambda index: '' if index == 0 else 'too old')
    monkeypatch.setattr(torch.cuda, 'current_device', lambda: 0)


class TestAvailable:
    def test_cpu(self) -> None:
        assert torchopt.accelerated_op_available('cpu')
        assert torchopt.accelerated_op_available(torch.device('cpu'))

    def test_other_devices(self) -> None:
        assert not torchopt.accelerated_op_available('meta')
        assert not torchopt.accelerated_op_available(['cpu', 'meta'])
        assert platform.obstacle(torch.device('meta')) == 'there are no kernels for meta'

    @pytest.mark.usefixtures('gpus')
    def test_every_device_is_asked(self) -> None:
        assert torchopt.accelerated_op_available()
        assert torchopt.accelerated_op_available(['cpu', 'cuda', 'cuda:0'])
        assert not torchopt.accelerated_op_available(['cuda:0', 'cuda:1'])
        assert platform.obstacle(torch.device('cuda:1')) == 'too old'
        assert '2' in platform.obstacle(torch.device('cuda:2'))

    @pytest.mark.usefixtures('gpus')
    def test_says_what_is_missing(self, monkeypatch: pytest.MonkeyPatch) -> None:
        cuda = torch.device('cuda')

        def forked() -> int:
            raise RuntimeError('Cannot re-initialize CUDA in forked subprocess.')

        monkeypatch.setattr(torch.cuda, 'current_device', forked)
        assert 'forked' in platform.obstacle(cuda)
        monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
        assert platform.obstacle(cuda) == 'torch finds no GPU'
        assert torchopt.accelerated_op_available()
        monkeypatch.setattr(torch.version, 'cuda', None)
        assert platform.obstacle(cuda) == 'this torch is built without CUDA'
        monkeypatch.setattr(platform, 'HAS_CUDA', False)
        assert platform.obstacle(cuda) == 'this build has no CUDA kernels'

    def test_an_obstacle_that_passes(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Full memory is no reason for slow steps until the process ends."""
        answers = iter(['out of memory', '', 'not asked again'])
        compiled = SimpleNamespace(cuda_obstacle=lambda index: next(answers))
        monkeypatch.setattr(platform, 'C', compiled)
        monkeypatch.setattr(platform, '_RUNS_ON', set())
        monkeypatch.setattr(torch.cuda, 'device', lambda index: nullcontext())
        assert [platform._obstacle_of(3) for _ in range(3)] == ['out of memory', '', '']

    @pytest.mark.skipif(not HAS_CUDA, reason='this build has no CUDA kernels')
    def test_kernels_ask_for_a_device_that_is_not_there(self) -> None:
        assert C.cuda_obstacle(1000)


class TestReport:
    @pytest.mark.slow
    def test_command(self) -> None:
        command = [sys.executable, '-m', 'torchopt_accel']
        lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        for name in ('torchopt-core', 'torchopt-accel', 'torchopt-meta', 'torchopt-utils', 'torch'):
            assert f'\n{name}:' in '\n' + lines
        for name in ('built by', 'CUDA architectures', 'OpenMP threads', 'instruction set'):
            assert f'\n{name}:' in lines
        assert f'\n{"cpu:":<28}accelerated: a step was taken and differentiated\n' in lines
        assert f'accelerated_op_available(): {torchopt.accelerated_op_available()}' in lines

    def test_a_step_is_taken(self, launches: list[str]) -> None:
        assert report._verdict(torch.device('cpu')).startswith('accelerated')
        assert launches == ['adam', 'adam_backward']
        assert report._verdict(torch.device('meta')).startswith('not accelerated: there are no')

    def test_a_build_without_openmp_has_one_thread(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setattr(report, '_verdict', lambda device: 'not asked')
        for version, threads in (('4.5', str(torch.get_num_threads())), ('', '1, built without')):
            monkeypatch.setattr(report._build, 'OPENMP', version)
            report.main()
            assert f'\n{"OpenMP threads:":<28}{threads}' in capsys.readouterr().out

    def test_wrong_results_are_reported(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(
            report, '_derivative', lambda device, accelerated: torch.ones(1) * accelerated
        )
        assert report._verdict(torch.device('cpu')).startswith('WRONG')


class TestWheelThatCannotLoad:
    def test_says_what_it_is_for_and_what_it_found(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def broken(name: str) -> None:
            raise ImportError('no GLIBC_9 found')

        monkeypatch.setattr(platform, 'import_module', broken)
        with pytest.raises(ImportError, match='no GLIBC_9 found') as caught:
            platform._load()
        message = str(caught.value)
        assert 'built for: CPython 3.10 or later' in message
        assert f'torch {torch.__version__}' in message
        assert 'pip install --force-reinstall' in message

    def test_without_a_compiled_module(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(platform, 'find_spec', lambda name: None)
        assert 'built for: nothing' in platform._explain(ImportError('no'))

    @pytest.mark.slow
    def test_an_option_asked_for_is_not_ignored(self) -> None:
        code = (
            'import sys; sys.modules["torchopt_accel._C"] = None\n'
            'import torchopt\n'
            'torchopt.adam(use_accelerated_op=True)'
        )
        finished = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
        assert finished.returncode == 1
        assert 'torchopt_accel cannot load its kernels' in finished.stderr
