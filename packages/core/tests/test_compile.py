"""Whole meta-steps under torch.compile: one graph, the same values, no recompilation.

Most tests only trace, because graphs break in tracing. A few generate code with Inductor, which
takes seconds per test.
"""

from __future__ import annotations

import functools
import shutil
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import pytest
import torch
from torch.func import grad, jvp, vjp

import torchopt
from support.optimizer_cases import CASES, MAIN_CASES, PATH_CASES, OptimizerCase
from support.trees import assert_trees_close
from support.unrolled import META, START, inner_loss, outer_loss
from torchopt import pytree

pytestmark = pytest.mark.compile

ALL_OPTIONS = [case for case in MAIN_CASES if case.label != 'defaults']
TASKS = torch.stack([META, 2 * META, -META])
needs_compiler = pytest.mark.skipif(
    not shutil.which('c++') and not shutil.which('g++'), reason='Inductor needs a C++ compiler'
)


@pytest.fixture(autouse=True)
def fresh_compiler() -> Iterator[None]:
    torch.compiler.reset()
    yield
    torch.compiler.reset()


def compiled(fn: Callable[..., Any], backend: str = 'eager') -> Callable[..., Any]:
    return torch.compile(fn, fullgraph=True, backend=backend)


def steps(
    optimizer: torchopt.GradientTransformation, phi: torch.Tensor, params: Any, state: Any
) -> Any:
    for _ in range(2):
        gradients = grad(inner_loss, argnums=1)(phi, params)
        updates, state = optimizer.update(gradients, state, params=params, inplace=False)
        params = torchopt.apply_updates(params, updates, inplace=False)
    return params, state


def meta_loss(make: Callable[[], torchopt.GradientTransformation]) -> Callable[..., torch.Tensor]:
    """The mean over tasks of the loss after two steps."""

    def task_loss(phi: torch.Tensor, params: Any) -> torch.Tensor:
        optimizer = make()
        return outer_loss(steps(optimizer, phi, params, optimizer.init(params))[0])

    return lambda tasks, params: torch.vmap(task_loss, in_dims=(0, None))(tasks, params).mean()


# The cases of all options are compiled further below.
@pytest.mark.parametrize('case', [c for c in PATH_CASES if c not in ALL_OPTIONS], ids=str)
def test_a_meta_gradient_is_one_graph(case: OptimizerCase) -> None:
    # Dynamo cannot make a tensor that requires grad, so such a state has to be an input.
    make = functools.partial(case.make, moment_requires_grad=False)
    meta_gradient = grad(meta_loss(make), argnums=(0, 1))
    assert_trees_close(compiled(meta_gradient)(TASKS, START), meta_gradient(TASKS, START))


@pytest.mark.parametrize('case', MAIN_CASES, ids=str)
def test_an_eager_state_enters_a_compiled_step_and_comes_back(case: OptimizerCase) -> None:
    """A growing step count does not recompile."""
    optimizer = case.make(moment_requires_grad=False)

    def step(params: Any, state: Any) -> Any:
        return steps(optimizer, META, params, state)

    mine = theirs = (START, optimizer.init(START))
    compiled_step = compiled(step, 'aot_eager')
    mine, theirs = compiled_step(*mine), step(*theirs)
    with torch.compiler.set_stance('fail_on_recompile'):
        for _ in range(3):
            mine, theirs = compiled_step(*mine), step(*theirs)
    assert_trees_close(mine, theirs)
    assert_trees_close(step(*mine), step(*theirs))


@pytest.mark.parametrize('case', [c for c in CASES if c.label == 'moment_requires_grad'], ids=str)
def test_gradients_with_respect_to_an_input_state(case: OptimizerCase) -> None:
    optimizer = case.make()
    state = optimizer.init(START)
    inputs = [leaf for leaf in pytree.tree_leaves(state) if leaf.requires_grad]
    found = []
    for run in (steps, compiled(steps, 'aot_eager')):
        loss = outer_loss(run(optimizer, META, START, state)[0])
        if not loss.requires_grad:
            found.append(loss)
            continue
        # Some states have no part in the step, such as the averages of ASGD.
        found.append(torch.autograd.grad(loss, inputs, materialize_grads=True))
    assert_trees_close(*found)


@pytest.mark.parametrize('case', ALL_OPTIONS, ids=str)
def test_one_state_per_task(case: OptimizerCase) -> None:
    """An eager vmapped init makes the state, and a compiled vmapped step updates it."""
    optimizer = case.make(moment_requires_grad=False)
    params = pytree.tree_map(lambda leaf: torch.stack([leaf, leaf + 1, -leaf]), START)
    state = torch.vmap(optimizer.init)(params)

    def step(tasks: torch.Tensor, params: Any, state: Any) -> Any:
        return torch.vmap(lambda *task: steps(optimizer, *task))(tasks, params, state)

    assert_trees_close(compiled(step)(TASKS, params, state), step(TASKS, params, state))


@pytest.mark.parametrize('case', ALL_OPTIONS, ids=str)
def test_gradients_to_hyperparameters(case: OptimizerCase) -> None:
    values = pytree.tree_map(torch.Tensor.detach, case.tensor_options())

    def loss(options: dict[str, Any]) -> torch.Tensor:
        return meta_loss(lambda: case.make(**options, moment_requires_grad=False))(TASKS, START)

    assert_trees_close(compiled(grad(loss))(values), grad(loss)(values))


COMPOSED = {
    'clipped by norm': lambda: torchopt.chain(torchopt.clip_grad_norm(0.3), torchopt.adam(0.1)),
    'clipped by largest': lambda: torchopt.chain(
        torchopt.clip_grad_norm(0.3, float('inf')), torchopt.sgd(0.1, momentum=0.9)
    ),
    'decayed': lambda: torchopt.chain(
        torchopt.transform.add_decayed_weights(0.1), torchopt.rmsprop(0.1)
    ),
    'masked': lambda: torchopt.chain(
        torchopt.transform.masked(torchopt.transform.scale(3.0), {'w': True, 'b': False}),
        torchopt.adamw(0.1),
    ),
    'nan to num': lambda: torchopt.chain(torchopt.transform.nan_to_num(), torchopt.adagrad(0.1)),
    'polynomial schedule': lambda: torchopt.adam(
        torchopt.polynomial_schedule(0.1, 0.01, 2.0, transition_steps=3)
    ),
    'exponential schedule': lambda: torchopt.radam(
        torchopt.exponential_decay(0.1, transition_begin=0, transition_steps=2, decay_rate=0.5)
    ),
    'schedule of numbers': lambda: torchopt.sgd(lambda count: 0.1 * 0.9**count),
    'rate for every entry': lambda: torchopt.adam(
        pytree.tree_map(lambda leaf: 0.1 * torch.ones_like(leaf), START)
    ),
}


@pytest.mark.parametrize('name', COMPOSED)
def test_compositions(name: str) -> None:
    meta_gradient = grad(meta_loss(COMPOSED[name]), argnums=(0, 1))
    assert_trees_close(compiled(meta_gradient)(TASKS, START), meta_gradient(TASKS, START))


class Layer(NamedTuple):
    w: torch.Tensor
    b: torch.Tensor


TREES = {
    'tensor': START['w'],
    'list': [START['w'], START['b']],
    'tuple': (START['w'], (START['b'],)),
    'named tuple': Layer(START['w'], START['b']),
    'dictionary': {'layers': [Layer(START['w'], START['b']), Layer(START['b'], START['w'])]},
}


@pytest.mark.parametrize('kind', TREES)
def test_trees(kind: str) -> None:
    optimizer = torchopt.adamw(0.1, mask=lambda tree: pytree.tree_map(lambda x: x.ndim > 1, tree))
    params = TREES[kind]

    def loss(params: Any) -> torch.Tensor:
        return sum(torch.sin(leaf).square().sum() for leaf in pytree.tree_leaves(params))

    def meta_gradient(params: Any) -> Any:
        def outer(params: Any) -> torch.Tensor:
            updates, _ = optimizer.update(
                grad(loss)(params), optimizer.init(params), params=params, inplace=False
            )
            return loss(torchopt.apply_updates(params, updates, inplace=False))

        return grad(outer)(params)

    assert_trees_close(compiled(meta_gradient)(params), meta_gradient(params))


def test_dictionaries_in_which_the_mask_leaves_nothing() -> None:
    params = {'w': START['w'], 'frozen': {'w': START['b'], 'none': None}}
    optimizer = torchopt.adamw(0.1, mask={'w': True, 'frozen': False})

    def step(params: Any) -> Any:
        return optimizer.update(params, optimizer.init(params), params=params, inplace=False)

    assert_trees_close(compiled(step)(params), step(params))


def test_transforms() -> None:
    loss = meta_loss(lambda: torchopt.adam(0.1))
    tangent = torch.ones_like(TASKS)

    def forward(tasks: torch.Tensor) -> Any:
        return jvp(lambda t: loss(t, START), (tasks,), (tangent,))

    def reverse(tasks: torch.Tensor) -> Any:
        value, pull_back = vjp(lambda t: loss(t, START), tasks)
        return value, pull_back(torch.ones_like(value))

    def hessian_vector(tasks: torch.Tensor) -> Any:
        return jvp(grad(lambda t: loss(t, START)), (tasks,), (tangent,))

    for transform in (forward, reverse, hessian_vector):
        assert_trees_close(compiled(transform)(TASKS), transform(TASKS))


@needs_compiler
@pytest.mark.parametrize('case', [c for c in CASES if c.label == 'defaults'][2::7], ids=str)
def test_inductor(case: OptimizerCase) -> None:
    meta_gradient = grad(meta_loss(case.make), argnums=(0, 1))
    found = compiled(meta_gradient, 'inductor')(TASKS, START)
    assert_trees_close(found, meta_gradient(TASKS, START), rtol=1e-10)


def test_a_branch_on_the_data_says_so() -> None:
    """An option that reads a value cannot be compiled; the error names the option."""
    optimizer = torchopt.chain(
        torchopt.clip_grad_norm(1.0, error_if_nonfinite=True), torchopt.sgd(0.1)
    )

    def step(params: Any) -> Any:
        return steps(optimizer, META, params, optimizer.init(params))

    with pytest.raises(Exception, match='error_if_nonfinite'):
        compiled(step)(START)
