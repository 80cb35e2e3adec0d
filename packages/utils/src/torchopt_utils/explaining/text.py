"""An explanation as text for a terminal."""

from __future__ import annotations

import math
import textwrap

from torchopt_utils.explaining.report import Explanation, Finding, StepReport, TensorReport

_WIDTH, _BAR, _MOST_STEPS, _MOST_TENSORS = 79, 24, 14, 12


def as_text(found: Explanation) -> str:
    """Return the report of an explanation."""
    lines = [headline(found), '']
    for tensor in shown_tensors(found):
        lines.append(_about(tensor))
        for finding in tensor.findings:
            lines += _finding(finding, '    ')
    hidden = len(found.tensors) - _MOST_TENSORS
    if hidden > 0:
        lines.append(f'... and {hidden} more tensors')
    if found.findings:
        lines.append('')
    for finding in found.findings:
        lines += _finding(finding, '')
    if has_norms(found):
        lines += ['', *_table(found.steps)]
    return '\n'.join(lines)


def headline(found: Explanation) -> str:
    """Return one line on the loss and its graph."""
    steps = len(found.steps)
    by = ', '.join(dict.fromkeys(step.by for step in found.steps))
    taken = f'{steps} inner step{"s" * (steps != 1)}' + (f' ({by})' if by else '')
    return f'loss {found.loss:.6g}; behind it {found.operations} operations and {taken}'


def has_norms(found: Explanation) -> bool:
    """Tell whether a cotangent was measured at any step."""
    return any(step.norm is not None for step in found.steps)


def shown_tensors(found: Explanation) -> tuple[TensorReport, ...]:
    """Return the tensors to show: all, or the first, of many."""
    return found.tensors[:_MOST_TENSORS]


def verdict(tensor: TensorReport) -> str:
    """Return in a few words what the gradient by a tensor is."""
    if not tensor.reached:
        return 'not reached: the gradient is None'
    through = f'reached through {tensor.steps} inner step{"s" * (tensor.steps != 1)}'
    if tensor.norm is None:
        return f'{through}, gradient not measured'
    return f'{through}, |gradient| = {tensor.norm:.3g}'


def kind_of(tensor: TensorReport) -> str:
    """Return shape, dtype and leafness in a few words."""
    dtype = str(tensor.dtype).removeprefix('torch.')
    return f'{tuple(tensor.shape)} {dtype}{"" if tensor.is_leaf else ", not a leaf"}'


def shown_steps(steps: tuple[StepReport, ...]) -> list[StepReport | None]:
    """Return the steps to show, the last one first; None stands for a gap."""
    backwards = list(reversed(steps))
    if len(backwards) <= _MOST_STEPS:
        return [*backwards]
    half = _MOST_STEPS // 2
    return [*backwards[:half], None, *backwards[-half:]]


def fractions(steps: tuple[StepReport, ...]) -> dict[int, float]:
    """Return the length of each step's bar, in [0, 1], on a logarithmic scale."""
    logs = {
        step.index: math.log10(step.norm)
        for step in steps
        if step.norm is not None and step.norm > 0 and math.isfinite(step.norm)
    }
    if not logs:
        return {}
    top = max(logs.values())
    # At least four decades, so that small differences look small.
    span = max(top - min(logs.values()), 4.0)
    return {index: 1 - 0.9 * (top - log) / span for index, log in logs.items()}


def norm_of(step: StepReport) -> str:
    """Return the norm of a step's cotangent."""
    return 'not seen' if step.norm is None else f'{step.norm:.3g}'


def note_of(step: StepReport) -> str:
    """Return what is special about a step."""
    notes = []
    if step.side_by_side > 1:
        notes.append(f'{step.side_by_side} side by side')
    if step.first_order:
        notes.append('first order')
    if not step.is_finite:
        notes.append('not finite')
    return ', '.join(notes)


def _about(tensor: TensorReport) -> str:
    return f'{tensor.name} {kind_of(tensor)}: {verdict(tensor)}'


def _finding(finding: Finding, indent: str) -> list[str]:
    first, rest = f'{indent}! ', f'{indent}  '
    lines = textwrap.wrap(
        finding.text, _WIDTH, initial_indent=first, subsequent_indent=rest, break_long_words=False
    )
    if finding.change:
        lines.append(f'{rest}-> {finding.change}')
    return lines


def _table(steps: tuple[StepReport, ...]) -> list[str]:
    bars = fractions(steps)
    width = max(len(step.by) for step in steps)
    lines = [f'step  {"by".ljust(width)}  |d loss / d params|, back from the last step']
    for step in shown_steps(steps):
        if step is None:
            lines.append(' ...')
            continue
        bar = '#' * round(_BAR * bars.get(step.index, 0))
        row = f'{step.index:4d}  {step.by.ljust(width)}  {norm_of(step):<9} {bar:<{_BAR}}'
        lines.append(f'{row}  {note_of(step)}'.rstrip())
    return lines
