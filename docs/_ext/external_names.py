"""Links to the names of torch and of Python, checked against what is installed.

This is intersphinx without its download: a name that torch does not have stays unresolved, which
the build counts as an error.
"""

from __future__ import annotations

import importlib
import inspect
import re
from typing import Any

from docutils import nodes
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment

TORCH = 'https://docs.pytorch.org/docs/stable/'
PYTHON = 'https://docs.python.org/3/library/'
# torch has a page for each name, except in these modules, which have one page for all of theirs.
PAGES = {
    'torch.Tensor': 'tensors.html',
    'torch.distributed.checkpoint': 'distributed.checkpoint.html',
    'torch.distributed.fsdp': 'distributed.fsdp.fully_shard.html',
    'torch.distributed.tensor': 'distributed.tensor.html',
    'torch.distributed': 'distributed.html',
    'torch.utils.checkpoint': 'checkpoint.html',
    'torch.utils.data': 'data.html',
    'torch.profiler': 'profiler.html',
}
# Types have their documentation in torch's front pages.
TYPES = {'torch.dtype', 'torch.device', 'torch.layout'}


def exists(name: str) -> bool:
    """Return whether Python finds an object under a dotted name."""
    parts = name.split('.')
    for size in range(len(parts), 0, -1):
        try:
            found: Any = importlib.import_module('.'.join(parts[:size]))
        except ImportError:
            continue
        for part in parts[size:]:
            if not hasattr(found, part):
                return False
            found = getattr(found, part)
        return True
    return False


def torch_address(name: str) -> str:
    if name in TYPES:
        return f'{TORCH}tensor_attributes.html#{name}'
    for module, page in PAGES.items():
        if name == module or name.startswith(f'{module}.'):
            return f'{TORCH}{page}#{name}'
    if inspect.ismodule(getattr(importlib.import_module('torch'), name.removeprefix('torch.'), 0)):
        return f'{TORCH}{name.removeprefix("torch.")}.html#module-{name}'
    return f'{TORCH}generated/{name}.html#{name}'


def python_address(name: str) -> str:
    module, _, rest = name.rpartition('.')
    if module:
        return f'{PYTHON}{module}.html#{name}'
    page = 'exceptions' if name.endswith(('Error', 'Warning', 'Exception')) else 'functions'
    page = {'None': 'constants', 'True': 'constants', 'False': 'constants'}.get(name, page)
    return f'{PYTHON}{page}.html#{rest}'


def resolve(
    app: Sphinx, env: BuildEnvironment, node: pending_xref, content: nodes.TextElement
) -> nodes.reference | None:
    name = node['reftarget']
    if node.get('refdomain') != 'py':
        return None
    name = re.sub(r'^nn\.', 'torch.nn.', name)
    if name.split('.')[0] == 'torch' and exists(name):
        address = torch_address(name)
    elif exists(f'builtins.{name}') or (name.split('.')[0] in STANDARD and exists(name)):
        address = python_address(name)
    else:
        return None
    return nodes.reference('', '', content, internal=False, refuri=address)


STANDARD = {'collections', 'os', 'contextlib', 'pathlib', 'types', 'typing'}


def setup(app: Sphinx) -> dict[str, Any]:
    app.connect('missing-reference', resolve)
    return {'parallel_read_safe': True}
