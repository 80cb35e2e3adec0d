"""An explanation as HTML for a notebook."""

from __future__ import annotations

from html import escape

from torchopt_utils.explaining.report import Explanation, Finding
from torchopt_utils.explaining.text import (
    fractions,
    has_norms,
    headline,
    kind_of,
    norm_of,
    note_of,
    shown_steps,
    shown_tensors,
    verdict,
)

_BESIDE = 'border-left:0.2em solid;padding-left:0.8em'
# Colours come from the page, so that it can be light or dark.
_CELL = 'style="text-align:left;padding:0.1em 0.8em 0.1em 0"'


def as_html(found: Explanation) -> str:
    """Return the report of an explanation, a ``div`` without scripts and styles of the page."""
    parts = [f'<p>{escape(headline(found))}</p>', '<ul>']
    for tensor in shown_tensors(found):
        name = f'{_code(tensor.name)} {escape(kind_of(tensor))}'
        findings = ''.join(map(_finding, tensor.findings))
        parts.append(f'<li>{name}: <strong>{escape(verdict(tensor))}</strong>{findings}</li>')
    hidden = len(found.tensors) - len(shown_tensors(found))
    if hidden:
        parts.append(f'<li>and {hidden} more tensors</li>')
    parts.append('</ul>')
    parts += map(_finding, found.findings)
    if has_norms(found):
        parts.append(_table(found))
    return f'<div class="torchopt-explanation">{"".join(parts)}</div>'


def _finding(finding: Finding) -> str:
    change = f'<br>&rarr; {_code(finding.change)}' if finding.change else ''
    return f'<p style="{_BESIDE}">{escape(finding.text)}{change}</p>'


def _code(text: str) -> str:
    # Not <code>, for which some pages have colours of their own that do not fit their outputs.
    return f'<span style="font-family:monospace">{escape(text)}</span>'


def _table(found: Explanation) -> str:
    bars = fractions(found.steps)
    head = ''.join(
        f'<th {_CELL}>{title}</th>' for title in ('step', 'by', '|d loss / d params|', '', '')
    )
    rows = []
    for step in shown_steps(found.steps):
        if step is None:
            rows.append(f'<tr><td {_CELL} colspan="5">&#8942;</td></tr>')
            continue
        width = round(12 * bars.get(step.index, 0), 2)
        bar = (
            f'<span style="display:inline-block;height:0.7em;width:{width}em;'
            'background:currentColor;opacity:0.45"></span>'
        )
        cells = (str(step.index), escape(step.by), norm_of(step), bar, escape(note_of(step)))
        rows.append('<tr>' + ''.join(f'<td {_CELL}>{cell}</td>' for cell in cells) + '</tr>')
    return f'<table><thead><tr>{head}</tr></thead><tbody>{"".join(rows)}</tbody></table>'
