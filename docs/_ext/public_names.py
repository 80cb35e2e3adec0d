"""The reference: entries for all optimizers, short names, and a check that nothing is missing."""

from __future__ import annotations

import inspect
from typing import Any, ClassVar

from docutils import nodes
from docutils.parsers.rst import directives
from docutils.statemachine import StringList
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.util import logging
from sphinx.util.docutils import SphinxDirective
from sphinx.util.nodes import make_refnode

import torchopt

logger = logging.getLogger(__name__)

# The modules whose public names the reference must have.
MODULES = ('base', 'clip', 'distributed', 'hook', 'schedule', 'transform', 'unrolling')
# Names of torchopt that are modules, and have a section instead of an entry.
SECTIONS = (*MODULES, 'optim', 'pytree', 'registry', 'typing')


class Optimizers(SphinxDirective):
    """Entries of all optimizers: ``factories``, ``plain`` or ``meta``; or a list, ``fused``."""

    required_arguments = 1
    option_spec: ClassVar[dict[str, Any]] = {'noindex': directives.flag}

    def run(self) -> list[nodes.Node]:
        lines = []
        for entry in torchopt.registry.OPTIMIZERS:
            lines += self.entry(entry)
        container = nodes.container()
        self.state.nested_parse(StringList(lines), self.content_offset, container)
        return container.children

    def entry(self, entry: torchopt.registry.OptimizerEntry) -> list[str]:
        (kind,) = self.arguments
        if kind == 'fused':
            return [f'- :func:`torchopt.{entry.name}`'] if entry.fused else []
        if kind == 'factories':
            return [f'.. autofunction:: torchopt.{entry.name}', '']
        prefix = {'plain': '', 'meta': 'Meta'}[kind]
        name, *aliases = (f'torchopt.{prefix}{name}' for name in entry.class_names)
        lines = [f'.. autoclass:: {name}', '   :show-inheritance:', '']
        for alias in aliases:
            lines += [f'.. class:: {alias}', '', f"   Torch's spelling of :class:`{name}`.", '']
        return lines


def documented(env: BuildEnvironment) -> dict[str, tuple[str, str, str]]:
    """Return where each documented Python name is: page, anchor and kind."""
    objects = env.get_domain('py').objects  # type: ignore[attr-defined]
    return {name: (entry.docname, entry.node_id, entry.objtype) for name, entry in objects.items()}


def resolve(
    app: Sphinx, env: BuildEnvironment, node: pending_xref, content: nodes.TextElement
) -> nodes.reference | None:
    """Find a name that a docstring writes as its own module sees it."""
    if node.get('refdomain') != 'py':
        return None
    wanted = node['reftarget'].split('.')
    if len(wanted) > 1 and not wanted[0].startswith('torchopt') and not wanted[0][0].isupper():
        return None
    ending = '.'.join(wanted[-2:]) if len(wanted) > 1 and wanted[-2][0].isupper() else wanted[-1]
    kinds = {'func': ('function',), 'class': ('class', 'exception', 'data'), 'meth': ('method',)}
    wanted_kinds = kinds.get(node['reftype'], ())
    found = {
        (page, anchor)
        for name, (page, anchor, kind) in documented(env).items()
        if name == ending or name.endswith(f'.{ending}')
        if kind in wanted_kinds or not wanted_kinds
    }
    if len(found) != 1:
        return None
    ((page, anchor),) = found
    return make_refnode(app.builder, node['refdoc'], page, anchor, content)


def missing(env: BuildEnvironment) -> list[str]:
    """Return the public names that the reference lacks, in any of the places they are found."""
    known = {name.removeprefix('torchopt.').rpartition('.')[2] for name in documented(env)}
    names = [name for name in torchopt.__all__ if name not in SECTIONS]
    for module_name in MODULES:
        module = getattr(torchopt, module_name)
        own = getattr(module, '__all__', None) or [
            name
            for name, value in vars(module).items()
            if not name.startswith('_')
            and not inspect.ismodule(value)
            and getattr(value, '__module__', '').startswith('torchopt')
        ]
        names += own
    return sorted({name for name in names if name not in known})


def check(app: Sphinx, env: BuildEnvironment) -> None:
    for name in missing(env):
        logger.warning('the reference has no entry for the public name %s', name)


def setup(app: Sphinx) -> dict[str, Any]:
    app.add_directive('optimizers', Optimizers)
    app.connect('missing-reference', resolve)
    app.connect('env-check-consistency', check)
    return {'parallel_read_safe': True}
