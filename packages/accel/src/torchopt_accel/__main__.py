"""``python -m torchopt_accel``: where the kernels run, and what a bug report needs."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version

import torch

import torchopt
from torchopt_accel import _build
from torchopt_accel.kernels import DTYPES, RULES
from torchopt_accel.memory import describe_memory
from torchopt_accel.platform import C, obstacle

_PACKAGES = ('torchopt-core', 'torchopt-accel', 'torchopt-meta', 'torchopt-utils', 'torch')


def main() -> None:
    """Print the report."""
    facts = {name: _version(name) for name in _PACKAGES}
    facts |= {
        'Python': f'{platform.python_implementation()} {platform.python_version()}',
        'system': f'{platform.system()} {platform.machine()}',
        'built by': ', '.join(filter(None, (_build.COMPILER, _build.CUDA_COMPILER))),
        'built for': _build.SYSTEM,
        'CUDA architectures': _build.CUDA_ARCHITECTURES or 'none',
        'CUDA of torch': str(torch.version.cuda or 'none'),
        'OpenMP threads': str(torch.get_num_threads())
        if _build.OPENMP
        else '1, built without OpenMP',
        'instruction set': f'{C.current_isa()} of {", ".join(C.supported_isas())}',
        'kernels': ', '.join(RULES),
        'dtypes': ', '.join(str(dtype).removeprefix('torch.') for dtype in DTYPES),
    }
    devices = ['cpu', *(f'cuda:{index}' for index in range(torch.cuda.device_count()))]
    facts |= {device: _verdict(torch.device(device)) for device in devices}
    # After steps were taken.
    facts['memory on the CPU'] = describe_memory()
    facts['accelerated_op_available()'] = str(torchopt.accelerated_op_available())
    for name, fact in facts.items():
        print(f'{name + ":":<28}{fact}')
    print('Everything else takes the composite rule of torchopt-core.')


def _version(distribution: str) -> str:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return 'not installed'


def _verdict(device: torch.device) -> str:
    """Compare a differentiated step with kernels and without; say what came out."""
    reason = obstacle(device)
    if reason:
        return f'not accelerated: {reason}'
    try:
        mine, theirs = (_derivative(device, accelerated) for accelerated in (True, False))
    except RuntimeError as error:
        return f'not accelerated: {error}'
    if not torch.allclose(mine, theirs):
        return f'WRONG: the kernels give {mine.tolist()}, the composite rule {theirs.tolist()}'
    return 'accelerated: a step was taken and differentiated'


def _derivative(device: torch.device, accelerated: bool) -> torch.Tensor:
    gradient = torch.tensor([1.0, -2.0, 0.0], device=device, requires_grad=True)
    optimizer = torchopt.adam(0.1, eps_root=1e-3, use_accelerated_op=accelerated)
    (update,), _ = optimizer.update([gradient], optimizer.init([gradient]), inplace=False)
    (derivative,) = torch.autograd.grad(update.square().sum(), gradient)
    return derivative


if __name__ == '__main__':
    main()
