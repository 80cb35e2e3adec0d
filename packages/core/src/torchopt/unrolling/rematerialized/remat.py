"""``remat``: a block whose activations no graph holds."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar, overload

import torch
from torch import nn

from torchopt import pytree
from torchopt.authoring.describe import enumerate_few
from torchopt.authoring.torch_internals import (
    active_transforms,
    in_dual_level,
    is_transformed,
    transforming,
    vmap_randomness,
)
from torchopt.unrolling.context.captures import is_dual
from torchopt.unrolling.leaves import fill, flatten, tensors_of
from torchopt.unrolling.rematerialized.block import Block
from torchopt.unrolling.rematerialized.held_tensors import HeldTensors
from torchopt.unrolling.rematerialized.node import rematerialized
from torchopt.unrolling.steps.compilation import Compilation, backend_of

FunctionT = TypeVar('FunctionT', bound=Callable[..., Any])


@overload
def remat(block: nn.Module, *, compile: Compilation = False) -> RematerializedModule: ...
@overload
def remat(block: FunctionT, *, compile: Compilation = False) -> FunctionT: ...
def remat(block: Any, *, compile: Compilation = False) -> Any:
    """Return ``block`` with its activations in no graph, for any derivative.

    As ``torch.utils.checkpoint`` does, the backward pass runs the block again. But there the
    second run's graph is held until the *second* derivative has been taken, so that a meta-gradient
    saves nothing. Here a block is a node that saves its inputs; its backward pass is a node that
    saves its inputs, too; and so on. Peak memory is then the inputs of all blocks and the graph of
    one block, instead of the graph of all.

    A block is run once in the forward pass, once in the inner backward pass, and twice more in the
    outer one.

    What a run depends on beside its arguments is replayed (torch's random numbers, autocast, modes
    and other plain attributes of modules) or watched, and raises where it has changed. Buffers are
    written once, by the first run. ``scaled_dot_product_attention`` consists of differentiable
    operations.

    In a function that ``torch.compile`` traces, and under ``torch.no_grad()``, the block is called
    as it is.

    Args:
        block: A module, which is returned as a module that holds it as ``module``; its parameters
            and buffers are found where ``torch.func.functional_call`` puts them. Or a function of
            trees, whose tensors are all among its arguments. Either returns a tree of tensors.
        compile: Compile the derivatives of the block, once for all blocks with equal code and
            shapes; True, or the backend of ``torch.compile`` to do it with. The first run is not
            compiled.

    Raises:
        TypeError: ``block`` is neither; or, when it is called, returns something else.
        RuntimeError: when the block is called: it depends on a tensor that requires grad and is
            not an argument, writes into an argument, keeps a tensor that it has computed, or draws
            random numbers that cannot be replayed, or at all if it is compiled; when it is run
            again: it gives another result.

    Example:
        >>> import torch
        >>> from torchopt.unrolling import remat
        >>> blocks = torch.nn.Sequential(*(remat(torch.nn.Linear(3, 3)) for _ in range(4)))
        >>> x = torch.ones(2, 3, requires_grad=True)
        >>> (gradient,) = torch.autograd.grad(blocks(x).square().sum(), x, create_graph=True)
        >>> gradient.square().sum().backward()
    """
    if isinstance(block, nn.Module):
        return RematerializedModule(block, compile)
    if not callable(block):
        raise TypeError(f'remat takes a module or a function, got {type(block).__name__}')

    @functools.wraps(block)
    def rematerialized_function(*args: Any, **kwargs: Any) -> Any:
        return _call(block, HeldTensors(None), args, kwargs, compile)

    return rematerialized_function


class RematerializedModule(nn.Module):
    """A module whose activations no graph holds; :func:`remat` makes it.

    Attributes:
        module: The module itself.
    """

    def __init__(self, module: nn.Module, compile: Compilation = False) -> None:
        super().__init__()
        self.module = module
        self._compilation = compile

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Call the module."""
        return _call(self.module, HeldTensors(self.module), args, kwargs, self._compilation)


def _call(
    fn: Callable[..., Any],
    held: HeldTensors,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    compilation: Compilation,
) -> Any:
    if torch.compiler.is_compiling() or not torch.is_grad_enabled():
        return fn(*args, **kwargs)
    backend = backend_of(compilation)
    if backend is not None:
        _require_no_other_transforms()
    arguments, structure = flatten((args, kwargs))
    tensors = [*held.inputs(), *tensors_of(arguments)]
    block = Block(fn, held, arguments, structure, backend)
    if transforming() or in_dual_level():
        _require_no_transformed(block)
    elif not any(tensor.requires_grad for tensor in tensors):
        return fn(*args, **kwargs)
    results = rematerialized(block, *tensors)
    if block.draws:
        _require_same_numbers(block)
    count = len(results) - len(block.written)
    for buffer, value in zip(block.written, results[count:]):
        assert value is not None
        held.write(buffer, value)
    held.forget()
    return pytree.tree_unflatten(block.structure, fill(block.template, results[:count]))


def _require_no_other_transforms() -> None:
    """Raise under transforms below which Dynamo cannot compile."""
    if in_dual_level() or (transforming() and active_transforms() != ['Grad']):
        raise RuntimeError(
            'remat(block, compile=True) works with torch.autograd, and in one torch.func.grad or '
            'vjp, but not under torch.vmap, torch.func.jvp and nested transforms: leave out '
            'compile=True'
        )


def _require_no_transformed(block: Block) -> None:
    """Raise if the block captures a tensor that forward mode or a transform follows."""
    names = [name for name, tensor in block.captured() if is_transformed(tensor) or is_dual(tensor)]
    if names:
        raise RuntimeError(
            'a block of remat sees tensors that a transform of torch.func or forward mode follows '
            f'and that are not its arguments: {enumerate_few(names)}. Their derivatives would be '
            'lost: pass them as arguments'
        )


def _require_same_numbers(block: Block) -> None:
    """Raise if a vmap that the block did not see would have mapped its random numbers."""
    if not transforming():
        return
    unseen = vmap_randomness()
    if unseen is not None:
        for kind in block.vmaps:
            unseen.remove(kind)
        if all(kind == 'same' for kind in unseen):
            return
    raise RuntimeError(
        'a block of remat draws random numbers under torch.vmap, but none of its arguments is '
        "mapped, so that all get the same numbers: use vmap(..., randomness='same'), or pass an "
        'argument that is mapped'
    )
