"""What torch tells only through names that are not public.

Each is looked up when it is needed, and has an answer for a torch in which it is gone: results stay
right, or torch raises.
"""

from __future__ import annotations

from typing import Any, Literal, TypeAlias

import torch

Transform: TypeAlias = Literal['none', 'vmap', 'derivative', 'unknown']
"""The innermost transform of torch.func that is active."""


def active_transform() -> Transform:
    """Tell in which transform of torch.func this is.

    Where that is unknown, inner gradients are computed again instead of remembered, and torch
    refuses to map or differentiate the node of a loop.
    """
    innermost = getattr(getattr(torch._C, '_functorch', None), 'peek_interpreter_stack', None)
    if innermost is None:
        return 'unknown'
    interpreter: Any = innermost()
    if interpreter is None:
        return 'none'
    return 'vmap' if interpreter.key().name == 'Vmap' else 'derivative'


def retains_graph() -> bool:
    """Tell, within a backward pass, whether its graph may be needed once more.

    Where that is unknown it may be: what was stored is then freed together with the graph, and not
    on the way.
    """
    tell = getattr(getattr(torch._C, '_autograd', None), '_get_current_graph_task_keep_graph', None)
    retained: bool = tell is None or tell()
    return retained


def too_many_graphs() -> tuple[type[Exception], ...]:
    """Return what Dynamo raises when one function was compiled too often.

    Where that is unknown it is nothing, and what Dynamo raises comes through.
    """
    errors = getattr(getattr(torch, '_dynamo', None), 'exc', None)
    names = ('FailOnRecompileLimitHit', 'FailOnCacheLimitHit')
    return tuple(getattr(errors, name) for name in names if hasattr(errors, name))
