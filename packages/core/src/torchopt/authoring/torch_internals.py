"""What torch tells only through names that are not public.

Each is looked up when it is needed, and has an answer for a torch in which it is gone: results stay
right, or torch or ``unroll`` raises.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from typing import Any, Literal, TypeAlias

import torch

from torchopt import pytree

Transform: TypeAlias = Literal['none', 'vmap', 'derivative', 'unknown']
"""The innermost transform of torch.func that is active."""


def transforming() -> bool:
    """Tell whether a transform of ``torch.func`` is active.

    Where that is unknown, it counts as active: nothing is then written in place.
    """
    tell = getattr(torch._C, '_are_functorch_transforms_active', None)
    active: bool = tell is None or tell()
    return active


def active_transforms() -> list[str] | None:
    """Return the names of the active transforms of torch.func, the innermost last.

    The names are ``'Vmap'``, ``'Grad'``, ``'Jvp'`` and ``'Functionalize'``. Where they are unknown,
    the answer is None.
    """
    interpreters = getattr(getattr(torch._C, '_functorch', None), 'get_interpreter_stack', None)
    if interpreters is None:
        return None
    # Without any transform, torch returns None.
    return [interpreter.key().name for interpreter in interpreters() or ()]


def vmap_randomness() -> list[str] | None:
    """Return the ``randomness`` of the active vmaps, the innermost last; None where unknown."""
    functorch = getattr(torch._C, '_functorch', None)
    view = getattr(functorch, 'CVmapInterpreterPtr', None)
    names = active_transforms()
    if view is None or names is None:
        return None
    interpreters = functorch.get_interpreter_stack() if functorch is not None and names else []
    return [
        view(interpreter).randomness().name.lower()
        for interpreter, name in zip(interpreters or (), names)
        if name == 'Vmap'
    ]


def active_transform() -> Transform:
    """Return the innermost transform of torch.func that is active.

    Where it is unknown, inner gradients are computed again instead of cached, and torch refuses to
    map or differentiate the autograd node of a loop.
    """
    names = active_transforms()
    if names is None:
        return 'unknown'
    if not names:
        return 'none'
    return 'vmap' if names[-1] == 'Vmap' else 'derivative'


def is_transformed(tensor: torch.Tensor) -> bool:
    """Tell whether a transform of torch.func differentiates or maps ``tensor``.

    Where that is unknown it counts as transformed, and whoever cannot follow it must refuse.
    """
    functorch = getattr(torch._C, '_functorch', None)
    tell = getattr(functorch, 'is_functorch_wrapped_tensor', None)
    transformed: bool = tell is None or tell(tensor)
    return transformed


def forward_grad_switch() -> Any:
    """Return the function that switches forward-mode derivatives on or off in this thread.

    It returns nothing; :func:`forward_grad_enabled` tells what is on. Where there is none, the
    answer is None, and whoever needs it must refuse.
    """
    return getattr(torch._C, '_set_fwd_grad_enabled', None)


def forward_grad_enabled() -> bool:
    """Tell whether forward-mode derivatives are on in this thread; where unknown, they are."""
    tell = getattr(torch._C, '_is_fwd_grad_enabled', None)
    enabled: bool = tell is None or tell()
    return enabled


def in_dual_level() -> bool:
    """Tell whether a ``torch.autograd.forward_ad.dual_level`` is entered; where unknown, it is."""
    level: int = getattr(torch.autograd.forward_ad, '_current_level', 0)
    return level >= 0


def is_mapped_by_autograd(value: Any) -> bool:
    """Tell whether ``value`` is a tensor that ``is_grads_batched=True`` maps over.

    Where that is unknown the answer is no, and Dynamo refuses such a tensor in its own words.
    """
    tell = getattr(getattr(torch._C, '_functorch', None), 'is_legacy_batchedtensor', None)
    mapped: bool = tell is not None and isinstance(value, torch.Tensor) and tell(value)
    return mapped


def sequence_number(node: Any) -> int | None:
    """Return the number that a node of the graph got when it was recorded; None where unknown.

    Numbers grow with time within a thread. Without them, a drawing can't always tell the forward
    pass of an inner loss from its gradient.
    """
    tell = getattr(node, '_sequence_nr', None)
    return None if tell is None else tell()


def retains_graph() -> bool:
    """Tell, within a backward pass, whether another backward pass may follow.

    Where that is unknown the answer is yes: checkpoints are then freed together with the graph, and
    not one by one.
    """
    tell = getattr(getattr(torch._C, '_autograd', None), '_get_current_graph_task_keep_graph', None)
    retained: bool = tell is None or tell()
    return retained


def step_is_observed(optimizer: torch.optim.Optimizer) -> bool:
    """Tell whether an optimizer's step has hooks to call, or a profiler to report to.

    Where that is unknown the answer is yes, and torch finds out.
    """
    if torch.compiler.is_compiling():
        return True
    profiling = getattr(torch.autograd, '_profiler_enabled', None)
    if profiling is None or profiling():
        return True
    # torch.optim has no attribute of this name.
    module = sys.modules.get('torch.optim.optimizer')
    places = (
        (module, '_global_optimizer_pre_hooks'),
        (module, '_global_optimizer_post_hooks'),
        (optimizer, '_optimizer_step_pre_hooks'),
        (optimizer, '_optimizer_step_post_hooks'),
    )
    return any([getattr(place, name, True) for place, name in places])


def torch_tree_map(fn: Callable[[Any], Any], tree: Any) -> Any:
    """Map the leaves of a tree of torch, whose nodes are known to torch.func; None is a leaf.

    Where torch has no such trees, they are trees of optree.
    """
    tree_map = getattr(getattr(torch.utils, '_pytree', None), 'tree_map', None)
    if tree_map is None:
        return pytree.tree_map(fn, tree, none_is_leaf=True)
    return tree_map(fn, tree)


def recompile_limit_errors() -> tuple[type[Exception], ...]:
    """Return what Dynamo raises when one function was compiled too often.

    In a torch without these names the tuple is empty, and Dynamo's error reaches the user.
    """
    errors = getattr(getattr(torch, '_dynamo', None), 'exc', None)
    names = ('FailOnRecompileLimitHit', 'FailOnCacheLimitHit')
    return tuple(getattr(errors, name) for name in names if hasattr(errors, name))


def process_group(name: str) -> Any:
    """Return the process group of this name; '' is the default group, for which torch takes None.

    Raises:
        RuntimeError: torch no longer tells groups by their names.
    """
    if not name:
        return None
    resolve = getattr(torch.distributed.distributed_c10d, '_resolve_process_group', None)
    if resolve is None:
        raise RuntimeError(
            f'this torch cannot find the process group {name!r} by its name: use the default '
            'group, group=None'
        )
    return resolve(name)


def holds_tensors(node: Any) -> bool:
    """Tell whether a node of the graph holds tensors that it has saved for its backward pass.

    Where that is unknown, or they have been freed, the answer is no.
    """
    names = [name for name in dir(node) if name.startswith('_saved_') or name == 'saved_tensors']
    try:
        saved = [getattr(node, name) for name in names]
    except RuntimeError:  # freed
        return False
    flat = [each for value in saved for each in (value if isinstance(value, tuple) else (value,))]
    return any(isinstance(value, torch.Tensor) for value in flat)


def compiler_named(name: str) -> Callable[..., Any] | None:
    """Return the function behind the name of a backend of ``torch.compile``.

    Where it is unknown the answer is None, and the function cannot be watched.
    """
    if name == 'inductor':
        # This one takes options; see :func:`torch.compile`.
        module = importlib.import_module('torch._inductor.compile_fx')
        return getattr(module, 'compile_fx', None)
    lookup = getattr(importlib.import_module('torch._dynamo'), 'lookup_backend', None)
    return None if lookup is None else lookup(name)
