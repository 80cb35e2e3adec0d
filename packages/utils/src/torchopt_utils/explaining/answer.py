"""The public function: checks its arguments, and puts the answer together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from torchopt.authoring.describe import describe
from torchopt.typing import TensorTree
from torchopt_utils.explaining import causes, numerics, surroundings, tensor_causes
from torchopt_utils.explaining.arguments import named_tensors, require_plain, require_scalar
from torchopt_utils.explaining.failures import of_failure
from torchopt_utils.explaining.graph import Graph, MarkedStep, graph_of
from torchopt_utils.explaining.levels import of_unseen, step_reports, steps_between
from torchopt_utils.explaining.measure import Measured, measure
from torchopt_utils.explaining.numbers import Size
from torchopt_utils.explaining.report import Explanation, Finding, TensorReport
from torchopt_utils.explaining.update_graphs import first_order_steps

# Each goes through the graph once more.
_MOST_SEARCHES = 3


def explain(
    loss: torch.Tensor,
    wrt: nn.Module | TensorTree,
    *,
    module: nn.Module | None = None,
    optimizer: Any = None,
) -> Explanation:
    """Say why the gradient of ``loss`` with respect to ``wrt`` is None, zero, NaN, huge, or right.

    Call it where you would call ``loss.backward()``, before that. It differentiates ``loss`` once,
    and once more if a number is not finite or 0. It writes no ``.grad``, leaves the graph usable
    and the generators of torch as they were. Hooks of the program are called as in any backward
    pass.

    Inner steps come from :class:`torchopt.MetaOptimizer`, :class:`torchopt.FuncOptimizer`,
    :func:`torchopt.apply_updates` and :func:`torchopt.unroll`. In the modes of ``unroll`` that run
    steps again, cotangents are reported step by step, but operations inside the loop are not seen;
    in forward mode there are no cotangents. Steps under :func:`torch.vmap` are not told from other
    operations. What is written through ``.data`` is seen nowhere.

    Args:
        loss: The outer loss, a scalar.
        wrt: What it should have gradients by: a tensor, a tree of tensors, or a module, whose
            parameters are meant.
        module: The module on which inner steps are taken; it gives parameters their names, and
            shows what was written into them.
        optimizer: The optimizer of the inner steps, or its functional state; or the outer optimizer
            if you want to know whether it holds the parameters that ``module`` has.

    Returns:
        An :class:`~torchopt_utils.Explanation`, to print, to show in a notebook, or to read.

    Raises:
        TypeError: an argument has the wrong type, or there is no tensor in ``wrt``.
        ValueError: ``loss`` is not a scalar.
        RuntimeError: a transform of ``torch.func`` is active, or the call is being compiled.
        NotImplementedError: a tensor is a DTensor.

    Example:
        >>> import torch, torchopt
        >>> rate = torch.tensor(0.25, requires_grad=True)
        >>> optimizer = torchopt.FuncOptimizer(torchopt.sgd(lr=rate))
        >>> w = torch.tensor([1.0], requires_grad=True)
        >>> for _ in range(2):
        ...     w = optimizer.step(w.square().sum(), w)
        >>> report = torchopt.explain(w.square().sum(), {'rate': rate})
        >>> report['rate'].steps, report['rate'].norm
        (2, 1.0)
        >>> [(step.index, step.norm) for step in report.steps]
        [(1, 0.25), (2, 0.5)]
    """
    require_scalar(loss)
    wanted = named_tensors(wrt)
    if module is not None and not isinstance(module, nn.Module):
        raise TypeError(f'module must be a torch.nn.Module, got {describe(module)}')
    require_plain('loss', loss)
    for name, tensor in wanted.items():
        require_plain(name, tensor)

    tensors = list(wanted.values())
    graph = graph_of(loss, tensors)
    for leaf in graph.leaves:
        require_plain('a leaf of the graph', leaf)
    names = {**surroundings.names_in(module), **{id(t): name for name, t in wanted.items()}}
    root_leads_to = graph.leads_to[graph.nodes[-1]] if graph.nodes else 0
    reached = [bool(root_leads_to >> position & 1) for position in range(len(tensors))]
    measured = measure(loss, [t if r else None for t, r in zip(tensors, reached)], graph)

    first_order = first_order_steps(graph)
    steps = step_reports(graph, measured, first_order)
    of_graph = _of_graph(loss, graph, first_order, optimizer, names, all(reached))
    if measured.error is not None:
        differentiated = [t for t, r in zip(tensors, reached) if r]
        of_graph.insert(0, of_failure(measured.error, loss, differentiated, graph))
    of_graph += [
        finding
        for finding in (
            surroundings.written_in_place(module, wanted),
            surroundings.state_detached(module, optimizer),
            surroundings.outer_holds_old(module, optimizer),
        )
        if finding is not None
    ]
    if isinstance(wrt, nn.Module):
        of_graph += tensor_causes.of_current_params(tensors)
    if any(reached):
        of_graph += [*numerics.of_the_steps(steps), *of_unseen(graph, measured)]

    sizes = measured.gradients
    not_finite = [t for t, size in zip(tensors, sizes) if size is not None and not size.is_finite]
    if not_finite or not torch.isfinite(loss.detach()).all():
        of_graph.insert(0, numerics.of_not_finite(loss, not_finite, graph, len(steps)))
    reports = [
        _report(
            name,
            tensor,
            position,
            loss,
            graph,
            first_order,
            reached[position],
            sizes[position],
            names,
            measured,
        )
        for position, (name, tensor) in enumerate(wanted.items())
    ]
    return Explanation(
        float(loss.detach().real), graph.operations, tuple(reports), steps, tuple(of_graph)
    )


def _of_graph(
    loss: torch.Tensor,
    graph: Graph,
    first_order: Sequence[MarkedStep],
    optimizer: Any,
    names: dict[int, str],
    all_reached: bool,
) -> list[Finding]:
    if loss.requires_grad:
        return causes.of_the_graph(graph, first_order, optimizer, names, all_reached)
    return [
        Finding(
            'loss-has-no-graph',
            'The loss has no graph: it was computed under torch.no_grad(), detached, or from '
            'tensors none of which requires grad.',
            'compute it with grad mode on, without .detach() or .item()',
        )
    ]


def _report(
    name: str,
    tensor: torch.Tensor,
    position: int,
    loss: torch.Tensor,
    graph: Graph,
    first_order: Sequence[MarkedStep],
    reached: bool,
    size: Size | None,
    names: dict[int, str],
    measured: Measured,
) -> TensorReport:
    findings: list[Finding] = []
    norm = None if size is None else size.norm
    between = steps_between(graph, position)
    own = tensor_causes.of_the_tensor(tensor)
    if own is not None:
        findings.append(own)
    elif not reached and loss.requires_grad:
        findings += tensor_causes.of_an_unreached(tensor, graph, first_order, names)
    elif reached and size is None and measured.error is None:
        findings.append(
            Finding(
                'passes-no-gradient',
                'The graph leads to it, but an operation on the way returns no gradient for it.',
                'look for an autograd function whose backward returns None',
            )
        )
    elif size is not None and norm == 0:
        earlier = sum(each is not None and each.norm == 0 for each in measured.gradients[:position])
        if earlier < _MOST_SEARCHES:
            steps = graph.depth[graph.nodes[-1]]
            findings.append(numerics.of_zero(loss, tensor, 1 << position, graph, steps))
        else:
            findings.append(Finding('zero', 'The gradient is 0, as for tensors above.'))
    elif norm is not None and size is not None and size.is_finite:
        precision = numerics.of_precision(tensor, norm)
        findings += [] if precision is None else [precision]
    return TensorReport(
        name=name,
        shape=tensor.shape,
        dtype=tensor.dtype,
        is_leaf=tensor.is_leaf,
        reached=reached,
        steps=between if reached else 0,
        norm=norm,
        findings=tuple(findings),
    )
