"""Gradients by torch.autograd, with the results of torch.func and without its transforms."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from torchopt.authoring.describe import describe
from torchopt.authoring.torch_internals import active_transforms, in_dual_level, torch_tree_map
from torchopt.unrolling.context.autocast import Autocast
from torchopt.unrolling.inner_gradients.attention import differentiable_attention
from torchopt.unrolling.inner_gradients.inside_level import InsideLevel
from torchopt.unrolling.inner_gradients.level import Level
from torchopt.unrolling.inner_gradients.normalization import separate_affine


def grad_and_value_of(
    fn: Callable[..., Any],
    argnums: int | tuple[int, ...],
    has_aux: bool,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> Any:
    """Return what ``torch.func.grad_and_value(fn, argnums, has_aux)(*args, **kwargs)`` returns.

    torch.autograd computes it where nothing stands in the way. It then takes tensors that
    torch.func refuses, and builds a graph of the gradient only if somebody may ask for it.
    """
    if _is_for_autograd(args, argnums):
        return _by_autograd(fn, argnums, has_aux, args, kwargs)
    with differentiable_attention(), separate_affine():
        return torch.func.grad_and_value(fn, argnums, has_aux)(*args, **kwargs)


def _is_for_autograd(args: tuple[Any, ...], argnums: int | tuple[int, ...]) -> bool:
    """Tell whether torch.autograd can take the gradient; torch.func also raises what is wrong."""
    # In traced code, create_graph=True is refused, or silently wrong.
    if torch.compiler.is_compiling() or active_transforms() != [] or in_dual_level():
        return False
    numbers = (argnums,) if isinstance(argnums, int) else argnums
    if not isinstance(numbers, tuple) or not all(type(number) is int for number in numbers):
        return False
    chosen = {number % len(args) for number in numbers if -len(args) <= number < len(args)}
    if not numbers or len(chosen) != len(numbers):
        return False
    suitable: list[bool] = []
    torch_tree_map(lambda leaf: suitable.append(_is_suitable(leaf)), [args[n] for n in chosen])
    return all(suitable)


def _is_suitable(leaf: Any) -> bool:
    return (
        isinstance(leaf, torch.Tensor)
        and leaf.layout == torch.strided
        and not leaf.is_inference()
        and not torch.is_inference_mode_enabled()
    )


def _by_autograd(
    fn: Callable[..., Any],
    argnums: int | tuple[int, ...],
    has_aux: bool,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> Any:
    level = Level()
    chosen = args[argnums] if isinstance(argnums, int) else tuple(args[n] for n in argnums)
    entered = torch_tree_map(level.enter, chosen)
    numbers = (argnums,) if isinstance(argnums, int) else argnums
    by_number = dict(zip([number % len(args) for number in numbers], _tupled(entered, argnums)))
    inner_args = [
        by_number[number] if number in by_number else torch_tree_map(level.constant, arg)
        for number, arg in enumerate(args)
    ]
    inner_kwargs = torch_tree_map(level.constant, kwargs)
    mode = InsideLevel(level)
    # The cache of autocast would hold the casts of the leaves until its block ends.
    with torch.enable_grad(), Autocast.capture(level.inside).applied():
        with mode:
            output = fn(*inner_args, **inner_kwargs)
        value, aux = _checked(output, has_aux)
        level.require_unwritten()
        found = iter(_gradients(level, mode, value, aux))
    gradient = torch_tree_map(lambda _: level.leave(next(found)), chosen)
    value = level.leave(value)
    if has_aux:
        aux = torch_tree_map(level.leave, aux)
    level.end()
    return gradient, ((value, aux) if has_aux else value)


def _tupled(entered: Any, argnums: int | tuple[int, ...]) -> tuple[Any, ...]:
    return (entered,) if isinstance(argnums, int) else entered


def _gradients(
    level: Level, mode: InsideLevel, value: torch.Tensor, aux: Any
) -> list[torch.Tensor]:
    inside = level.inside
    if not value.requires_grad:
        return [torch.zeros_like(tensor) for tensor in inside]
    create = level.depends_on_outside(value) or (level.is_recorded and level.is_opaque)
    kept = [create]
    torch_tree_map(lambda leaf: kept.append(level.depends_on_outside(leaf)), aux)
    # Checkpointed blocks run again in the backward pass.
    with mode:
        found = torch.autograd.grad(
            value, inside, create_graph=create, retain_graph=any(kept), allow_unused=True
        )
    return [
        torch.zeros_like(tensor) if gradient is None else gradient
        for tensor, gradient in zip(inside, found)
    ]


def _checked(output: Any, has_aux: bool) -> tuple[torch.Tensor, Any]:
    """Return the value and the auxiliary output of a function.

    Raises:
        RuntimeError: the function returned something else.
    """
    aux: Any = ()
    if has_aux:
        if not isinstance(output, tuple) or len(output) != 2:
            raise RuntimeError(
                'with has_aux=True, a function whose gradient is taken must return the pair '
                f'(value, aux), got {type(output).__name__}'
            )
        output, aux = output
        torch_tree_map(_require_tensor, aux)
    if not isinstance(output, torch.Tensor) or output.dim() != 0:
        raise RuntimeError(
            'a function whose gradient is taken must return a scalar tensor, got '
            f'{describe(output)}: take its mean or sum'
        )
    return output, aux


def _require_tensor(leaf: Any) -> None:
    # torch.func also gives a graph of the outside to tensors alone.
    if not isinstance(leaf, torch.Tensor):
        raise RuntimeError(
            'the auxiliary output of a function whose gradient is taken must be a tree of tensors, '
            f'got {describe(leaf)}'
        )
