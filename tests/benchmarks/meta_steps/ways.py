"""The ways of computing a meta-step that are compared."""

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
        library: The library in whose environment it runs.
        batched: Whether it takes all tasks at once.
        compiled: Whether its first call compiles.
        any_length: Whether one compilation serves every number of steps. If not, each number of
            steps has its own processes.
        exact: Whether its gradient must be the reference's, up to rounding in float64.
        plotted: Whether the plot of sinusoids shows it; the tables show all ways.
        note: What a reader of the page should know about it.
    """

    name: str
    adapter: str
    options: dict[str, Any] = field(default_factory=dict)
    library: Library = PROJECT
    batched: bool = True
    compiled: bool = False
    any_length: bool = False
    exact: bool = False
    plotted: bool = False
    note: str = ''

    def groups(self, steps: Sequence[int]) -> list[list[int]]:
        """Return the numbers of steps, grouped by process."""
        if self.compiled and not self.any_length:
            return [[k] for k in steps]
        return [list(steps)]


def _peer(name: str, note: str, *, plotted: bool = False) -> Way:
    (library,) = (library for library in LIBRARIES if library.name == name)
    return Way(
        name, library.adapter, library.options, library, batched=False, plotted=plotted, note=note
    )


JAX = Library(
    'jax 0.10.2, optax 0.2.8',
    'jax_optax:JaxOptax',
    installs=('jax==0.10.2 jaxlib==0.10.2 optax==0.2.8',),
)

REFERENCE = Way(
    'object-oriented',
    PROJECT.adapter,
    batched=False,
    exact=True,
    note='`torchopt.MetaAdam`, or `MetaSGD`.',
)

WAYS = (
    REFERENCE,
    Way(
        'object-oriented, accelerated',
        PROJECT.adapter,
        {'use_accelerated_op': True},
        batched=False,
        exact=True,
        plotted=True,
        note='the same with `use_accelerated_op=True`.',
    ),
    Way(
        'functional, task by task',
        'functional_api:Looped',
        exact=True,
        note='`torch.func.grad` of a loop, whose steps take `torchopt.unrolling.grad`.',
    ),
    Way(
        'functional, vmap',
        'functional_api:Batched',
        exact=True,
        plotted=True,
        note='`torch.func.grad` of `torch.vmap`; the steps are the same.',
    ),
    Way(
        'by hand, vmap',
        'functional_api:ByHand',
        note='the same with torch alone: a handwritten rule, and `torch.func.grad` in the steps. '
        'Through Conv4 its gradient is wrong, because [a layer that normalizes is under vmap]'
        '(../my-meta-gradient.md#a-layer-that-normalizes-is-under-vmap).',
    ),
    Way(
        'functional, vmap, compiled',
        'functional_api:Compiled',
        compiled=True,
        exact=True,
        plotted=True,
        note='`torch.compile(..., fullgraph=True)` around "functional, vmap".',
    ),
    Way(
        'unroll',
        'functional_api:Unrolled',
        exact=True,
        note='`torchopt.unroll(..., backward=Recomputed())`, which computes every step a second '
        'time and needs little memory.',
    ),
    Way(
        'unroll, compiled',
        'functional_api:Unrolled',
        {'compile': True},
        compiled=True,
        any_length=True,
        exact=True,
        plotted=True,
        note='the same with `Recomputed(compile=True)`. The first K compiles; '
        'every later K in the same process uses the same graphs. Conv4 is traced and not fused.',
    ),
    _peer('torchopt 0.7.3', 'its composite path, `use_accelerated_op=False`.', plotted=True),
    _peer(
        'higher 0.2.1',
        'has no `eps_root`, so its gradient depends on how the root is differentiated at 0.',
    ),
    _peer('learn2learn 0.2.0', 'has SGD as its only inner optimizer.'),
    _peer('torch.optim', '`differentiable=True`; it has no `eps_root` either.'),
    Way(
        'jax.jit, optax',
        JAX.adapter,
        library=JAX,
        compiled=True,
        note='a loop over the steps, batched by `jax.vmap`. Convolutions are matrix products: with '
        '`jax.lax.conv`, Conv4 takes nine times as long on one core.',
    ),
    Way(
        'jax.jit, optax, scan',
        JAX.adapter,
        {'scan': True},
        JAX,
        compiled=True,
        plotted=True,
        note='the same with `jax.lax.scan`.',
    ),
)
