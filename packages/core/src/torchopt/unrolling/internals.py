"""Private names of torch that have no public counterpart.

Each is looked up when it is needed. In a torch without it, results stay right, or torch raises.
"""

from __future__ import annotations

from typing import Any, Literal, TypeAlias

import torch

Transform: TypeAlias = Literal['none', 'vmap', 'derivative', 'unknown']
"""The innermost transform of torch.func that is active."""


def active_transform() -> Transform:
    """Return the innermost transform of torch.func that is active.

    Where it is unknown, inner gradients are computed again instead of cached, and torch refuses to
    map or differentiate the autograd node of a loop.
    """
    innermost = getattr(getattr(torch._C, '_functorch', None), 'peek_interpreter_stack', None)
    if innermost is None:
        return 'unknown'
    interpreter: Any = innermost()
    if interpreter is None:
        return 'none'
    return 'vmap' if interpreter.key().name == 'Vmap' else 'derivative'


def retains_graph() -> bool:
    """Tell, within a backward pass, whether another backward pass may follow.

    Where that is unknown the answer is yes: checkpoints are then freed together with the graph, and
    not one by one.
    """
    tell = getattr(getattr(torch._C, '_autograd', None), '_get_current_graph_task_keep_graph', None)
    retained: bool = tell is None or tell()
    return retained


def recompile_limit_errors() -> tuple[type[Exception], ...]:
    """Return what Dynamo raises when one function was compiled too often.

    In a torch without these names the tuple is empty, and Dynamo's error reaches the user.
    """
    errors = getattr(getattr(torch, '_dynamo', None), 'exc', None)
    names = ('FailOnRecompileLimitHit', 'FailOnCacheLimitHit')
    return tuple(getattr(errors, name) for name in names if hasattr(errors, name))
