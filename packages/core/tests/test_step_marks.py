"""Marks of inner steps in the graph of autograd."""

from __future__ import annotations

import gc
import weakref
from collections import OrderedDict
from typing import Any

import pytest
import torch

import torchopt
from torchopt.authoring.detached import detached_by, note_detached
from torchopt.authoring.step_marks import cut_of, last_step_from, loop_of, step_of
from torchopt.unrolling import ForwardMode, Recomputed, Snapshots, Strategy, Truncated


def functional_steps(number: int, params: Any, **options: Any) -> Any:
    optimizer = torchopt.adam(lr=0.1)
    state = optimizer.init(params)
    for _ in range(number):
        loss = sum(p.square().sum() for p in params.values())
        grads = torch.autograd.grad(loss, list(params.values()), create_graph=True)
        updates, state = optimizer.update(dict(zip(params, grads)), state, **options)
        params = torchopt.apply_updates(params, updates, **options)
    return params


@pytest.mark.parametrize('options', [{'inplace': False}, {}])
def test_apply_updates_marks_its_results(options: dict[str, bool]) -> None:
    params = {name: torch.ones(2, requires_grad=True) for name in 'ab'}
    new = functional_steps(2, params, **options)
    a, b = (step_of(new[name].grad_fn) for name in 'ab')
    assert (a.name, b.name, a.position, b.position) == ('a', 'b', 0, 1)
    assert a.step == b.step
    assert (a.step.by, a.step.size, a.step.first_order) == ('apply_updates', 2, False)
    old, update = new['a'].grad_fn.next_functions
    assert step_of(old[0]).step.number < a.step.number
    assert step_of(update[0]) is None


@pytest.mark.parametrize(
    ('names', 'container'),
    [
        (['0', '1'], lambda a, b: [a, b]),
        (['0', '1'], lambda a, b: (a, b)),
        (['b', 'a'], lambda a, b: {'b': a, 'a': b}),
        (['b', 'a'], lambda a, b: OrderedDict(b=a, a=b)),
        (['0', '2'], lambda a, b: [a, None, b]),
        (['0.w', '1'], lambda a, b: [{'w': a}, b]),
        (['x.0', 'x.1'], lambda a, b: {'x': (a, b)}),
        (['3', '2'], lambda a, b: {3: a, 2: b}),
    ],
)
def test_names_are_where_the_parameters_are(names: list[str], container: Any) -> None:
    a, b = torch.ones(2, requires_grad=True), torch.zeros(3, requires_grad=True)
    new = torchopt.apply_updates(container(a, b), container(a * 2, b * 3), inplace=False)
    made = {len(leaf): leaf.grad_fn for leaf in torchopt.pytree.tree_leaves(new)}
    assert [step_of(made[2]).name, step_of(made[3]).name] == names
    assert {step_of(made[2]).position, step_of(made[3]).position} == {0, 1}
    for leaf, name in zip((a, b), names):
        assert last_step_from(torch.autograd.graph.get_gradient_edge(leaf).node).name == name


def test_gradients_in_another_order_than_the_parameters() -> None:
    params = {'a': torch.ones(2, requires_grad=True) * 1, 'b': torch.ones(3)}
    updates = {'b': torch.ones(3, requires_grad=True), 'a': torch.ones(2)}
    new = torchopt.apply_updates(params, updates, inplace=False)
    assert {name: step_of(new[name].grad_fn).name for name in 'ab'} == {'a': 'a', 'b': 'b'}
    assert last_step_from(params['a'].grad_fn) == step_of(new['a'].grad_fn)


@pytest.mark.parametrize('first_order', [False, True])
def test_func_optimizer_marks_its_results(first_order: bool) -> None:
    w = torch.ones(2, requires_grad=True)
    optimizer = torchopt.FuncOptimizer(torchopt.adam(lr=0.1))
    new = optimizer.step(w.square().sum(), w, first_order=first_order)
    mark = step_of(new.grad_fn)
    assert (mark.name, mark.step.by, mark.step.first_order) == ('', 'FuncOptimizer', first_order)


def scaled(w: torch.Tensor, _: None, lr: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return w - lr * torchopt.unrolling.grad(torch.square)(w), w


def test_unroll_marks_steps_that_do_not_use_apply_updates() -> None:
    lr = torch.tensor(0.1, requires_grad=True)
    w, _ = torchopt.unroll(scaled, torch.tensor(1.0), consts=lr, length=3)
    assert step_of(w.grad_fn).step.by == 'unroll'


def test_unroll_leaves_the_marks_of_the_step() -> None:
    def step(carry: Any, _: None, lr: torch.Tensor) -> tuple[Any, None]:
        w, state = carry
        optimizer = torchopt.adam(lr)
        grad = torchopt.unrolling.grad(torch.square)(w)
        updates, state = optimizer.update(grad, state, inplace=False)
        return (torchopt.apply_updates(w, updates, inplace=False), state), None

    lr, w = torch.tensor(0.1, requires_grad=True), torch.tensor(1.0)
    (w, state), _ = torchopt.unroll(step, (w, torchopt.adam(lr).init(w)), consts=lr, length=3)
    assert step_of(w.grad_fn).step.by == 'apply_updates'
    moments = [leaf.grad_fn for leaf in torchopt.pytree.tree_leaves(state)]
    assert not any(node is not None and step_of(node) for node in moments)


@pytest.mark.parametrize('backward', [Recomputed(), Snapshots(2), ForwardMode()])
def test_a_loop_in_one_node_says_so(backward: Strategy) -> None:
    lr = torch.tensor(0.1, requires_grad=True)
    w, _ = torchopt.unroll(scaled, torch.tensor(1.0), consts=lr, length=3, backward=backward)
    assert loop_of(w.grad_fn) == (type(backward).__name__, 3)
    assert step_of(w.grad_fn) is None


def test_truncation_says_how_many_steps_are_left_out() -> None:
    lr = torch.tensor(0.1, requires_grad=True)
    for backward in (Truncated(2), Truncated(2, Recomputed())):
        w, _ = torchopt.unroll(scaled, torch.tensor(1.0), consts=lr, length=5, backward=backward)
        assert cut_of(w.grad_fn) == 3


def test_no_marks_without_a_graph() -> None:
    params = {'w': torch.ones(2)}
    new = torchopt.apply_updates(params, {'w': torch.ones(2)}, inplace=False)
    assert new['w'].grad_fn is None


def test_no_marks_below_transforms() -> None:
    def loss(w: torch.Tensor) -> torch.Tensor:
        new = torchopt.apply_updates(w, 0.1 * w, inplace=False)
        nodes.append(new.grad_fn)
        return new.sum()

    nodes: list[Any] = []
    torch.func.grad(loss)(torch.ones(2))
    assert nodes[0] is not None
    assert step_of(nodes[0]) is None


@pytest.mark.compile
def test_marks_neither_break_nor_recompile_a_graph() -> None:
    compiled = []

    def backend(module: Any, _: Any) -> Any:
        compiled.append(module)
        return module.forward

    @torch.compile(backend=backend, fullgraph=True)
    def step(w: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
        return torchopt.apply_updates({'w': w}, {'w': u}, inplace=False)['w']

    for _ in range(3):
        new = step(torch.ones(2, requires_grad=True), torch.ones(2))
    assert len(compiled) == 1
    assert step_of(new.grad_fn) is None


class Key:
    """A key of a tree; it is ordered, as optree wants."""

    def __lt__(self, other: Key) -> bool:
        return False


def test_marks_keep_nothing_alive() -> None:
    key = Key()
    params = {key: torch.ones(2, requires_grad=True)}
    new = torchopt.apply_updates(params, {key: 0.1 * params[key]}, inplace=False)[key]
    alive = weakref.ref(key)
    gc.disable()
    try:
        del key, params
        assert step_of(new.grad_fn).name == 'Key'
        assert alive() is None
    finally:
        gc.enable()


def test_parameters_note_the_step_that_began_at_them() -> None:
    w = torch.ones(2, requires_grad=True)
    optimizer = torchopt.FuncOptimizer(torchopt.sgd(lr=0.1))
    loss = w.square().sum()
    first = optimizer.step(loss, w)
    second = optimizer.step(first.square().sum(), first)
    leaf = torch.autograd.graph.get_gradient_edge(w).node
    assert last_step_from(leaf) == step_of(first.grad_fn)
    assert last_step_from(first.grad_fn) == step_of(second.grad_fn)
    assert last_step_from(second.grad_fn) is None


def test_a_parameter_that_a_step_leaves_as_it_was_keeps_its_mark() -> None:
    params = {name: torch.ones(2, requires_grad=True) for name in 'ab'}
    optimizer = torchopt.FuncOptimizer(torchopt.sgd(lr=0.1))
    first = optimizer.step((params['a'] * params['b']).sum(), params)
    second = optimizer.step(first['a'].square().sum(), first)
    assert second['b'] is first['b']
    assert step_of(second['b'].grad_fn).step == step_of(first['a'].grad_fn).step
    assert step_of(second['a'].grad_fn).step != step_of(first['a'].grad_fn).step


def test_notes_on_detached_leaves_end_with_them() -> None:
    leaf = torch.ones(2, requires_grad=True)
    note_detached(leaf, 'stop_gradient', 'tree')
    assert detached_by(leaf)[:2] == ('stop_gradient', 'tree')
    assert detached_by(torch.ones(2, requires_grad=True)) is None
    assert detached_by(leaf * 1) is None
    alive = weakref.ref(leaf)
    gc.disable()
    try:
        del leaf
        assert alive() is None
    finally:
        gc.enable()
