"""The names and calls on the page that sets the optimizers beside torch's and optax's."""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

PAGE = Path(__file__).parents[2] / 'docs/reference/optimizers.md'


class Names(NamedTuple):
    """A line of the table of names: what each library calls an optimizer; () for nothing."""

    plain: tuple[str, ...]
    meta: tuple[str, ...]
    torch: tuple[str, ...]
    optax: tuple[str, ...]


def _table(heading: str) -> dict[str, list[tuple[str, ...]]]:
    """Return the names in backquotes in each cell of a table, by the table's first column."""
    (text,) = re.findall(rf'^## {heading}\n(.*?)^## ', PAGE.read_text(), re.DOTALL | re.MULTILINE)
    rows = re.findall(r'^\| (.*) \|$', text, re.MULTILINE)[1:]
    cells = [[cell.strip() for cell in row.split('|')] for row in rows]
    return {first: [tuple(re.findall('`(.*?)`', cell)) for cell in rest] for first, *rest in cells}


NAMES = {first.split('`')[1]: Names(*rest) for first, rest in _table('Names').items()}
"""What each library calls an optimizer, by the name of its function here."""

OPTIONS = _table('Options')
"""Names of options here, in torch and in optax, by what they are for."""


class Call(NamedTuple):
    """A call on the page: the required arguments, and the others with their defaults."""

    required: tuple[str, ...]
    defaults: Mapping[str, Any]


def calls(name: str) -> dict[str, Call]:
    """Return the calls in the section of an optimizer, by the dotted name of what is called."""
    sections = re.split(r'^### ', PAGE.read_text(), flags=re.MULTILINE)
    (section,) = [section for section in sections if section.startswith(f'{name}\n')]
    (block,) = re.findall(r'```\{code-block\} python\n(.*?)```', section, re.DOTALL)
    found = {}
    for statement in ast.parse(block).body:
        assert isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Call)
        call = statement.value
        found[ast.unparse(call.func)] = Call(
            tuple(ast.unparse(argument) for argument in call.args),
            {str(keyword.arg): ast.literal_eval(keyword.value) for keyword in call.keywords},
        )
    return found


def call_of(function: Callable[..., Any], left_out: frozenset[str]) -> Call:
    """Return the call that a signature asks for, without the options that the page leaves out."""
    parameters = inspect.signature(function).parameters.values()
    shown = [parameter for parameter in parameters if parameter.name not in left_out]
    return Call(
        tuple(parameter.name for parameter in shown if parameter.default is parameter.empty),
        {p.name: p.default for p in shown if p.default is not p.empty},
    )


def assert_same(shown: Call, real: Call) -> None:
    """Compare required arguments, order and defaults."""
    assert shown.required == real.required
    assert list(shown.defaults) == list(real.defaults)
    assert shown.defaults == real.defaults
