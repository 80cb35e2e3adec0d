"""Which module a parameter belongs to, told by its name."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

_MOST = 6
"""So many groups fit side by side on a page."""


def modules_of(names: Mapping[int, str], plain: Iterable[int], depth: int | None) -> dict[int, str]:
    """Return the module of each parameter, cut to a number of name parts.

    Args:
        names: Qualified names, such as ``'encoder.0.weight'``, by number.
        plain: Numbers of tensors that are no parameters of a module unless their name has a dot.
        depth: Number of parts that are kept; None: as many as leave few modules.

    Returns:
        Modules such as ``'encoder'`` by number; ``''`` is the root.
    """
    without = {number for number in plain if '.' not in names.get(number, '')}
    paths = {
        number: name.split('.')[:-1] for number, name in names.items() if number not in without
    }
    if depth is None:
        depth = _readable_depth(paths.values())
    return {number: '.'.join(path[:depth]) for number, path in paths.items()}


def _readable_depth(paths: Iterable[list[str]]) -> int:
    paths = list(paths)
    deepest = max(map(len, paths), default=0)
    for depth in range(deepest, 0, -1):
        if len({tuple(path[:depth]) for path in paths}) <= _MOST:
            return depth
    return 0
