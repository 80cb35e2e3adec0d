"""The first run of a block, which shows what its results depend on, and what it leaves behind."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import torch

from torchopt.authoring.describe import describe, enumerate_few
from torchopt.unrolling.context.captures import require_no_captures
from torchopt.unrolling.context.graph import leaves_of_graph
from torchopt.unrolling.context.reachable import reachable
from torchopt.unrolling.context.wording import Wording
from torchopt.unrolling.leaves import is_differentiable
from torchopt.unrolling.rematerialized.derivatives import Results

WORDING = Wording('a block of remat', 'as an argument', 'leave remat away from this block')


class FirstRun(NamedTuple):
    """What the first run of a block returned.

    Attributes:
        results: The results, without a graph.
        unused_inputs: Positions of the tensors that no result depends on.
        constant_results: Positions of the results that depend on no tensor.
    """

    results: Results
    unused_inputs: frozenset[int]
    constant_results: list[int]


def first_run(
    fn: Callable[..., Any],
    flat: Callable[..., Results],
    tensors: Sequence[torch.Tensor],
    constant: Sequence[bool],
) -> FirstRun:
    """Run a block for the first time.

    A graph is recorded, looked at and dropped. Whatever keeps a part of it alive is a tensor that
    the block has made and that was stored outside, where its gradient would be lost.

    Args:
        fn: The function of the user; names are looked up in it.
        flat: The same as a function of tensors.
        tensors: Plain tensors without a graph.
        constant: Which of them are never differentiated by.

    Raises:
        RuntimeError: a result depends on a tensor that requires grad and is not among
            ``tensors``; or the block writes into one of them; or keeps a tensor that it has made.
    """
    inputs = [
        tensor.detach().requires_grad_(is_differentiable(tensor) and not fixed)
        for tensor, fixed in zip(tensors, constant)
    ]
    versions = [tensor._version for tensor in tensors]
    with torch.enable_grad():
        try:
            found = flat(*inputs)
        except RuntimeError as error:
            if 'a leaf Variable that requires grad' not in str(error):
                raise
            raise _written() from error
    if versions != [tensor._version for tensor in tensors]:
        raise _written()
    outputs = [output for output in found if output is not None and output.requires_grad]
    known = {id(tensor) for tensor in inputs}
    used = {id(leaf) for leaf in leaves_of_graph(output.grad_fn or output for output in outputs)}
    if not used <= known:
        require_no_captures(
            fn,
            outputs,
            inputs,
            place=WORDING.place,
            cure=f'Pass it {WORDING.through}, detach it, or {WORDING.otherwise}',
        )
    result = FirstRun(
        tuple(_apart(found, tensors)),
        frozenset(
            position
            for position, tensor in enumerate(inputs)
            if tensor.requires_grad and id(tensor) not in used
        ),
        [
            position
            for position, output in enumerate(found)
            if output is not None and not output.requires_grad
        ],
    )
    alive = [weakref.ref(tensor) for tensor in inputs if tensor.requires_grad]
    del found, outputs, inputs
    if any(reference() is not None for reference in alive):
        gc.collect()
        left = [tensor for reference in alive if (tensor := reference()) is not None]
        if left:
            raise _kept(fn, left)
    return result


def _apart(outputs: Results, inputs: Sequence[torch.Tensor]) -> Iterator[torch.Tensor | None]:
    """Yield the outputs without their graph, each in memory of its own.

    Writing into a result would otherwise change an argument, or another result, unseen.
    """
    taken = {tensor.untyped_storage()._cdata for tensor in inputs}
    for output in outputs:
        if output is None:
            yield None
            continue
        storage = output.untyped_storage()._cdata
        yield output.detach().clone() if storage in taken else output.detach()
        taken.add(storage)


def _written() -> RuntimeError:
    return RuntimeError(
        f'{WORDING.place} writes in place into one of its arguments or parameters, which a second '
        'run needs as it was: write into a clone'
    )


def _kept(fn: Callable[..., Any], inputs: Iterable[torch.Tensor]) -> RuntimeError:
    wanted = {id(tensor) for tensor in inputs}
    names = [
        f'{name} ({describe(tensor)})'
        for name, tensor in reachable([('', fn)], (torch.Tensor,))
        if tensor.requires_grad
        and any(id(leaf) in wanted for leaf in leaves_of_graph([tensor.grad_fn or tensor]))
    ]
    where = enumerate_few(names) if names else 'in a list or an attribute, for example'
    return RuntimeError(
        f'{WORDING.place} keeps a tensor that it has computed from its arguments after it has '
        f'returned: {where}. Whatever uses the tensor would lose its gradient: return the tensor '
        'as a result, or keep tensor.detach()'
    )
