"""``explain`` leaves the program as it was, and refuses what it cannot explain."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import nn

import torchopt
from torchopt.unrolling import ModuleStep, Recomputed, Snapshots, Stored
from torchopt_utils import Explanation, Finding, StepReport, TensorReport
from torchopt_utils.explaining.graph import graph_of

X = torch.linspace(-1, 1, 12).view(4, 3)
MODES = [Stored(), Recomputed(), Snapshots(2)]


def loss_of(net: nn.Module, weights: Any = 1.0) -> torch.Tensor:
    noisy = nn.functional.dropout(net(X), 0.2)
    result: torch.Tensor = (weights * noisy.square()).mean()
    return result


def problem(backward: Any) -> tuple[torch.Tensor, torch.Tensor, nn.Linear]:
    torch.manual_seed(0)
    net, weights = nn.Linear(3, 1), torch.ones(4, 1, requires_grad=True)
    step = ModuleStep(net, torchopt.adam(0.1), lambda net, _, consts: loss_of(net, consts))
    carry, _ = torchopt.unroll(step, step.init(), consts=weights, length=3, backward=backward)
    step.write(carry)
    return loss_of(net), weights, net


@pytest.mark.parametrize('backward', MODES, ids=lambda mode: type(mode).__name__)
def test_the_program_goes_on_as_if_nothing_had_happened(backward: Any) -> None:
    loss, weights, net = problem(backward)
    random = torch.get_rng_state()
    mode = torch.is_grad_enabled()
    first, second = (str(torchopt.explain(loss, weights, module=net)) for _ in range(2))
    assert first == second
    assert torch.equal(torch.get_rng_state(), random)
    assert torch.is_grad_enabled() is mode
    assert weights.grad is None
    (explained,) = torch.autograd.grad(loss, weights)
    loss, weights, _ = problem(backward)
    assert torch.equal(explained, torch.autograd.grad(loss, weights)[0])


def test_gradients_that_are_there_stay() -> None:
    loss, weights, _ = problem(Stored())
    weights.grad = torch.full((4, 1), 3.0)
    torchopt.explain(loss, weights)
    assert torch.equal(weights.grad, torch.full((4, 1), 3.0))


class Failing(torch.autograd.Function):
    """The identity, whose backward pass raises as long as ``broken`` is true."""

    broken = True

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
        if Failing.broken:
            raise RuntimeError('out of luck')
        return gradient


def hooks_behind(loss: torch.Tensor) -> int:
    nodes = graph_of(loss, []).nodes
    count = 0
    for node in nodes:
        for register in (node.register_hook, node.register_prehook):
            handle = register(lambda *_: None)
            count += len(handle.hooks_dict_ref()) - 1
            handle.remove()
    return count


def test_no_hook_is_left() -> None:
    w = torch.zeros(2, requires_grad=True)
    optimizer = torchopt.FuncOptimizer(torchopt.sgd(lr=0.1))
    params = optimizer.step(w.square().sum(), w)
    loss = params.sqrt().sum()
    assert torchopt.explain(loss, w).kinds == ('not-finite',)
    assert hooks_behind(loss) == 0


def test_after_an_error_no_hook_is_left_and_the_graph_is_whole() -> None:
    w = torch.ones(2, requires_grad=True)
    optimizer = torchopt.FuncOptimizer(torchopt.sgd(lr=0.1))
    params = optimizer.step(w.square().sum(), w)
    loss = Failing.apply(params).sum()
    report = torchopt.explain(loss, w)
    assert report.kinds == ('backward-failed',)
    assert 'out of luck' in str(report)
    assert hooks_behind(loss) == 0
    Failing.broken = False
    try:
        assert torchopt.explain(loss, w).kinds == ()
    finally:
        Failing.broken = True


def test_loops_report_to_nobody_afterwards() -> None:
    loss, weights, _ = problem(Recomputed())
    torchopt.explain(loss, weights)
    (loop,) = graph_of(loss, []).loops
    assert loop.node.record.observer is None


def test_a_report_keeps_nothing_alive() -> None:
    w = torch.ones(2, requires_grad=True)
    optimizer = torchopt.FuncOptimizer(torchopt.sgd(lr=0.1))
    params = optimizer.step(w.square().sum(), w)
    loss = params.square().sum()
    alive = [weakref.ref(tensor) for tensor in (w, params, loss)]
    report = torchopt.explain(loss, w)
    gc.disable()
    try:
        del w, params, loss, optimizer
        assert [each() for each in alive] == [None] * 3
    finally:
        gc.enable()
    assert report['wrt'].reached


def test_it_works_without_grad_mode() -> None:
    loss, weights, _ = problem(Recomputed())
    with torch.no_grad():
        assert torchopt.explain(loss, weights)['wrt'].norm is not None


def test_it_is_frozen_data() -> None:
    loss, weights, _ = problem(Stored())
    report = torchopt.explain(loss, weights)
    with pytest.raises(AttributeError):
        report.loss = 1.0  # type: ignore[misc]
    with pytest.raises(KeyError):
        report['missing']


def test_transforms_are_refused() -> None:
    def loss(w: torch.Tensor) -> torch.Tensor:
        torchopt.explain(w.sum(), w)
        return w.sum()

    with pytest.raises(RuntimeError, match='run the same function outside'):
        torch.func.grad(loss)(torch.ones(2))
    with pytest.raises(RuntimeError, match='run the same function outside'):
        torch.vmap(loss)(torch.ones(2, 2))


@pytest.mark.compile
def test_compiled_code_is_refused() -> None:
    @torch.compile(backend='eager', fullgraph=True)
    def compiled(w: torch.Tensor) -> Any:
        return torchopt.explain(w.sum(), w)

    with pytest.raises(Exception, match='run the same function outside'):
        compiled(torch.ones(2, requires_grad=True))


def test_wrong_arguments() -> None:
    w = torch.ones(2, requires_grad=True)
    with pytest.raises(ValueError, match='must be a scalar'):
        torchopt.explain(w * 2, w)
    with pytest.raises(ValueError, match='must be real'):
        torchopt.explain((w * 1j).sum(), w)
    with pytest.raises(TypeError, match='loss must be a tensor'):
        torchopt.explain(1.0, w)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="or a module, got int 3 at 'a'"):
        torchopt.explain(w.sum(), {'a': 3})  # type: ignore[dict-item]
    with pytest.raises(TypeError, match='no tensor'):
        torchopt.explain(w.sum(), {})
    with pytest.raises(TypeError, match='module must be'):
        torchopt.explain(w.sum(), w, module=w)  # type: ignore[arg-type]


def test_sharded_tensors_are_refused() -> None:
    mesh_module = pytest.importorskip('torch.distributed.device_mesh')
    dist.init_process_group('gloo', store=dist.HashStore(), rank=0, world_size=1)
    try:
        mesh = mesh_module.init_device_mesh('cpu', (1,))
        w = as_dtensor(torch.ones(2), mesh).requires_grad_()
        with pytest.raises(NotImplementedError, match='wrt is a DTensor'):
            torchopt.explain(w.to_local().sum(), w)
        with pytest.raises(NotImplementedError, match='a leaf of the graph is a DTensor'):
            torchopt.explain(w.to_local().sum(), torch.ones(2, requires_grad=True))
    finally:
        dist.destroy_process_group()


def as_dtensor(tensor: torch.Tensor, mesh: Any) -> Any:
    try:
        from torch.distributed.tensor import DTensor
    except ImportError:  # torch 2.4
        from torch.distributed._tensor import DTensor
    return DTensor.from_local(tensor, mesh)


def test_names_come_from_the_tree_and_the_module() -> None:
    net = nn.Sequential(nn.Linear(2, 1))
    report = torchopt.explain(net(torch.ones(1, 2)).sum(), net)
    assert [tensor.name for tensor in report.tensors] == ['0.weight', '0.bias']
    w = torch.ones(2, requires_grad=True)
    report = torchopt.explain(w.sum(), {'a': [w, w]})
    assert [tensor.name for tensor in report.tensors] == ['a.0', 'a.1']


def report_of(steps: int, tensors: int) -> Explanation:
    finding = Finding('unused', 'a < b', 'x -> "y"')
    return Explanation(
        loss=1.0,
        operations=3,
        tensors=tuple(
            TensorReport(f'w{n}', torch.Size([2]), torch.float32, True, True, steps, 1.0, ())
            for n in range(tensors)
        ),
        steps=tuple(StepReport(n + 1, 'MetaAdam', 1, 10.0**-n, True, n == 0) for n in range(steps)),
        findings=(finding,),
    )


def test_long_reports_are_folded() -> None:
    report = report_of(1000, 40)
    lines = str(report).splitlines()
    assert len(lines) < 45
    assert '... and 28 more tensors' in lines
    assert ' ...' in lines
    assert lines[-1].split()[0] == '1'
    assert 'first order' in lines[-1]
    assert max(map(len, lines)) <= 100


def test_html_is_escaped_and_needs_nothing_else() -> None:
    page = report_of(20, 3)._repr_html_()
    assert 'a &lt; b' in page
    assert 'x -&gt; &quot;y&quot;' in page
    assert '<script' not in page
    assert 'http' not in page
    assert page.count('<tr>') == 1 + 14 + 1
