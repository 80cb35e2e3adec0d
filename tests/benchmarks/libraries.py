"""The libraries that are compared."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, eq=False)
class Library:
    """A library, or one way of using it.

    Attributes:
        name: Heading of its column.
        adapter: Module and class in the folder ``adapters``.
        options: Arguments of the adapter.
        installs: The ``pip install`` arguments, one string per call, that complete its environment
            after torch and pytest-benchmark; None if it runs in the project's environment.
        imports: The module a user imports, if its import is timed.
        note: How it differs from the project.
    """

    name: str
    adapter: str
    options: dict[str, Any] = field(default_factory=dict)
    installs: tuple[str, ...] | None = None
    imports: str | None = None
    note: str = ''


PROJECT = Library('this project', 'torchopt_api:TorchOpt', imports='torchopt')

LIBRARIES = (
    PROJECT,
    Library(
        'accelerated',
        'torchopt_api:TorchOpt',
        {'use_accelerated_op': True},
        note='this project with `use_accelerated_op=True`.',
    ),
    Library(
        'torchopt 0.7.3',
        'torchopt_api:TorchOpt',
        installs=('torchopt==0.7.3',),
        imports='torchopt',
        note='its composite path, `use_accelerated_op=False`.',
    ),
    Library(
        'higher 0.2.1',
        'higher_api:Higher',
        installs=('higher==0.2.1',),
        imports='higher',
        note='has no `eps_root`, which saves one addition per tensor. It returns new parameters, '
        'not updates.',
    ),
    Library(
        'learn2learn 0.2.0',
        'learn2learn_api:Learn2Learn',
        # The published C files are from a Cython before Python 3.11: generate them again.
        installs=(
            'numpy cython setuptools wheel',
            '--use-pep517 --no-build-isolation --no-deps '
            '--config-settings=--global-option=build_ext learn2learn==0.2.0',
        ),
        note='has SGD as its only inner optimizer. Its import is not timed: it needs gym, '
        'torchvision and other packages, which the benchmark does not install.',
    ),
    Library(
        'torch.optim',
        'torch_optim:TorchOptim',
        note='`differentiable=True`. It has no `eps_root` and writes into its arguments, here '
        'clones. A single step is `torch.optim.adam.adam`, the function behind the class.',
    ),
)
