"""One call of a block: a function of flat tensors, with all that a second run needs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch

from torchopt import pytree
from torchopt.authoring.describe import describe, enumerate_few
from torchopt.authoring.torch_internals import is_mapped_by_autograd
from torchopt.unrolling.context.autocast import Autocast, without_autocast
from torchopt.unrolling.context.forward_grad import LikeReverseMode
from torchopt.unrolling.context.generators import require_no_draws
from torchopt.unrolling.context.random_state import RandomState, preserved
from torchopt.unrolling.context.reachable import reachable
from torchopt.unrolling.context.surroundings import Surroundings
from torchopt.unrolling.inner_gradients.attention import differentiable_attention
from torchopt.unrolling.leaves import (
    Leaves,
    fill,
    flatten,
    is_differentiable,
    template_of,
    tensors_of,
)
from torchopt.unrolling.rematerialized.derivatives import FlatFunction, Results, vmaps_of
from torchopt.unrolling.rematerialized.first_run import WORDING, first_run
from torchopt.unrolling.rematerialized.held_tensors import HeldTensors, Written
from torchopt.unrolling.rematerialized.sample import Sample
from torchopt.unrolling.rematerialized.template import Template, template_for
from torchopt.unrolling.steps.compilation import Backend, standard_layout


class Block:
    """One call of a block, which can be repeated.

    The tensors that it takes are those that a module holds, each once, and then those among the
    arguments. It returns the tensors among the results, and then the buffers that the module has
    written.

    Args:
        fn: The module, or another function.
        held: The tensors of the module; none for another function.
        arguments: Leaves of ``(args, kwargs)``.
        structure: Their tree.
        backend: The backend of ``torch.compile`` for its derivatives; None: they are not compiled.

    Attributes:
        input_count: How many tensors it takes.
        structure: The tree of the results.
        template: Leaves of the results, with placeholders for the tensors.
        written: The buffers that were written; their values are the last results.
        unused_inputs: Positions of the tensors that no result depends on.
        constant_results: Positions of the results that depend on no tensor.
        vmaps: The ``randomness`` of the vmaps that the first run was mapped by.
        mode: What forward mode does differently in this block, also when its gradient is taken.
    """

    structure: pytree.PyTreeSpec
    template: Leaves

    def __init__(
        self,
        fn: Callable[..., Any],
        held: HeldTensors,
        arguments: Leaves,
        structure: pytree.PyTreeSpec,
        backend: Backend | None = None,
    ) -> None:
        # No tensor is kept: the graph saves the inputs, and frees them.
        tensors = tensors_of(arguments)
        self._fn = fn
        self._held = held
        self._arguments = template_of(arguments)
        self._structure = structure
        self.input_count = held.count + len(tensors)
        self._constant = [held.is_constant(position) for position in range(self.input_count)]
        self._autocast = Autocast.capture([*held.tensors, *tensors])
        self._surroundings = Surroundings(
            fn, arguments, arguments=[*held.tensors, *tensors], wording=WORDING
        )
        self._backend = backend
        self._template = (
            None
            if backend is None
            else template_for(
                fn, held, self._arguments, self._structure, self._autocast, self.input_count
            )
        )
        self._random: RandomState | None = None
        self._sample: Sample | None = None
        self._has_run = False
        self.mode = LikeReverseMode.active()
        self.written: list[Written] = []
        self.vmaps: list[str] = []
        self.unused_inputs: frozenset[int] = frozenset()
        self.constant_results: list[int] = []

    @property
    def is_compiled(self) -> bool:
        """Whether derivatives are compiled."""
        return self._template is not None

    def is_always_wanted(self, position: int, tensor: torch.Tensor) -> bool:
        """Tell whether a compiled derivative is also taken by a tensor where that is not needed.

        Every choice of tensors is another graph. The first block's argument would make one more.

        Args:
            position: The tensor's position, counted from the end: from -1 down.
            tensor: The tensor: an argument or parameter of the block, or a cotangent.
        """
        own = position + self.input_count
        held = 0 <= own < self._held.count
        return self.is_compiled and not held and is_differentiable(tensor)

    @property
    def draws(self) -> bool:
        """Whether the block draws random numbers."""
        return self._random is not None

    @property
    def root(self) -> Block:
        """The block itself."""
        return self

    def on(self, root: Any) -> Any:
        """Return ``root``."""
        return root

    def captured(self) -> list[tuple[str, torch.Tensor]]:
        """Return the tensors that the block can reach, apart from those of the module itself."""
        own = set(map(id, self._held.tensors))
        roots = [('', self._fn), *(('an argument', leaf) for leaf in self._arguments)]
        found = reachable(roots, (torch.Tensor,))
        return [(name, tensor) for name, tensor in found if id(tensor) not in own]

    def run(self, fn: FlatFunction[Block], tensors: Sequence[torch.Tensor]) -> Results:
        """Return ``fn(*tensors)``: the first run, of the block, or a later one, of a derivative.

        Args:
            fn: The block, a derivative, or one of them mapped.
            tensors: Plain tensors without a graph.

        Raises:
            RuntimeError: a second run would give another result, or a gradient would be lost.
        """
        if self._has_run and self._template is not None and self._backend is not None:
            return self._run_compiled(self._template, self._backend, fn, tensors)
        if self._has_run:
            with torch.enable_grad(), self._replayed(tensors):
                results = fn(*tensors)
            return tuple(
                result.detach() if result is not None and result.requires_grad else result
                for result in results
            )
        before = RandomState.capture(list(tensors))
        with require_no_draws(self._fn, self._arguments, tensors, wording=WORDING):
            first = first_run(self._fn, fn, tensors, self._constant)
        self._surroundings.require_not_written()
        if RandomState.capture(list(tensors), before) is not before:
            self._random = before
        if self._template is not None:
            self._require_pure()
        self.vmaps = [layer.randomness for layer in vmaps_of(fn)]
        if fn is self:
            self._sample = Sample.of(first.results)
        self.unused_inputs = first.unused_inputs
        count = len(first.results) - len(self.written)
        self.constant_results = [
            *(position for position in first.constant_results if position < count),
            # Averages and counts have no derivative, as in a forward pass that writes them.
            *range(count, len(first.results)),
        ]
        self._has_run = True
        return first.results

    def __call__(self, *tensors: torch.Tensor) -> Results:
        """Call the block's function, with its tensors replaced by ``tensors``.

        Raises:
            TypeError: a result is neither a tensor nor None.
            RuntimeError: another result than in the first run.
        """
        held, given = tensors[: self._held.count], tensors[self._held.count :]
        arguments: Any = pytree.tree_unflatten(self._structure, fill(self._arguments, given))
        args, kwargs = arguments
        with ExitStack() as stack:
            stack.enter_context(self._autocast.applied())
            stack.enter_context(differentiable_attention())
            known = self.written if self._has_run else None
            written = stack.enter_context(self._held.replaced(held, known))
            result = self._fn(*args, **kwargs)
        leaves, structure = flatten(result)
        outputs = (*tensors_of(leaves), *(value for _, value in written))
        if not self._has_run:
            _require_tensors(leaves, structure)
            self.template, self.structure = template_of(leaves), structure
            self.written = [buffer for buffer, _ in written]
        elif self._sample is not None:
            self._sample.require_same(outputs)
        return outputs

    def _run_compiled(
        self,
        template: Template,
        backend: Backend,
        fn: FlatFunction[Block],
        tensors: Sequence[torch.Tensor],
    ) -> Results:
        if any(map(is_mapped_by_autograd, tensors)):
            raise RuntimeError(
                'a compiled block takes one cotangent at a time: leave out compile=..., or '
                'is_grads_batched=True and vectorize=True'
            )
        self._surroundings.changes()
        # The template casts where the block did.
        with torch.enable_grad(), without_autocast(tensors):
            return template.run(fn, backend, list(map(standard_layout, tensors)))

    def _require_pure(self) -> None:
        """Raise if a compiled run would not see what the first run has seen."""
        seen = [f'the tensor {name}' for name, _ in self._surroundings.tensors]
        if self._random is not None:
            seen.insert(0, 'random numbers')
        if seen:
            raise RuntimeError(
                f'remat(block, compile=True) cannot compile a block that uses {enumerate_few(seen)}'
                ': pass that as an argument, or leave out compile=True'
            )

    @contextmanager
    def _replayed(self, tensors: Sequence[torch.Tensor]) -> Iterator[None]:
        with ExitStack() as stack:
            if self._random is not None:
                stack.enter_context(preserved(list(tensors)))
                self._random.restore()
            stack.enter_context(self._surroundings.replayed(0, self._surroundings.changes()))
            yield


def _require_tensors(leaves: Leaves, structure: pytree.PyTreeSpec) -> None:
    for position, leaf in enumerate(leaves):
        if leaf is not None and not isinstance(leaf, torch.Tensor):
            where = structure.accessors()[position].codify('result')
            raise TypeError(
                f'a block of remat must return tensors or None, in any tree: {where} is '
                f'{describe(leaf)}'
            )
