"""``unrolling.grad`` by torch.autograd: results and graphs as those of ``torch.func.grad``."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
from torch import nn
from torch.autograd import forward_ad
from torch.utils.checkpoint import checkpoint

import torchopt
from support.live_bytes import LiveBytes
from support.unrolls import DTYPE, assert_equal, problem
from torchopt import unrolling
from torchopt.authoring import torch_internals
from torchopt.unrolling import ForwardMode, Recomputed, Snapshots, Stored, Strategy

Grad = Callable[..., Any]
REVERSE: list[Strategy] = [
    Stored(),
    Recomputed(),
    Recomputed(keep_gradients=True),
    Snapshots(2),
]


def vector(seed: float, *, grad: bool = False) -> torch.Tensor:
    return (torch.arange(1, 4, dtype=DTYPE) * seed).sin().requires_grad_(grad)


class Case(NamedTuple):
    """A use of a gradient, as a function of what takes it and of tensors that may require grad."""

    name: str
    run: Callable[[Grad, torch.Tensor, torch.Tensor], Any]


def _in_place(grad: Grad, a: torch.Tensor, b: torch.Tensor) -> Any:
    buffer = torch.zeros(3, dtype=DTYPE)

    def fn(a: torch.Tensor, buffer: torch.Tensor) -> torch.Tensor:
        buffer.add_(a * b)
        return buffer.square().sum()

    return (*grad(fn)(a, buffer), buffer)


def _nested(grad: Grad, a: torch.Tensor, b: torch.Tensor) -> Any:
    def outer(a: torch.Tensor) -> torch.Tensor:
        inner, value = grad(lambda c: (c.sin() * a * b).sum())(a)
        return (inner * a).sum() + value

    return grad(outer)(a)


def _nested_aux(grad: Grad, a: torch.Tensor, b: torch.Tensor) -> Any:
    def outer(a: torch.Tensor) -> Any:
        inner, (value, aux) = grad(lambda c: ((c**3).sum(), c * a), has_aux=True)(b)
        return value + (inner * a).sum(), (aux, inner)

    return grad(outer, has_aux=True)(a)


def _no_grad_outside(grad: Grad, a: torch.Tensor, b: torch.Tensor) -> Any:
    with torch.no_grad():
        return grad(lambda a, b: ((a * b).sin().sum(), (a, b, a * b)), has_aux=True)(a, b)


def _no_grad_inside(grad: Grad, a: torch.Tensor, b: torch.Tensor) -> Any:
    def fn(a: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            constant = a * b
        return (constant * a).sum()

    return grad(fn)(a)


def _hooked(grad: Grad, a: torch.Tensor, b: torch.Tensor) -> Any:
    def fn(a: torch.Tensor) -> torch.Tensor:
        middle = a.sin()
        middle.register_hook(lambda value: 3 * value * b)
        return (middle**2).sum()

    return grad(fn)(a)


def _captured_hook(grad: Grad, a: torch.Tensor, b: torch.Tensor) -> Any:
    middle = (a + b).sin()
    if middle.requires_grad:
        middle.register_hook(lambda value: 3 * value)
    return grad(lambda a: (a**2 * middle).sum())(a)


GRADS = unrolling.grad, torch.func.grad
CASES = [
    Case('product', lambda g, a, b: g(lambda a, b: (a**2 * b).sum())(a, b)),
    Case('captured', lambda g, a, b: g(lambda a: (a**2 * b).sum())(a)),
    Case('both arguments', lambda g, a, b: g(lambda a, b: (a**2 * b**2).sum(), (1, 0))(a, b)),
    Case('negative argnums', lambda g, a, b: g(lambda a, b: (a**2 * b**2).sum(), -1)(a, b)),
    Case('one tensor twice', lambda g, a, b: g(lambda a, b: (a**2 * b).sum())(a, a)),
    Case('twice, by both', lambda g, a, b: g(lambda a, b: (a**2 * b).sum(), (0, 1))(a, a)),
    Case('argument and captured', lambda g, a, b: g(lambda c: (a**2 * b * c).sum())(a)),
    Case('made from another', lambda g, a, b: g(lambda a, c: (a * c * b).sum())(a, a.exp())),
    Case('unused', lambda g, a, b: g(lambda a, b: b.sin().sum(), (0, 1))(a, b)),
    Case('constant', lambda g, a, b: g(lambda a: torch.ones((), dtype=DTYPE))(a)),
    Case('constant of outside', lambda g, a, b: g(lambda a: b.sin().sum())(a)),
    Case('linear', lambda g, a, b: g(lambda a: a.sum())(a)),
    Case('the argument itself', lambda g, a, b: g(lambda a: a)(a.sum())),
    Case('a tree', lambda g, a, b: g(lambda t: (t['a'] * t['b'][0]).sum())({'b': [b], 'a': a})),
    Case('keywords', lambda g, a, b: g(lambda a, *, b: (a**2 * b).sum())(a, b=b)),
    Case(
        'aux of inside, of outside and of both',
        lambda g, a, b: g(
            lambda a, b: ((a**2).sum(), {'a': a.sin(), 'b': b.sin(), 'both': a * b}),
            has_aux=True,
        )(a, b),
    ),
    Case(
        'aux that is an argument',
        lambda g, a, b: g(lambda a, b: ((a**2).sum(), (a, b, a.detach())), has_aux=True)(a, b),
    ),
    Case('in place', _in_place),
    Case('nested', _nested),
    Case('nested with aux', _nested_aux),
    Case('no_grad outside', _no_grad_outside),
    Case('no_grad inside', _no_grad_inside),
    Case('hooks', _hooked),
    Case('a hook outside', _captured_hook),
]


def by_func(fn: Any, argnums: Any = 0, has_aux: bool = False) -> Any:
    return torch.func.grad_and_value(fn, argnums, has_aux)


def results_and_derivatives(
    case: Case, grad: Grad, requires: tuple[bool, bool]
) -> tuple[list[Any], list[bool], list[Any]]:
    a, b = vector(0.7, grad=requires[0]), vector(1.3, grad=requires[1])
    # The gradients of tensors that are not leaves are what a step takes.
    inputs = [tensor * 1 if tensor.requires_grad else tensor for tensor in (a, b)]
    results = torchopt.pytree.tree_leaves(case.run(grad, *inputs), none_is_leaf=True)
    tensors = [leaf for leaf in results if isinstance(leaf, torch.Tensor)]
    recorded = [tensor.requires_grad for tensor in tensors]
    outer = [tensor.sin().sum() for tensor in tensors if tensor.requires_grad]
    wanted = [tensor for tensor in (a, b) if tensor.requires_grad]
    first: tuple[Any, ...] = ()
    second: tuple[Any, ...] = ()
    if outer:
        first = torch.autograd.grad(sum(outer), wanted, create_graph=True, allow_unused=True)
        loss = sum(g.square().sum() for g in first if g is not None and g.requires_grad)
        if isinstance(loss, torch.Tensor):
            second = torch.autograd.grad(loss, wanted, allow_unused=True)
    derivatives = [torch.zeros(3, dtype=DTYPE) if g is None else g for g in (*first, *second)]
    return [leaf.detach() for leaf in tensors], recorded, derivatives


@pytest.mark.parametrize(
    'requires', [(False, False), (True, False), (False, True), (True, True)], ids=str
)
@pytest.mark.parametrize('case', CASES, ids=lambda case: case.name)
def test_as_torch_func(case: Case, requires: tuple[bool, bool]) -> None:
    """Values, which results carry a graph, and two more derivatives."""
    expected = results_and_derivatives(case, by_func, requires)
    found = results_and_derivatives(case, unrolling.grad_and_value, requires)
    assert_equal(found[0], expected[0])
    assert found[1] == expected[1]
    assert_equal(found[2], expected[2])


@pytest.mark.parametrize('case', CASES, ids=lambda case: case.name)
def test_under_transforms_of_torch_func(case: Case) -> None:
    def outer(grad: Grad) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
        def loss(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
            results = torchopt.pytree.tree_leaves(case.run(grad, a, b))
            return sum((result.sin().sum() for result in results), torch.zeros((), dtype=DTYPE))

        return torch.func.grad(loss, (0, 1))

    if case.name == 'a hook outside':
        pytest.skip('torch.func does not call hooks that are set below its transforms')
    arguments = vector(0.7), vector(1.3)
    assert_equal(
        list(outer(unrolling.grad_and_value)(*arguments)), list(outer(by_func)(*arguments))
    )


def test_a_gradient_without_a_value() -> None:
    a = vector(0.7)
    assert_equal([unrolling.grad(lambda a: a.sin().sum())(a)], [a.cos()])
    found, aux = unrolling.grad(lambda a: (a.sin().sum(), a * 2), has_aux=True)(a)
    assert_equal([found, aux], [a.cos(), a * 2])


@pytest.mark.parametrize(
    'call',
    [
        lambda grad, a: grad(lambda a: a.sum())(torch.ones(3, dtype=torch.int64)),
        lambda grad, a: grad(lambda a: a['a'].sum())({'a': a, 'b': 1.0}),
        lambda grad, a: grad(lambda a: a['a'].sum())({'a': a, 'b': None}),
        lambda grad, a: grad(lambda a: a.sum(), 1)(a),
        lambda grad, a: grad(lambda a: a.sum(), (0, 0))(a),
        lambda grad, a: grad(lambda a: a.sum(), ())(a),
        lambda grad, a: grad(lambda a: a.sum(), 'a')(a),
        lambda grad, a: grad(lambda a: a)(a),
        lambda grad, a: grad(lambda a: 1.0)(a),
        lambda grad, a: grad(lambda a: (a.sum(), a))(a),
        lambda grad, a: grad(lambda a: a.sum(), has_aux=True)(a),
        lambda grad, a: grad(lambda a: [a.sum(), a], has_aux=True)(a),
        lambda grad, a: grad(lambda a: a.mul_(2).sum())(a),
        lambda grad, a: grad(lambda a: (a * 1j).sum())(a),
    ],
)
@pytest.mark.parametrize('requires', [False, True])
def test_what_torch_func_refuses_is_refused(call: Any, requires: bool) -> None:
    with pytest.raises(Exception) as expected:
        call(torch.func.grad, vector(0.7, grad=requires) * 1)
    with pytest.raises(type(expected.value)):
        call(unrolling.grad, vector(0.7, grad=requires) * 1)


def test_errors_for_what_a_function_returns() -> None:
    a = vector(0.7)
    with pytest.raises(RuntimeError, match=r'scalar tensor, got a tensor of shape \(3,\).*mean'):
        unrolling.grad(lambda a: a)(a)
    with pytest.raises(RuntimeError, match=r'pair .*got Tensor'):
        unrolling.grad(lambda a: a.sum(), has_aux=True)(a)


def test_an_argument_that_is_written_to() -> None:
    def written(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        b.mul_(a)
        return b.sum()

    with pytest.raises(RuntimeError, match='writes in place into an argument by which it'):
        unrolling.grad(lambda a: a.mul_(2).sum())(vector(0.7, grad=True) * 1)
    with pytest.raises(RuntimeError, match='an argument that is a view'):
        unrolling.grad(written)(vector(0.7), torch.ones(6, dtype=DTYPE)[:3])


@pytest.mark.parametrize('how', ['register_full_backward_hook', 'register_full_backward_pre_hook'])
def test_backward_hooks_of_modules(how: str) -> None:
    net = nn.Linear(3, 1, dtype=DTYPE)
    getattr(net, how)(lambda module, *gradients: None)
    with pytest.raises(RuntimeError, match='module with backward hooks'):
        unrolling.grad(lambda p: torch.func.functional_call(net, p, (vector(1.0),)).sum())(
            dict(net.named_parameters())
        )


def test_backward_hooks_of_modules_in_the_old_style() -> None:
    net = nn.Linear(3, 1, dtype=DTYPE)
    net.register_backward_hook(lambda module, *gradients: None)
    with pytest.raises(RuntimeError, match='module with backward hooks'):
        unrolling.grad(lambda p: torch.func.functional_call(net, p, (vector(1.0),)).sum())(
            dict(net.named_parameters())
        )


def test_sparse_and_inference_tensors() -> None:
    sparse = torch.eye(3, dtype=DTYPE).to_sparse().requires_grad_()

    def fn(matrix: torch.Tensor) -> torch.Tensor:
        return matrix.to_dense().square().sum()

    expected = torch.func.grad(fn)(sparse)
    assert_equal([unrolling.grad(fn)(sparse).to_dense()], [expected.to_dense()])
    with torch.inference_mode():
        inference = vector(0.7)
    for mode in (True, False):
        with torch.inference_mode(mode):
            results = [grad(lambda a: a.sin().sum())(inference) for grad in GRADS]
            assert_equal(results[:1], results[1:])


def test_dual_tensors() -> None:
    primal, tangent = vector(0.7), vector(1.3)
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(primal, tangent)
        found = forward_ad.unpack_dual(unrolling.grad(lambda a: a.sin().sum())(dual))
        assert_equal([found.primal, found.tangent], [primal.cos(), -primal.sin() * tangent])


def test_unknown_transforms(monkeypatch: pytest.MonkeyPatch) -> None:
    """Then torch.func takes the gradient."""
    monkeypatch.delattr(torch._C._functorch, 'get_interpreter_stack')
    assert torch_internals.active_transforms() is None
    with pytest.raises(RuntimeError, match=r'saved tensors? hooks'):
        checkpointed_gradient(vector(0.7))
    assert_equal([unrolling.grad(lambda a: a.sin().sum())(vector(0.7))], [vector(0.7).cos()])


def test_trees_of_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    tree = {'a': [1, None], 'b': (2,)}
    assert torch_internals.torch_tree_map(str, tree) == {'a': ['1', 'None'], 'b': ('2',)}
    monkeypatch.delattr(torch.utils, '_pytree')
    assert torch_internals.torch_tree_map(str, tree) == {'a': ['1', 'None'], 'b': ('2',)}


def checkpointed_gradient(a: torch.Tensor) -> torch.Tensor:
    def fn(a: torch.Tensor) -> torch.Tensor:
        hidden: Any = checkpoint(lambda a: a.sin().exp(), a, use_reentrant=False)
        total: torch.Tensor = (hidden * a).sum()
        return total

    found: torch.Tensor = unrolling.grad(fn)(a)
    return found


@pytest.mark.parametrize('backward', REVERSE, ids=str)
def test_checkpointed_blocks(backward: Strategy) -> None:
    def block(w: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
        return (w * k).sin().exp()

    def checkpointed(w: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
        hidden: torch.Tensor = checkpoint(block, w, k, use_reentrant=False)
        return hidden

    found = []
    for hidden in (block, checkpointed):

        def step(w: Any, x: Any, k: Any, hidden: Any = hidden) -> Any:
            return w - 0.1 * unrolling.grad(lambda w, k: (hidden(w, k) * w * x).sum())(w, k), None

        w, k = vector(0.7, grad=True), vector(1.3, grad=True)
        xs = torch.linspace(1, 2, 4, dtype=DTYPE)
        end, _ = torchopt.unroll(step, w, xs, k, backward=backward)
        found.append(list(torch.autograd.grad(end.square().sum(), [w, k])))
    assert_equal(found[1], found[0])


@pytest.mark.parametrize('reentrant', [False, True])
def test_checkpoints_that_torch_refuses(reentrant: bool) -> None:
    """A block that is run again would compute attention in another way."""

    def block(w: torch.Tensor) -> torch.Tensor:
        rows = torch.outer(vector(1.0), w).expand(1, 1, 3, 3)
        return nn.functional.scaled_dot_product_attention(rows, rows, rows)

    def fn(w: torch.Tensor) -> torch.Tensor:
        hidden: Any = checkpoint(block, w, use_reentrant=reentrant)
        total: torch.Tensor = hidden.square().sum()
        return total

    with pytest.raises(RuntimeError, match=r'torch\.utils\.checkpoint'):
        unrolling.grad(fn)(vector(0.7))


@pytest.mark.parametrize('backward', REVERSE, ids=str)
def test_saved_tensors_hooks(backward: Strategy) -> None:
    packed = []

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        packed.append(tensor)
        return tensor.clone()

    def step(w: torch.Tensor, x: torch.Tensor, k: torch.Tensor) -> Any:
        def fn(w: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
            with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
                return ((w * k).sin().exp() * x).sum()

        return w - 0.1 * unrolling.grad(fn)(w, k), None

    w, k = vector(0.7, grad=True), vector(1.3, grad=True)
    xs = torch.linspace(1, 2, 4, dtype=DTYPE)
    end, _ = torchopt.unroll(step, w, xs, k, backward=backward)
    found = torch.autograd.grad(end.square().sum(), [w, k])
    assert packed

    params, k = vector(0.7, grad=True), vector(1.3, grad=True)
    value = params
    for x in xs:
        loss = ((value * k).sin().exp() * x).sum()
        value = value - 0.1 * torch.autograd.grad(loss, value, create_graph=True)[0]
    assert_equal(list(found), list(torch.autograd.grad(value.square().sum(), [params, k])))


@pytest.mark.parametrize('backward', [*REVERSE, ForwardMode()], ids=str)
def test_a_start_without_a_graph(backward: Strategy) -> None:
    """The leaves of the first step's gradient are constants, and show nowhere."""

    def step(w: torch.Tensor, x: torch.Tensor, k: torch.Tensor) -> Any:
        found, (value, aux) = unrolling.grad_and_value(
            lambda w, k: ((w * k * x).sin().sum(), w * 2), has_aux=True
        )(w, k)
        return w - 0.1 * found, (value, aux)

    k = vector(1.3, grad=True)
    xs = torch.linspace(1, 2, 3, dtype=DTYPE)
    end, ys = torchopt.unroll(step, vector(0.7), xs, k, backward=backward)
    found = torch.autograd.grad(end.square().sum() + ys[0].sum() + ys[1].sum(), k)

    def by_hand(k: torch.Tensor) -> torch.Tensor:
        w, total = vector(0.7), torch.zeros((), dtype=DTYPE)
        for x in xs:
            total = total + (w * k * x).sin().sum() + (w * 2).sum()
            w = w - 0.1 * k * x * (w * k * x).cos()
        return w.square().sum() + total

    assert_equal(list(found), list(torch.autograd.grad(by_hand(k), k)))


def test_a_captured_tensor_alone_is_named() -> None:
    captured = vector(1.3, grad=True)

    def step(w: torch.Tensor, x: Any, k: Any) -> Any:
        return w - 0.1 * unrolling.grad(lambda w: (w**2 * captured).sum())(w), None

    with pytest.raises(RuntimeError, match=r'lost: captured \(a tensor of shape \(3,\)[^()]*\)\. '):
        torchopt.unroll(step, vector(0.7), None, length=2, backward=Recomputed())


def test_a_loop_inside_of_a_gradient_finds_what_it_captures() -> None:
    """The leaf of a gradient that is still being taken is not a constant."""

    def fn(a: torch.Tensor) -> torch.Tensor:
        def step(w: torch.Tensor, x: Any, k: Any) -> Any:
            return w - 0.1 * unrolling.grad(lambda w: (w**2 * a).sum())(w), None

        end, _ = torchopt.unroll(step, vector(0.7), None, length=2, backward=Recomputed())
        total: torch.Tensor = end.sum()
        return total

    with pytest.raises(RuntimeError, match='is not one of its arguments'):
        unrolling.grad(fn)(vector(1.3))


class Multiply(torch.autograd.Function):
    """Notes whether its backward pass runs with grad mode on."""

    __module__ = 'torch.of_tests'  # torch's functions are trusted to use nothing but their inputs
    modes: list[bool] = []  # noqa: RUF012

    @staticmethod
    def forward(ctx: Any, a: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(a)
        return a * a

    @staticmethod
    def backward(ctx: Any, cotangent: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
        Multiply.modes.append(torch.is_grad_enabled())
        (a,) = ctx.saved_tensors
        product: torch.Tensor = 2 * a * cotangent
        return product


@pytest.mark.parametrize(
    'a, b, create',
    [(False, False, False), (True, False, True), (False, True, True), (True, True, True)],
)
def test_a_graph_of_the_gradient_only_where_it_is_wanted(a: bool, b: bool, create: bool) -> None:
    Multiply.modes.clear()
    weights = vector(1.3, grad=b)

    def fn(a: torch.Tensor) -> torch.Tensor:
        squares: Any = Multiply.apply(a)
        return (squares * weights).sum()

    found = unrolling.grad(fn)(vector(0.7, grad=a))
    assert Multiply.modes == [create]
    assert found.requires_grad == create
    Multiply.modes.clear()
    with torch.no_grad():
        unrolling.grad(fn)(vector(0.7, grad=a))
    assert Multiply.modes == [False]


def test_a_tensor_that_shows_only_in_the_backward_pass() -> None:
    learned = vector(1.3, grad=True)

    class Scaled(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, a: torch.Tensor) -> torch.Tensor:
            return a.clone()

        @staticmethod
        def backward(ctx: Any, cotangent: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
            return learned * cotangent

    def scaled(a: torch.Tensor) -> torch.Tensor:
        result: Any = Scaled.apply(a)
        return result

    def hooked(a: torch.Tensor) -> torch.Tensor:
        result = a.clone()
        result.register_hook(lambda cotangent: learned * cotangent)
        return result

    def hooked_node(a: torch.Tensor) -> torch.Tensor:
        result = a.clone()
        node: Any = result.grad_fn
        node.register_hook(lambda into, out: (learned * into[0],))
        return result

    for use in (scaled, hooked, hooked_node):
        found = unrolling.grad(lambda a, use=use: use(a).square().sum())(vector(0.7))
        assert_equal([found.detach()], [2 * learned.detach() * vector(0.7)])
        assert_equal(list(torch.autograd.grad(found.sum(), learned)), [2 * vector(0.7)])

        def step(w: torch.Tensor, x: Any, k: Any, use: Any = use) -> Any:
            return w - 0.1 * unrolling.grad(lambda w: use(w).square().sum())(w), None

        with pytest.raises(RuntimeError, match='lost: learned'):
            torchopt.unroll(step, vector(0.7), None, length=2, backward=Recomputed())


def test_forward_passes_build_no_graph_of_the_gradient() -> None:
    Multiply.modes.clear()

    def step(w: torch.Tensor, x: Any, k: torch.Tensor) -> Any:
        def fn(w: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
            squares: Any = Multiply.apply(w)
            return (squares * k).sum()

        return w - 0.1 * unrolling.grad(fn)(w, k), None

    w, k = vector(0.7, grad=True), vector(1.3, grad=True)
    end, _ = torchopt.unroll(step, w, None, k, length=3, backward=Recomputed())
    assert Multiply.modes == [False] * 3
    end.sum().backward()
    assert Multiply.modes[3:6].count(True) >= 1
    assert k.grad is not None and k.grad.all()


def test_memory_of_a_first_derivative() -> None:
    """As much as torch.autograd.grad without create_graph; torch.func keeps more."""
    width, depth = 64, 6
    weights = [torch.randn(width, width) / width**0.5 for _ in range(depth)]
    x = torch.randn(256, width)

    def fn(weights: list[torch.Tensor]) -> torch.Tensor:
        hidden = x
        for weight in weights:
            hidden = (hidden @ weight).tanh()
        return hidden.square().mean()

    def plain() -> Any:
        leaves = [weight.detach().requires_grad_() for weight in weights]
        return torch.autograd.grad(fn(leaves), leaves)

    peaks = []
    for run in (plain, lambda: unrolling.grad(fn)(weights), lambda: torch.func.grad(fn)(weights)):
        with LiveBytes() as live:
            run()
            peaks.append(live.peak)
    assert peaks[1] <= 1.01 * peaks[0]
    assert peaks[2] > 1.3 * peaks[0]


def test_nothing_outlives_a_gradient() -> None:
    seen: list[weakref.ref[torch.Tensor]] = []

    def fn(a: torch.Tensor) -> Any:
        hidden = a.sin()
        seen.append(weakref.ref(a))
        return hidden.sum(), hidden

    gc.disable()
    try:
        results = unrolling.grad(fn, has_aux=True)(vector(0.7))
        assert seen[0]() is None
        assert results is not None
    finally:
        gc.enable()


@pytest.mark.parametrize('enabled', [False, True])
def test_autocast(enabled: bool) -> None:
    a, b = torch.randn(4, 4, requires_grad=True), torch.randn(4, 4)

    def fn(a: torch.Tensor) -> torch.Tensor:
        return (a @ b).float().sin().sum()

    with torch.autocast('cpu', dtype=torch.bfloat16, enabled=enabled):
        found, value = unrolling.grad_and_value(fn)(a)
        expected, expected_value = torch.func.grad_and_value(fn)(a)
    torch.testing.assert_close([found, value], [expected, expected_value], rtol=0, atol=0)
    derivatives = [torch.autograd.grad(g.square().sum(), a)[0] for g in (found, expected)]
    torch.testing.assert_close(*derivatives, rtol=0, atol=0)


def test_random_numbers_are_drawn_once() -> None:
    def fn(a: torch.Tensor) -> torch.Tensor:
        return nn.functional.dropout(a, 0.5).square().sum()

    results = []
    for grad in GRADS:
        torch.manual_seed(0)
        results += [grad(fn)(vector(0.7)), torch.rand(3, dtype=DTYPE)]
    assert_equal(results[:2], results[2:])


@pytest.mark.compile
def test_traced_code_uses_torch_func() -> None:
    a, b = vector(0.7), vector(1.3, grad=True)

    def outer(b: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = unrolling.grad(lambda a, b: (a.sin() * b).sum())(a, b)
        return found.square().sum()

    compiled = torch.compile(outer, backend='aot_eager', fullgraph=True)
    assert_equal(list(torch.autograd.grad(compiled(b), b)), list(torch.autograd.grad(outer(b), b)))


def test_both_ways_give_the_same_meta_gradients() -> None:
    with_func = problem(length=5, gradient=torch.func.grad_and_value)
    example = problem(length=5)
    for mode in REVERSE:
        assert_equal(example.gradients(mode), with_func.gradients(Stored()))
