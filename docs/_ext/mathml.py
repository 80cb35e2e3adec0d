"""Mathematics as MathML, which browsers draw themselves: no script, no font, no network."""

from __future__ import annotations

from typing import Any

from docutils import nodes
from latex2mathml.converter import convert
from sphinx.application import Sphinx
from sphinx.util import logging
from sphinx.writers.html5 import HTML5Translator

logger = logging.getLogger(__name__)


def visit_inline(translator: HTML5Translator, node: nodes.math) -> None:
    translator.body.append(convert(node.astext()))
    raise nodes.SkipNode


def visit_display(translator: HTML5Translator, node: nodes.math_block) -> None:
    formula = node.astext()
    if '&' in formula or r'\\' in formula:
        formula = rf'\begin{{split}}{formula}\end{{split}}'
    drawn = convert(formula, display='block')
    if '<mi>&</mi>' in drawn:  # as latex2mathml leaves an environment that it does not know
        logger.warning('latex2mathml cannot align %s', formula, location=node)
    translator.body.append(f'<div class="math">{drawn}</div>')
    raise nodes.SkipNode


def setup(app: Sphinx) -> dict[str, Any]:
    app.add_html_math_renderer('mathml', (visit_inline, None), (visit_display, None))
    return {'parallel_read_safe': True, 'parallel_write_safe': True}
