"""The public function: checks its arguments, flattens them, and runs a strategy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch

from torchopt.authoring.describe import describe
from torchopt.unrolling.context.wrappers import require_no_wrapped_modules
from torchopt.unrolling.leaves import Leaves, flatten, tensors_of
from torchopt.unrolling.loop import Loop
from torchopt.unrolling.steps.call import require_storable
from torchopt.unrolling.strategies.base import Strategy, run_strategy
from torchopt.unrolling.strategies.stored import Stored
from torchopt.unrolling.stream import Batches, Stream

Carry = TypeVar('Carry')

_PLAIN = Stored()


def unroll(
    step: Callable[[Carry, Any, Any], tuple[Carry, Any]],
    carry: Carry,
    xs: Any = None,
    consts: Any = None,
    *,
    length: int | None = None,
    backward: Strategy = _PLAIN,
    until: Callable[[Any], Any] | None = None,
    progress: Callable[[int, Any, Any], object] | None = None,
) -> tuple[Carry, Any]:
    """Run ``step`` many times, and differentiate through all steps in the memory at hand.

    The result equals this loop's; only the backward pass is different::

        ys = []
        for x in xs:
            carry, y = step(carry, x, consts)
            ys.append(y)
        return carry, stack(ys)

    Args:
        step: ``step(carry, x, consts) -> (carry, y)``, a function of its arguments alone, which
            does not write into them. It takes inner gradients with ``torch.func.grad`` or
            :func:`torchopt.unrolling.grad`, and random numbers from torch's own generators.
        carry: Tree of what changes from step to step: parameters, optimizer states, buffers.
            Leaves are tensors, whose shapes and dtypes stay the same, or immutable values such as
            a count.
        xs: Tree of tensors; each step receives one slice along the first dimension. Or a
            :class:`~torchopt.unrolling.Stream`, which makes what the step of a number receives.
        consts: Tree of what all steps share: hyperparameters, data. Leaves that are not tensors
            are passed on as they are.
        length: Number of steps, needed without ``xs``. Beside ``until``, an upper bound.
        backward: How the backward pass is paid for: ``Stored()``, ``Recomputed()``,
            ``Snapshots()``, ``Truncated(k)`` or ``ForwardMode()`` of :mod:`torchopt.unrolling`.
        until: Condition on the carry, which returns a bool or a tensor with one; the loop ends
            before the first step whose carry satisfies it.
        progress: ``progress(taken, carry, y)`` is called after every step of the forward pass,
            with the number of steps taken so far; ``lambda *_: bar.update()`` moves a tqdm bar.

    Returns:
        The last carry, and the tree of all ``y``, each stacked along a new first dimension (None
        if no step was taken). Both are differentiable with respect to all tensors in ``carry``,
        ``xs`` and ``consts``.

    Raises:
        TypeError: an argument has the wrong type, or the step returns what cannot be stored.
        ValueError: the number of steps is missing or contradictory, or the carry changes its
            structure, shapes or dtypes, or the folder of ``Disk`` belongs to another run.
        RuntimeError: the step writes into its arguments; or it draws from a generator that
            ``backward`` does not replay (a ``torch.Generator``, Python's ``random``, NumPy); or it
            depends on a tensor that requires grad, or has a tangent, and is not an argument, whose
            gradient ``backward`` would lose; or ``backward`` cannot run where ``unroll`` is called;
            or it uses a module that ``fully_shard`` or DDP has wrapped; or a step that is run again
            after a kill gives another result than before.
        OSError: a file of :class:`~torchopt.unrolling.Disk` cannot be written or read.

    Example:
        >>> import torch, torchopt
        >>> lr = torch.tensor(0.25, requires_grad=True)
        >>> def step(w, x, lr):
        ...     return w - lr * torchopt.unrolling.grad(torch.square)(w), w
        >>> w, path = torchopt.unroll(step, torch.tensor(1.0), consts=lr, length=3)
        >>> path
        tensor([1.0000, 0.5000, 0.2500], grad_fn=<StackBackward0>)
        >>> torch.autograd.grad(w, lr)
        (tensor(-1.5000),)
    """
    if not callable(step):
        raise TypeError(f'step must be a function, got {type(step).__name__}')
    if not isinstance(backward, Strategy):
        raise TypeError(
            'backward must be one of Stored(), Recomputed(), Snapshots(), Truncated(k) and '
            f'ForwardMode() of torchopt.unrolling, got {backward!r}'
        )
    carry_leaves, carry_structure = flatten(carry)
    require_storable(carry_leaves, carry_structure)
    consts_leaves, _ = flatten(consts)
    data: Batches | None = None
    if isinstance(xs, Stream):
        xs_leaves: Leaves = []
        steps = _agreed({n for n in (xs.length, length) if n is not None}, length)
        # Without a step there is no batch, and nobody asks for its structure.
        data = None if steps == 0 else Batches(xs.fn)
        xs = None if data is None else data.example
    else:
        xs_leaves, _ = flatten(xs)
        steps = _number_of_steps(xs_leaves, length)
    require_no_wrapped_modules(step, consts_leaves)
    if steps is None and until is None:
        raise ValueError('unroll needs xs, length or until to know when to end')
    _, structure = flatten((carry, xs, consts))
    loop = Loop(
        step=step,
        carry=carry_leaves,
        xs=xs_leaves,
        consts=consts_leaves,
        carry_structure=carry_structure,
        structure=structure,
        length=steps,
        until=until,
        progress=progress,
        data=data,
    )
    return run_strategy(backward, loop)


def _number_of_steps(xs: Leaves, length: int | None) -> int | None:
    for leaf in xs:
        if leaf is not None and (not isinstance(leaf, torch.Tensor) or leaf.dim() == 0):
            raise TypeError(
                f'xs must be tensors with a first dimension to slice, got {describe(leaf)}'
            )
    return _agreed({leaf.shape[0] for leaf in tensors_of(xs)}, length)


def _agreed(lengths: set[int], length: int | None) -> int | None:
    if length is not None:
        if isinstance(length, bool) or not isinstance(length, int) or length < 0:
            raise ValueError(f'length must be an integer of at least 0, got {length!r}')
        lengths.add(length)
    if len(lengths) > 1:
        raise ValueError(
            f'the first dimensions of xs, and length if it is given, must agree on the number of '
            f'steps, got {sorted(lengths)}'
        )
    return lengths.pop() if lengths else None
