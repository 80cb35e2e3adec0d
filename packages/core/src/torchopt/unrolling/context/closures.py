"""The Python function behind a callable."""

from __future__ import annotations

from typing import Any


def function_of(fn: Any) -> Any:
    """Return the Python function behind a partial, a method, a callable object or a wrapper.

    Raises:
        TypeError: there is no Python function behind it.
    """
    while not hasattr(fn, '__code__') or hasattr(fn, '_torchdynamo_orig_callable'):
        for attribute in ('_torchdynamo_orig_callable', '__wrapped__', '__func__', 'func'):
            if hasattr(fn, attribute):
                fn = getattr(fn, attribute)
                break
        else:
            if not hasattr(fn.__call__, '__func__'):
                raise TypeError(f'step must be a Python function, got {type(fn).__name__}')
            fn = fn.__call__
    return fn
