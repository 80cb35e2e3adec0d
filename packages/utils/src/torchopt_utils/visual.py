"""Draw the graph that autograd has recorded."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from torch import nn

from torchopt.authoring.describe import describe
from torchopt.typing import TensorTree
from torchopt_utils.state import ModuleState
from torchopt_utils.targets import tensors_of

if TYPE_CHECKING:
    from graphviz import Digraph  # type: ignore[import-untyped,import-not-found,unused-ignore]

Names: TypeAlias = 'nn.Module | ModuleState | Mapping[str, torch.Tensor] | Iterable[Any]'

_LEAF, _NAMED, _OUTPUT = 'lightblue', 'orange', 'darkolivegreen1'


def make_dot(var: TensorTree, params: Names = ()) -> Digraph:
    """Draw the graph that computes ``var``.

    Leaves are blue and show their shapes, operations are grey, operations whose result has a name
    are orange, and ``var`` is green. This needs the Python package ``graphviz``; to render the
    result, also the program ``dot``.

    Args:
        var: A tensor, or a tree of tensors.
        params: Names of tensors: a module, a state that was extracted with
            ``enable_visual=True``, a mapping from names to tensors, pairs such as
            ``net.named_parameters()`` yields, or several of these. The first name of a tensor is
            used.

    Returns:
        A ``graphviz.Digraph``, which notebooks show, and which ``.render('graph')`` writes.

    Raises:
        ModuleNotFoundError: ``graphviz`` is not installed.
        TypeError: ``var`` or ``params`` is none of these.
        ValueError: no tensor of ``var`` has a graph, or a state has no names.

    Example:
        >>> import torch, torchopt
        >>> x = torch.ones(2, requires_grad=True)
        >>> graph = torchopt.make_dot(x.exp().sum(), {'x': x})
        >>> print(*sorted(line.split(' [')[0].strip() for line in graph.body), sep=', ')
        0, 0 -> out0, 1, 1 -> 0, 2, 2 -> 1, out0
    """
    try:
        import graphviz  # type: ignore[import-untyped,import-not-found,unused-ignore]
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            'make_dot draws with graphviz: pip install graphviz', name=error.name
        ) from error
    outputs = {name: t for name, t in tensors_of(var, 'var').items() if t.requires_grad}
    if not outputs:
        raise ValueError('var has no graph: it does not require grad')
    names: dict[Any, str] = {}
    for name, tensor in _named(params):
        names.setdefault(_node_of(tensor), name)

    dot = graphviz.Digraph(
        node_attr={'style': 'filled', 'shape': 'box', 'fontname': 'monospace', 'fontsize': '10'}
    )
    numbers: dict[Any, str] = {}
    pending: list[Any] = []

    def number(node: Any) -> str:
        if node not in numbers:
            numbers[node] = str(len(numbers))
            pending.append(node)
        return numbers[node]

    for position, (name, tensor) in enumerate(outputs.items()):
        own = names.get(_node_of(tensor), name)
        dot.node(f'out{position}', _label(own, tensor), fillcolor=_OUTPUT)
        dot.edge(number(_node_of(tensor)), f'out{position}')
    while pending:
        node = pending.pop()
        if isinstance(node, torch.Tensor):
            dot.node(numbers[node], _label(names.get(node), node), fillcolor=_LEAF)
            continue
        known = names.get(node)
        operation = node.name()
        dot.node(
            numbers[node],
            operation if known is None else f'{known}\n{operation}',
            fillcolor='lightgrey' if known is None else _NAMED,
        )
        for before, _ in node.next_functions:
            if before is not None:
                is_leaf = before.name() == 'torch::autograd::AccumulateGrad'
                dot.edge(number(before.variable if is_leaf else before), numbers[node])
    return dot


def _node_of(tensor: torch.Tensor) -> Any:
    """Return the node of ``tensor``: the operation that computed it, or the tensor if a leaf."""
    return tensor if tensor.grad_fn is None else tensor.grad_fn


def _label(name: str | None, tensor: torch.Tensor) -> str:
    shape = str(tuple(tensor.shape))
    return shape if name is None else f'{name}\n{shape}'


def _named(params: Names) -> Iterator[tuple[str, torch.Tensor]]:
    entries: Any = params
    if isinstance(params, ModuleState):
        entries = params.visual_contents
        if entries is None:
            raise ValueError('the state has no names: extract it with enable_visual=True')
    elif isinstance(params, nn.Module):
        entries = dict(params.named_parameters())
    if isinstance(entries, Mapping):
        entries = entries.items()
    if isinstance(entries, (str, torch.Tensor)) or not isinstance(entries, Iterable):
        raise TypeError(
            'params must be a module, a state, a mapping from names to tensors, or several of '
            f'these, got {describe(entries)}'
        )
    for entry in entries:
        if isinstance(entry, tuple) and len(entry) == 2 and isinstance(entry[0], str):
            name, tensor = entry
            if not isinstance(tensor, torch.Tensor):
                raise TypeError(f'params[{name!r}] must be a tensor, got {describe(tensor)}')
            yield name, tensor
        else:
            yield from _named(entry)
