"""The libraries that are compared, one line each."""

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
        installs: Arguments of the calls of ``pip install`` that make its environment, after torch
            and pytest-benchmark; None for what runs in the environment of the project.
        imports: What a user imports, if that can be timed.
        note: Where it does something else than the project.
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
        note='has no `eps_root`: one addition a tensor less. Its updates are those of parameters.',
    ),
    Library(
        'learn2learn 0.2.0',
        'learn2learn_api:Learn2Learn',
        # The published sources hold C files of a Cython from before Python 3.11: make them anew.
        installs=(
            'numpy cython setuptools wheel',
            '--use-pep517 --no-build-isolation --no-deps '
            '--config-settings=--global-option=build_ext learn2learn==0.2.0',
        ),
        note='has SGD as the only inner optimizer. Its import is not timed: it needs gym, '
        'torchvision and others, which the benchmark passes by.',
    ),
    Library(
        'torch.optim',
        'torch_optim:TorchOptim',
        note='`torch.optim.adam.adam(..., differentiable=True)`, the function behind the class. '
        'It has no `eps_root` and writes into its arguments, so that they are cloned first. '
        'Unrolling over a module is left to its user.',
    ),
)
