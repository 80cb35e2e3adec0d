"""The imports of a source file, read without running it."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from typing import NamedTuple


class Import(NamedTuple):
    """``import module``, or ``from module import name``."""

    line: int
    module: str
    name: str | None

    @property
    def top(self) -> str:
        """The outermost package."""
        return self.module.partition('.')[0]


def is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test) == 'TYPE_CHECKING'


def imports_of(
    node: ast.AST, *, functions: bool = True, type_checking: bool = True
) -> Iterator[Import]:
    """Every import in a tree: also inside functions, and for type checkers alone, if asked."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            yield from (Import(child.lineno, alias.name, None) for alias in child.names)
        elif isinstance(child, ast.ImportFrom):
            assert child.module and child.level == 0, f'relative import in line {child.lineno}'
            yield from (Import(child.lineno, child.module, alias.name) for alias in child.names)
        is_function = isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef))
        if (functions or not is_function) and (type_checking or not is_type_checking(child)):
            yield from imports_of(child, functions=functions, type_checking=type_checking)
