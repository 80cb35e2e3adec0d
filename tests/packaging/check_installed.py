"""Check installed wheels: ``check_installed.py [SIBLING ...]`` names those beside torchopt-core.

The ``isolated`` session runs it where nothing else of the repository can be imported.
"""

import importlib
import importlib.metadata
import re
import sys
from pathlib import Path

import torch

import torchopt

EXAMPLES = {'torchopt-meta': 'MetaAdam', 'torchopt-utils': 'stop_gradient'}


def check_metadata(distribution: str, module: str) -> None:
    files = {str(path) for path in importlib.metadata.files(distribution) or []}
    assert f'{module}/py.typed' in files, f'{distribution} has no py.typed'
    foreign = {path for path in files if not path.startswith((f'{module}/', f'{module}-'))}
    foreign = {path for path in foreign if '.dist-info/' not in path}
    assert not foreign, f'{distribution} installs {foreign}'
    assert any(path.endswith('licenses/LICENSE') for path in files), f'{distribution}: no licence'
    found = importlib.import_module(module)
    assert found.__version__ == importlib.metadata.version(distribution)
    assert 'site-packages' in str(found.__file__), f'{module} comes from {found.__file__}'


def check_present(name: str) -> None:
    assert callable(getattr(torchopt, name))
    assert name in dir(torchopt)
    assert name in torchopt.__all__


def check_absent(name: str, distribution: str) -> None:
    assert name not in dir(torchopt)
    assert name not in torchopt.__all__
    for access in (f'torchopt.{name}', f'exec("from torchopt import {name}")'):
        try:
            eval(access)
        except ModuleNotFoundError as error:
            assert f'pip install {distribution}' in str(error), error
        else:
            raise AssertionError(f'{access} should say that {distribution} is not installed')


def check_core(accelerated: bool) -> None:
    params = {'w': torch.tensor([1.0, -2.0], requires_grad=True)}
    optimizer = torchopt.adam(lr=0.1)
    (gradient,) = torch.autograd.grad(params['w'].square().sum(), params['w'], create_graph=True)
    updates, _ = optimizer.update({'w': gradient}, optimizer.init(params), inplace=False)
    stepped = torchopt.apply_updates(params, updates, inplace=False)['w']
    torch.testing.assert_close(stepped, torch.tensor([0.9, -1.9]))
    stepped.sum().backward()
    assert params['w'].grad is not None and params['w'].grad.isfinite().all()
    if accelerated:
        return
    assert not torchopt.accelerated_op_available()
    try:
        torchopt.adam(use_accelerated_op=True)
    except ModuleNotFoundError as error:
        assert 'pip install torchopt-accel' in str(error), error
    else:
        raise AssertionError('use_accelerated_op=True should need torchopt-accel')


def check_meta() -> None:
    net = torch.nn.Linear(2, 1)
    start = net.weight
    optimizer = torchopt.MetaSGD(net, lr=0.5)
    optimizer.step(net(torch.ones(1, 2)).square().sum())
    net(torch.ones(1, 2)).sum().backward()
    assert start.grad is not None and not net.weight.is_leaf


def check_accel() -> None:
    check_metadata('torchopt-accel', 'torchopt_accel')
    assert torchopt.accelerated_op_available('cpu')
    results = []
    for accelerated in (False, True):
        gradient = torch.tensor([1.0, -2.0, 0.0], requires_grad=True)
        optimizer = torchopt.adam(lr=0.1, use_accelerated_op=accelerated)
        (update,), _ = optimizer.update([gradient], optimizer.init([gradient]), inplace=False)
        results.append(torch.autograd.grad(update.square().sum(), gradient)[0])
        assert ('Forward' in type(update.grad_fn).__name__) == accelerated
    torch.testing.assert_close(*results)
    check_threads()


def check_threads() -> None:
    """The kernels take their threads from the OpenMP that torch has loaded: two would compete."""
    maps = Path('/proc/self/maps')
    if maps.exists():
        loaded = set(re.findall(r'\S*/lib[gi]?omp\S*', maps.read_text()))
        assert len(loaded) == 1 and '/torch/' in loaded.pop(), f'OpenMP was loaded from {loaded}'


def check_utils() -> None:
    tree = {'w': torch.ones(2, requires_grad=True) * 2}
    torchopt.stop_gradient(tree)
    assert tree['w'].grad_fn is None


def main(siblings: list[str]) -> None:
    check_core('torchopt-accel' in siblings)
    check_metadata('torchopt-core', 'torchopt')
    for distribution, name in EXAMPLES.items():
        if distribution in siblings:
            check_metadata(distribution, distribution.replace('-', '_'))
            check_present(name)
        else:
            check_absent(name, distribution)
    if 'torchopt-meta' in siblings:
        check_meta()
    if 'torchopt-utils' in siblings:
        check_utils()
    if 'torchopt-accel' in siblings:
        check_accel()
    print('as it should be with', ', '.join(['torchopt-core', *siblings]))


if __name__ == '__main__':
    main(sys.argv[1:])
