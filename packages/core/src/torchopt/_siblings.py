"""Which names of ``torchopt`` are found on first use: modules of its own, names of siblings."""

from __future__ import annotations

import importlib
import importlib.util
from typing import Any

from torchopt.authoring.arguments import suggestion
from torchopt.registry import OPTIMIZERS

META = ('MetaOptimizer', *(f'Meta{name}' for entry in OPTIMIZERS for name in entry.class_names))
UTILS = (
    'explain',
    'extract_state_dict',
    'make_dot',
    'module_clone',
    'module_detach_',
    'recover_state_dict',
    'stop_gradient',
)
# Parts of core that take long to import, and that most programs don't need.
LATE_MODULES = ('distributed', 'unrolling')
LATE_FUNCTIONS = {'unroll': 'torchopt.unrolling'}
_OWNERS = {
    **dict.fromkeys(META, 'torchopt_meta'),
    **dict.fromkeys(UTILS, 'torchopt_utils'),
}


def installed_names() -> list[str]:
    """Return the names that are found on first use: late parts, and what siblings own."""
    found = {
        module: importlib.util.find_spec(module) is not None for module in set(_OWNERS.values())
    }
    return [
        *LATE_MODULES,
        *LATE_FUNCTIONS,
        *(name for name, module in _OWNERS.items() if found[module]),
    ]


def resolve(name: str) -> Any:
    """Import a late part of core, or ``name`` from the sibling that owns it.

    Raises:
        AttributeError: no sibling owns the name; the message suggests one that resembles it.
        ModuleNotFoundError: the sibling is not installed. An AttributeError would lose its
            message in ``from torchopt import ...``.
    """
    if name in LATE_MODULES:
        return importlib.import_module(f'torchopt.{name}')
    if name in LATE_FUNCTIONS:
        return getattr(importlib.import_module(LATE_FUNCTIONS[name]), name)
    module = _OWNERS.get(name)
    if module is None:
        # Tools look for names such as __wrapped__ and expect no answer.
        special = name.startswith('__')
        known = () if special else {*dir(importlib.import_module('torchopt')), *_OWNERS}
        raise AttributeError(
            f"module 'torchopt' has no attribute {name!r}{suggestion(name, known)}"
        )
    try:
        return getattr(importlib.import_module(module), name)
    except ModuleNotFoundError as error:
        if error.name != module:
            raise
        package = module.replace('_', '-')
        raise ModuleNotFoundError(
            f'torchopt.{name} is part of the package {package}: pip install {package}',
            name=module,
        ) from None
