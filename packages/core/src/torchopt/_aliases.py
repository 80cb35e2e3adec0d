"""Modules under which users of TorchOpt 0.7 import what ``torchopt`` has itself.

They have no files. Every name in them is a name of ``torchopt``, looked up when it is used, so that
a sibling package is imported no sooner than through ``torchopt`` itself.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterable, Mapping
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

from torchopt._siblings import META, UTILS
from torchopt.registry import OPTIMIZERS


def _same(*names: str) -> dict[str, str]:
    return {name: name for name in names}


# Name in the module -> name in torchopt.
MODULES: Mapping[str, Mapping[str, str]] = {
    'torchopt.accelerated_op': {'is_available': 'accelerated_op_available'},
    'torchopt.alias': _same(*(entry.name for entry in OPTIMIZERS)),
    'torchopt.combine': _same('chain'),
    'torchopt.optim.base': _same('Optimizer'),
    'torchopt.optim.func.base': _same('FuncOptimizer'),
    'torchopt.optim.meta': _same(*META),
    'torchopt.optim.meta.base': _same('MetaOptimizer'),
    'torchopt.utils': _same(*(name for name in UTILS if name != 'make_dot')),
    'torchopt.version': _same('__version__'),
    'torchopt.visual': _same('make_dot'),
}


class _Alias(ModuleType):
    """A module whose names are looked up in ``torchopt``."""

    def __init__(self, name: str, names: Mapping[str, str]) -> None:
        super().__init__(name, f'Another place for names of ``torchopt``: {", ".join(names)}.')
        self.__spec__ = ModuleSpec(name, None)
        self.__all__ = list(names)
        self._names = names

    def __getattr__(self, name: str) -> Any:
        if name not in self._names:
            raise AttributeError(f'module {self.__name__!r} has no attribute {name!r}')
        value = getattr(importlib.import_module('torchopt'), self._names[name])
        setattr(self, name, value)
        return value

    def __dir__(self) -> Iterable[str]:
        return self.__all__


def install() -> None:
    """Let the modules be imported, and found as attributes of those that hold them."""
    for name, names in MODULES.items():
        sys.modules[name] = _Alias(name, names)
        parent, _, child = name.rpartition('.')
        setattr(sys.modules[parent], child, sys.modules[name])
