"""The ways of computing a meta-step that are compared, one line each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from libraries import LIBRARIES, PROJECT, Library


@dataclass(frozen=True, eq=False)
class Way:
    """One way of computing a meta-gradient.

    Attributes:
        name: Heading of its row.
        adapter: Module and class in the folder ``adapters``.
        options: Arguments of the adapter.
        library: In whose environment it runs.
        batched: Whether it takes all tasks at once.
        compiled: Whether its first call compiles.
        any_length: Whether what it compiles serves every number of steps; else each has processes
            of its own.
        note: What to know about it.
    """

    name: str
    adapter: str
    options: dict[str, Any] = field(default_factory=dict)
    library: Library = PROJECT
    batched: bool = True
    compiled: bool = False
    any_length: bool = False
    note: str = ''

    def groups(self, steps: Sequence[int]) -> list[list[int]]:
        """Return which numbers of steps share a process."""
        if self.compiled and not self.any_length:
            return [[k] for k in steps]
        return [list(steps)]


def _peer(name: str, note: str = '') -> Way:
    (library,) = (library for library in LIBRARIES if library.name == name)
    return Way(name, library.adapter, library.options, library, batched=False, note=note)


JAX = Library(
    'jax 0.10.2, optax 0.2.8',
    'jax_optax:JaxOptax',
    installs=('jax==0.10.2 jaxlib==0.10.2 optax==0.2.8',),
)

REFERENCE = Way('object-oriented', PROJECT.adapter, batched=False, note='`torchopt.MetaAdam`.')

WAYS = (
    REFERENCE,
    Way(
        'object-oriented, accelerated',
        PROJECT.adapter,
        {'use_accelerated_op': True},
        batched=False,
        note='the same with `use_accelerated_op=True`.',
    ),
    Way('functional, task by task', 'functional_api:Looped', note='`torch.func.grad` of a loop.'),
    Way('functional, vmap', 'functional_api:Batched', note='`torch.func.grad` of `torch.vmap`.'),
    Way('by hand, vmap', 'functional_api:ByHand', note='the same, Adam written down in place.'),
    Way(
        'functional, vmap, compiled',
        'functional_api:Compiled',
        compiled=True,
        note='`torch.compile(..., fullgraph=True)` of the functional way with `vmap`.',
    ),
    Way(
        'unroll, compiled',
        'functional_api:Unrolled',
        compiled=True,
        any_length=True,
        note='`torchopt.unroll(..., backward=Recomputed(compile=True))`; what the first K compiles '
        'serves all that follow in the same process.',
    ),
    _peer('torchopt 0.7.3', 'its composite path, `use_accelerated_op=False`.'),
    _peer(
        'higher 0.2.1',
        'without `eps_root`, so that its gradient depends on how the root is differentiated at 0.',
    ),
    _peer('learn2learn 0.2.0', 'has SGD as the only inner optimizer; see the benchmarks.'),
    Way('jax.jit, optax', JAX.adapter, library=JAX, compiled=True, note='a loop over the steps.'),
    Way(
        'jax.jit, optax, scan',
        JAX.adapter,
        {'scan': True},
        JAX,
        compiled=True,
        note='the same with `jax.lax.scan`.',
    ),
)
