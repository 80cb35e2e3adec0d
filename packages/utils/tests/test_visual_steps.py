"""Drawings of graphs with inner steps."""

from __future__ import annotations

import gc
import shutil
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.func import functional_call

import torchopt
from support.dot import Parsed, parsed
from torchopt import unrolling
from torchopt.authoring.torch_internals import sequence_number

pytest.importorskip('graphviz')

Loss = Callable[[dict[str, torch.Tensor]], torch.Tensor]


def make_net() -> nn.Module:
    torch.manual_seed(0)
    net = nn.Sequential()
    net.add_module('hidden', nn.Linear(1, 8))
    net.add_module('act', nn.Tanh())
    net.add_module('out', nn.Linear(8, 1))
    return net


class Problem:
    """A network with weights for its data and a learned rate."""

    def __init__(self) -> None:
        self.net = make_net()
        self.x = torch.linspace(-1, 1, 5)[:, None]
        self.weights = torch.ones(5, 1, requires_grad=True)
        self.rate = torch.tensor(0.1, requires_grad=True)
        self.params = dict(self.net.named_parameters())

    def names(self) -> dict[str, torch.Tensor]:
        return {'data weights': self.weights, 'rate': self.rate}

    def outer(self, params: dict[str, torch.Tensor]) -> torch.Tensor:
        return (functional_call(self.net, params, (self.x,)) - self.x.sin()).square().mean()

    def inner(self, params: dict[str, torch.Tensor]) -> torch.Tensor:
        errors = functional_call(self.net, params, (self.x,)) - self.x.sin()
        return (self.weights.sigmoid() * errors.square()).mean()

    def steps(self, number: int, loss: Loss | None = None, **options: Any) -> dict[str, Any]:
        optimizer = torchopt.FuncOptimizer(torchopt.adam(lr=self.rate))
        params = self.params
        for _ in range(number):
            params = optimizer.step((loss or self.inner)(params), params, **options)
        return params


def drawn(*args: Any, **options: Any) -> Parsed:
    return parsed(torchopt.make_dot(*args, **options).source)


def test_two_steps_of_adam() -> None:
    problem = Problem()
    picture = drawn(problem.outer(problem.steps(2)), problem.names())
    for step in ('step 1', 'step 2'):
        assert picture.inside(step) == [
            'gradient/18 operations',
            'hidden/addmm, tanh',
            'loss/sub',
            'out/addmm',
            'update/hidden: weight, bias/out: weight, bias',
        ]
    assert picture.inside() == [
        'data weights (5, 1)/sigmoid, mul',
        'hidden/addmm, tanh',
        'hidden/weight (8, 1)/bias (8,)',
        'out/addmm',
        'out/weight (1, 8)/bias (1,)',
        'outer loss/sub, pow, mean',
        'rate/neg',
    ]
    updates = [picture.named('update', f'step {number}') for number in (1, 2)]
    gradients = [picture.named('gradient', f'step {number}') for number in (1, 2)]
    assert picture.edges[updates[0], updates[1]] == 'params\n mu, nu'
    for box in (*gradients, *updates):
        starts = {picture.labels[start].split()[0] for start, end in picture.edges if end == box}
        assert starts == ({'loss', 'data'} if box in gradients else {'gradient', 'rate'}) | (
            {'update'} if box == updates[1] else set()
        )
    after = {picture.labels[end] for start, end in picture.edges if start == updates[1]}
    assert after == {'hidden\naddmm, tanh', 'out\naddmm'}


def test_the_middle_of_a_long_unroll_is_one_box() -> None:
    problem = Problem()
    loss = problem.outer(problem.steps(12))
    picture = drawn(loss, problem.names())
    clusters = {titles for titles in picture.cluster.values() if titles}
    assert clusters == {('step 1',), ('step 2',), ('step 11',), ('step 12',)}
    fold = picture.named('8 more steps')
    assert picture.edges[picture.named('update', 'step 2'), fold] == 'params\n mu, nu'
    assert picture.edges[fold, picture.named('update', 'step 11')] == 'params\n mu, nu'
    assert (picture.named('data weights'), fold) in picture.edges

    assert 'in 1 run' not in drawn(loss).texts()
    assert len({*drawn(loss, max_steps=None).cluster.values()}) == 13
    assert {*drawn(loss, max_steps=0).cluster.values()} == {()}
    assert '12 steps/FuncOptimizer' in drawn(loss, max_steps=0).texts()
    # A box for one step would be no smaller than the step.
    assert len({*drawn(loss, max_steps=11).cluster.values()}) == 13


def test_steps_as_boxes() -> None:
    problem = Problem()
    picture = drawn(problem.outer(problem.steps(2)), problem.names(), detail='steps')
    first, second = picture.named('step 1'), picture.named('step 2')
    assert len(picture.labels) == 7
    assert picture.labels[first] == 'step 1\nupdates hidden, out'
    assert picture.edges[first, second] == 'params\n mu, nu'
    assert [end for start, end in picture.edges if start == second] == ['out0']


def test_operations_stand_in_clusters_by_step_and_part() -> None:
    problem = Problem()
    picture = drawn(problem.outer(problem.steps(2)), problem.names(), detail='operations')
    assert picture.inside('step 1', 'hidden') == ['AddmmBackward0', 'TBackward0', 'TanhBackward0']
    assert picture.inside('step 2', 'out') == ['AddmmBackward0', 'TBackward0']
    assert len(picture.inside('step 1', 'gradient')) == 18
    update = picture.inside('step 2', 'update of out.bias')
    assert [label for label in update if '/' in label] == [
        'mu/LerpBackward0',
        'nu/AddcmulBackward0',
        'out.bias/AddBackward0',
    ]
    assert {'hidden.weight/(8, 1)', 'rate/()', 'outer loss/()'} <= {*picture.inside()}


def test_first_order_steps_have_no_gradient() -> None:
    problem = Problem()
    picture = drawn(problem.outer(problem.steps(2, first_order=True)), problem.names())
    assert picture.inside('step 1, first order') == [
        'update/hidden: weight, bias/out: weight, bias'
    ]
    assert 'not reached:/data weights' in picture.texts()


def test_a_loop_of_the_users_own_with_constant_gradients() -> None:
    problem = Problem()
    optimizer = torchopt.adam(lr=problem.rate)
    grads = torch.autograd.grad(problem.inner(problem.params), [*problem.params.values()])
    state = optimizer.init(problem.params)
    updates, _ = optimizer.update(dict(zip(problem.params, grads)), state, inplace=False)
    params = torchopt.apply_updates(problem.params, updates, inplace=False)
    picture = drawn(problem.outer(params), problem.names())
    inside = picture.inside('step 1, first order')
    assert inside == ['update/hidden: weight, bias/out: weight, bias']


def test_a_loop_of_the_users_own() -> None:
    problem = Problem()
    optimizer = torchopt.chain(torchopt.clip_grad_norm(1.0), torchopt.adam(lr=problem.rate))
    params, state = problem.params, optimizer.init(problem.params)
    for _ in range(2):
        loss = problem.inner(params)
        grads = torch.autograd.grad(loss, list(params.values()), create_graph=True)
        updates, state = optimizer.update(dict(zip(params, grads)), state, inplace=False)
        params = torchopt.apply_updates(params, updates, inplace=False)
    picture = drawn(problem.outer(params), problem.names())
    # Nobody has told where the loss ends.
    assert picture.inside('step 2') == [
        'hidden/addmm, tanh',
        'loss and gradient/19 operations',
        'out/addmm',
        'update/hidden: weight, bias/out: weight, bias',
    ]


@pytest.mark.parametrize('kind', ['unknown', 'of another thread'])
def test_modules_are_found_without_the_order_of_recording(
    monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    def number(node: Any) -> int | None:
        # The backward pass runs in a thread of its own, whose count began later.
        own = sequence_number(node)
        return None if kind == 'unknown' or own is None else own % 20

    monkeypatch.setattr('torchopt_utils.visual.parts.sequence_number', number)
    problem = Problem()
    picture = drawn(problem.outer(problem.steps(2)), problem.names())
    for step in ('step 1', 'step 2'):
        assert picture.inside(step) == [
            'hidden/addmm, tanh',
            'loss and gradient/19 operations',
            'out/addmm',
            'update/hidden: weight, bias/out: weight, bias',
        ]


def test_gradients_of_a_step_by_hand() -> None:
    def step(w: torch.Tensor, _: Any, rate: torch.Tensor) -> tuple[torch.Tensor, None]:
        return w - rate * unrolling.grad(lambda w: w.pow(3).sum())(w), None

    rate = torch.tensor(0.1, requires_grad=True)
    w, _ = torchopt.unroll(step, torch.ones(2, requires_grad=True), consts=rate, length=2)
    picture = drawn(w.sum(), {'rate': rate})
    assert picture.inside('step 2') == [
        'forward/pow',
        'loss, gradient, update/3 operations',
        'update',
    ]
    assert picture.attributes[picture.named('(2,)')] != picture.attributes[picture.named('rate')]


def test_the_gradient_of_a_linear_loss_belongs_to_its_step() -> None:
    weights, start = (torch.ones(2, requires_grad=True) for _ in range(2))
    optimizer = torchopt.FuncOptimizer(torchopt.adam(lr=0.1))
    params = start
    for _ in range(2):
        params = optimizer.step((weights * params).sum(), params)
    picture = drawn(params.sum(), {'weights': weights})
    updates = [picture.named('update', f'step {number}') for number in (1, 2)]
    assert picture.edges[updates[0], updates[1]] == 'params\n mu, nu'
    assert picture.inside('step 1') == ['gradient/1 operation', 'update']


def test_tasks_stand_side_by_side() -> None:
    problem = Problem()
    losses = [problem.outer(problem.steps(2, problem.outer)) for _ in range(2)]
    picture = drawn(sum(losses), problem.names())
    titles = {titles for titles in picture.cluster.values() if titles}
    assert titles == {(f'run {run}, step {step}',) for run in (1, 2) for step in (1, 2)}
    assert picture.inside().count('out/addmm') == 2
    starts = [start for start, end in picture.edges if end == 'out0']
    assert len(starts) == 2
    assert all(picture.labels[start].startswith('loss\n') for start in starts)
    assert len([end for start, end in picture.edges if start == picture.named('rate')]) == 4


def test_many_tasks_are_folded() -> None:
    problem = Problem()
    losses = [problem.outer(problem.steps(1, problem.outer)) for _ in range(6)]
    picture = drawn(sum(losses), problem.names())
    fold = picture.named('4 steps\nin 4 more runs')
    assert [end for start, end in picture.edges if start == fold] == ['out0']
    assert picture.inside().count('out/addmm') == 2


def test_parameters_that_are_computed_stand_before_the_steps() -> None:
    hyper = nn.Linear(3, 4)
    params = {'w': hyper(torch.ones(3))}
    optimizer = torchopt.FuncOptimizer(torchopt.sgd(lr=0.1))
    for _ in range(2):
        params = optimizer.step(params['w'].pow(3).sum(), params)
    picture = drawn(params['w'].sum(), {'hyper': hyper})
    assert {'hyper/addmm', 'w'} <= {*picture.inside()}
    gradient = picture.named('gradient', 'step 1')
    assert (picture.named('w'), gradient) in picture.edges


@pytest.mark.parametrize('backward', [unrolling.Recomputed(), unrolling.Snapshots(3)])
def test_a_loop_in_one_node_is_one_box(backward: unrolling.Strategy) -> None:
    def step(w: torch.Tensor, _: Any, rate: torch.Tensor) -> tuple[torch.Tensor, None]:
        return w - rate * unrolling.grad(lambda w: w.pow(3).sum())(w), None

    rate, start = torch.tensor(0.1, requires_grad=True), torch.ones(2, requires_grad=True)
    w, _ = torchopt.unroll(step, start, consts=rate, length=9, backward=backward)
    picture = drawn(w.sum(), {'rate': rate})
    name = type(backward).__name__
    assert picture.inside() == ['(2,)', 'outer loss/sum', 'rate', f'unroll: 9 steps/{name}']


@pytest.mark.parametrize('inner', [unrolling.Stored(), unrolling.Recomputed()])
def test_truncation_says_what_is_left_out(inner: unrolling.Strategy) -> None:
    problem = Problem()

    def loss(net: nn.Module, _: Any, weights: torch.Tensor) -> torch.Tensor:
        return (weights * (net(problem.x) - problem.x.sin()).square()).mean()

    step = unrolling.ModuleStep(problem.net, torchopt.adam(lr=0.1), loss)
    carry, _ = torchopt.unroll(
        step,
        step.init(),
        consts=problem.weights,
        length=5,
        backward=unrolling.Truncated(2, inner),
    )
    picture = drawn(problem.outer(carry.params), problem.names())
    cut = picture.named('3 earlier steps\nleft out')
    if isinstance(inner, unrolling.Recomputed):
        assert picture.edges[cut, picture.named('unroll: 2 steps')] == ''
    else:
        assert picture.edges[cut, picture.named('update', 'step 4')] == ''
        assert {titles for titles in picture.cluster.values() if titles} == {
            ('step 4',),
            ('step 5',),
        }


@pytest.mark.parametrize('detail', ['modules', 'operations'])
def test_a_graph_that_was_cut_says_so(detail: Any) -> None:
    problem = Problem()
    params = problem.steps(1)
    torchopt.stop_gradient(params)
    problem.params = params
    picture = drawn(problem.outer(problem.steps(1)), problem.names(), detail=detail)
    cut = picture.named('graph cut by\nstop_gradient')
    ends = sorted(picture.labels[end].split()[0] for start, end in picture.edges if start == cut)
    leaves = ['hidden.bias', 'hidden.weight', 'out.bias', 'out.weight']
    assert ends == (['hidden', 'out'] if detail == 'modules' else leaves)

    state = torchopt.extract_state_dict(problem.net, by='deepcopy')
    torchopt.recover_state_dict(problem.net, state)
    loss = problem.outer(dict(problem.net.named_parameters()))
    assert "detached copy:/by='deepcopy'" in drawn(loss).texts()


def test_a_tensor_of_the_users_own_stays_by_itself() -> None:
    problem = Problem()
    params = problem.steps(1)
    features = torch.tanh(functional_call(problem.net, params, (problem.x,)))
    picture = drawn(features.sum(), {'features': features})
    assert picture.labels[picture.named('features')] == 'features\ntanh'


def test_states_and_optimizers_give_names() -> None:
    problem = Problem()
    optimizer = torchopt.FuncOptimizer(torchopt.chain(torchopt.adam(lr=0.1)))
    params = optimizer.step(problem.inner(problem.params), problem.params)
    loss = problem.outer(params)
    state = optimizer.state_dict()
    for named in (optimizer, state, [state], {'adam': optimizer}, {'adam.': state}):
        texts = drawn(loss, named, detail='operations').texts()
        prefix = 'adam.' if isinstance(named, dict) else ''
        assert f'{prefix}mu.hidden.weight/LerpBackward0' in texts
        assert f'{prefix}nu.out.bias/AddcmulBackward0' in texts
        # They are no tensors that somebody could miss.
        assert not any('not reached' in text for text in texts)
    assert drawn(loss, optimizer).texts() == drawn(loss).texts()


def test_a_state_that_was_cut_is_one_box() -> None:
    problem = Problem()
    optimizer = torchopt.FuncOptimizer(torchopt.adam(lr=problem.rate))
    for held in (optimizer, None):
        params = optimizer.step(problem.outer(problem.params), problem.params)
        torchopt.stop_gradient(params)
        torchopt.stop_gradient(held or optimizer.state_dict())
        params = optimizer.step(problem.outer(params), params)
        picture = drawn(problem.outer(params))
        state = picture.named('optimizer state\n8 tensors')
        first = picture.named('update', 'step 1')
        assert [end for start, end in picture.edges if start == state] == [first]
        # A rate without a name is none of them.
        assert '()/neg' in picture.inside()
        texts = drawn(problem.outer(params), detail='operations').inside()
        assert texts.count('(1, 8)') == 2


def test_first_moments_have_the_names_of_their_state() -> None:
    problem = Problem()
    rule = torchopt.adam(lr=0.1, moment_requires_grad=True)
    state = rule.init(problem.params)
    gradients = torch.autograd.grad(problem.inner(problem.params), [*problem.params.values()])
    updates, _ = rule.update(dict(zip(problem.params, gradients)), state, inplace=False)
    params = torchopt.apply_updates(problem.params, updates, inplace=False)
    loss = problem.outer(params)
    assert 'optimizer state/8 tensors' in drawn(loss, {'adam': state}).inside()
    assert 'adam.mu.out.bias/(1,)' in drawn(loss, {'adam': state}, detail='operations').inside()


def test_tensors_that_are_not_reached_are_counted() -> None:
    problem = Problem()
    others = {f'other{number}': torch.ones(1, requires_grad=True) for number in range(9)}
    texts = drawn(problem.outer(problem.params), {**others, 'frozen': torch.ones(1)}).texts()
    assert 'not reached:/other0/other1/other2/and 6 more' in texts


def test_deep_modules_are_grouped() -> None:
    layers = nn.Sequential(*(nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)) for _ in range(4)))
    params = {f'layers.{name}': param for name, param in layers.named_parameters()}

    def loss(params: dict[str, torch.Tensor]) -> torch.Tensor:
        own = {name.removeprefix('layers.'): param for name, param in params.items()}
        return functional_call(layers, own, (torch.ones(1, 2),)).square().mean()

    new = torchopt.FuncOptimizer(torchopt.sgd(lr=0.1)).step(loss(params), params)
    picture = drawn(loss(new))
    assert {'layers.0/4 parameters', 'layers.3/4 parameters'} <= {*picture.inside()}
    picture = drawn(loss(new), depth=1)
    assert 'layers/16 parameters' in picture.inside()
    assert 'layers.0.1/weight (2, 2)/bias (2,)' in drawn(loss(new), depth=3).inside()


def test_recurrent_modules_keep_their_circle() -> None:
    torch.manual_seed(0)
    a, b = nn.Linear(2, 2), nn.Linear(2, 2)
    net = nn.ModuleDict({'a': a, 'b': b})
    params = dict(net.named_parameters())

    def loss(params: dict[str, torch.Tensor]) -> torch.Tensor:
        h = torch.ones(1, 2)
        for name in 'abab':
            h = torch.tanh(h @ params[f'{name}.weight'].T + params[f'{name}.bias'])
        return h.square().mean()

    new = torchopt.FuncOptimizer(torchopt.sgd(lr=0.1)).step(loss(params), params)
    picture = drawn(loss(new))
    boxes = [picture.named(name, 'step 1') for name in ('a', 'b')]
    assert {(boxes[0], boxes[1]), (boxes[1], boxes[0])} <= {*picture.edges}


def test_a_graph_that_was_used_can_be_drawn() -> None:
    problem = Problem()
    loss = problem.outer(problem.steps(1))
    before = torchopt.make_dot(loss, problem.names()).source
    loss.backward()
    assert torchopt.make_dot(loss, problem.names()).source == before


@pytest.mark.parametrize('detail', ['steps', 'modules', 'operations'])
def test_the_same_graph_gives_the_same_text(detail: Any) -> None:
    texts = []
    for _ in range(2):
        problem = Problem()
        loss = problem.outer(problem.steps(6))
        texts.append(torchopt.make_dot(loss, problem.names(), detail=detail).source)
        texts.append(torchopt.make_dot(loss, problem.names(), detail=detail).source)
    assert len({*texts}) == 1


def test_nothing_is_kept_alive() -> None:
    problem = Problem()
    params = problem.steps(2)
    loss = problem.outer(params)
    alive = weakref.ref(params['out.bias'])
    gc.disable()
    try:
        dot = torchopt.make_dot(loss, [problem.names(), params])
        del params, loss
        assert alive() is None
        assert dot.source
    finally:
        gc.enable()


def test_long_runs_are_drawn_without_recursion() -> None:
    w = torch.ones((), requires_grad=True)
    optimizer = torchopt.FuncOptimizer(torchopt.sgd(lr=0.1))
    params = w
    for _ in range(1500):
        params = optimizer.step(params.square(), params)
    assert '1496 more steps/FuncOptimizer' in drawn(params).texts()


def test_themes_differ_in_colours_alone() -> None:
    problem = Problem()
    loss = problem.outer(problem.steps(2))
    pictures = [drawn(loss, problem.names(), theme=theme) for theme in ('auto', 'light', 'dark')]
    assert len({picture.attributes['0'] for picture in pictures}) == 3
    assert len({tuple(picture.texts()) for picture in pictures}) == 1


@pytest.mark.skipif(shutil.which('dot') is None, reason='the program dot is not installed')
@pytest.mark.parametrize('detail', ['steps', 'modules', 'operations'])
def test_dot_renders_every_level_of_detail(detail: Any) -> None:
    problem = Problem()
    names = {'a "quoted" name': problem.weights, 'a\\nb': problem.rate}
    dot = torchopt.make_dot(problem.outer(problem.steps(6)), names, detail=detail)
    picture = dot.pipe(format='svg').decode()
    assert picture.count('class="node"') == len(parsed(dot.source).labels)
    assert 'a &quot;quoted&quot; name' in picture
