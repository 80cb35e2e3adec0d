"""What all building blocks do: in place, absent gradients, derivatives, transforms, 16 bits."""

from __future__ import annotations

import io
import pickle
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

import torchopt
from support.block_cases import BLOCKS, BlockCase, by_dimension
from support.trees import assert_trees_close, assert_trees_equal, copied, generator, requiring_grad
from support.unrolled import META, START, STEPS, inner_loss, outer_loss
from torchopt import pytree
from torchopt import transform as t
from torchopt.base import EmptyState
from torchopt.unrolling import Recomputed, Stored

every_block = pytest.mark.parametrize('case', BLOCKS, ids=str)


def gradients_at(step: int, params: Any) -> Any:
    """Random gradients with zeros among them; every third one of a parameter is missing."""
    source = generator(step)
    found = {}
    for position, (name, param) in enumerate(params.items()):
        gradient = torch.randn(param.shape, generator=source, dtype=torch.float64)
        gradient = gradient.where(torch.rand(param.shape, generator=source) > 0.2, 0.0)
        found[name] = None if (step + position) % 3 == 2 else gradient.to(param.dtype)
    return found


def run(optimizer: Any, params: Any, steps: int = 6, state: Any = None, first: int = 0) -> Any:
    state = optimizer.init(params) if state is None else state
    for step in range(first, first + steps):
        gradients = gradients_at(step, params)
        updates, state = optimizer.update(gradients, state, params=params, inplace=False)
        params = torchopt.apply_updates(params, updates, inplace=False)
    return params, state


def adapted(optimizer: Any, phi: torch.Tensor, params: Any, steps: int = STEPS) -> Any:
    state = optimizer.init(params)
    for _ in range(steps):
        gradients = torch.func.grad(inner_loss, argnums=1)(phi, params)
        updates, state = optimizer.update(gradients, state, params=params, inplace=False)
        params = torchopt.apply_updates(params, updates, inplace=False)
    return params, state


@every_block
def test_inplace_writes_what_out_of_place_returns(case: BlockCase) -> None:
    expected, expected_state = run(case.make(), START)
    optimizer = case.make()
    params = requiring_grad(START)
    tensors, state = dict(params), optimizer.init(params)
    for step in range(6):
        gradients = gradients_at(step, params)
        given, held = dict(gradients), pytree.tree_leaves(state)
        updates, state = optimizer.update(gradients, state, params=params)
        assert all(updates[name] is given[name] for name in given)
        assert all(map(lambda a, b: a is b, held, pytree.tree_leaves(state)))
        params = torchopt.apply_updates(params, updates)
    assert all(params[name] is tensors[name] for name in params)
    assert_trees_equal(pytree.tree_map(torch.Tensor.detach, params), expected)
    assert_trees_equal(state, expected_state)


@every_block
def test_a_parameter_without_a_gradient_stays(case: BlockCase) -> None:
    """So does an absent one; both beside a parameter that moves."""
    optimizer = case.make()
    params = {**START, 'still': torch.ones(2, dtype=torch.float64), 'absent': None}
    first, state = params, optimizer.init(params)
    for step in range(4):
        gradients = {**gradients_at(step, START), 'still': None, 'absent': None}
        updates, state = optimizer.update(gradients, state, params=params, inplace=False)
        assert updates['still'] is None
        assert updates['absent'] is None
        params = torchopt.apply_updates(params, updates, inplace=False)
    assert params['still'] is first['still']
    alone, _ = run(case.make(), START, 4)
    assert_trees_equal({name: params[name] for name in START}, alone)


@every_block
def test_lists_and_tuples_of_parameters(case: BlockCase) -> None:
    """``torch.autograd.grad`` returns a tuple; a bare list is the usual tree."""
    optimizer = case.make()
    params = list(START.values())
    state = optimizer.init(params)
    for inplace in (False, True):
        updates, state = optimizer.update(
            tuple(copied(params)), state, params=tuple(params), inplace=inplace
        )
        assert len(updates) == len(params)


@every_block
def test_derivatives_of_all_orders(case: BlockCase) -> None:
    """By the numbers, the meta-parameters and the initial parameters, against differences."""
    names = [*START]

    def loss(phi: torch.Tensor, w: torch.Tensor, b: torch.Tensor, *numbers: Any) -> torch.Tensor:
        params, _ = adapted(case.make(*numbers), phi, dict(zip(names, (w, b))))
        return outer_loss(params)

    inputs = [*requiring_grad([META, *START.values()]), *case.tensors()]
    assert torch.autograd.gradcheck(loss, inputs, fast_mode=True, check_forward_ad=True)
    assert torch.autograd.gradgradcheck(loss, inputs, fast_mode=True, atol=1e-4)
    gradients = torch.autograd.grad(loss(*inputs), inputs)
    assert all(gradient.abs().max() > 1e-6 for gradient in gradients)


@every_block
@pytest.mark.parametrize('backward', [Stored(), Recomputed()], ids=['stored', 'recomputed'])
def test_unroll_equals_the_loop(case: BlockCase, backward: Any) -> None:
    numbers, phi, first = case.tensors(), META.clone().requires_grad_(), requiring_grad(START)
    inputs = [*numbers, phi, *first.values()]

    def step(carry: Any, _: Any, consts: Any) -> Any:
        (params, state), (phi, numbers) = carry, consts
        optimizer = case.make(*numbers)
        gradients = torch.func.grad(inner_loss, argnums=1)(phi, params)
        updates, state = optimizer.update(gradients, state, params=params, inplace=False)
        return (torchopt.apply_updates(params, updates, inplace=False), state), None

    carry = first, case.make().init(first)
    (params, state), _ = torchopt.unroll(
        step, carry, consts=(phi, numbers), length=STEPS, backward=backward
    )
    expected, expected_state = adapted(case.make(*numbers), phi, first)
    assert_trees_close((params, state), (expected, expected_state))
    found = torch.autograd.grad(outer_loss(params), inputs)
    assert_trees_close(found, torch.autograd.grad(outer_loss(expected), inputs), rtol=1e-10)


@every_block
def test_vmap_equals_the_loop(case: BlockCase) -> None:
    tasks = torch.stack([META, -META, 2 * META])

    def meta_gradient(phi: torch.Tensor) -> Any:
        return torch.func.grad(lambda phi: outer_loss(adapted(case.make(), phi, START)[0]))(phi)

    expected = torch.stack([meta_gradient(phi) for phi in tasks])
    torch.testing.assert_close(torch.vmap(meta_gradient)(tasks), expected)


@every_block
def test_forgotten_inplace_keeps_the_graph(case: BlockCase) -> None:
    first = requiring_grad(START)

    def end(**options: Any) -> Any:
        optimizer, params = case.make(), first
        state = optimizer.init(params)
        for _ in range(3):
            loss = inner_loss(META, params)
            found = torch.autograd.grad(loss, [*params.values()], create_graph=True)
            gradients = dict(zip(params, found))
            updates, state = optimizer.update(gradients, state, params=params, **options)
            params = torchopt.apply_updates(params, updates, **options)
        return torch.autograd.grad(outer_loss(params), [*first.values()])

    assert_trees_equal(end(), end(inplace=False))


@every_block
def test_all_gradients_zero(case: BlockCase) -> None:
    """A dead layer: values and derivatives are finite, to the second order."""
    numbers = case.tensors()
    zeros = requiring_grad(pytree.tree_map(torch.zeros_like, START))
    optimizer, params = case.make(*numbers), START
    state = optimizer.init(params)
    for _ in range(3):
        updates, state = optimizer.update(zeros, state, params=params, inplace=False)
        params = torchopt.apply_updates(params, updates, inplace=False)
    inputs = [*zeros.values(), *numbers]
    firsts = torch.autograd.grad(
        outer_loss(params), inputs, create_graph=True, materialize_grads=True
    )
    seconds = torch.autograd.grad(
        sum(first.square().sum() for first in firsts), inputs, materialize_grads=True
    )
    for value in (*params.values(), *firsts, *seconds):
        assert value.isfinite().all()


@every_block
@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16, torch.float32], ids=str)
def test_dtypes_are_kept(case: BlockCase, dtype: torch.dtype) -> None:
    """Also beside numbers in float64; results agree with float64 to a few roundings."""
    narrow = pytree.tree_map(lambda leaf: leaf.to(dtype), {**START, 'scalar': torch.ones(())})
    wide = pytree.tree_map(torch.Tensor.double, narrow)
    numbers = [number.detach() for number in case.tensors()]
    found, state = run(case.make(*numbers), narrow, 3)
    assert {leaf.dtype for leaf in found.values()} == {dtype}
    own = [leaf for leaf in pytree.tree_leaves(state) if leaf.dim() and leaf.is_floating_point()]
    assert {leaf.dtype for leaf in own} <= {dtype}
    expected, _ = run(case.make(), wide, 3)
    for name, leaf in expected.items():
        tolerance = 20 * torch.finfo(dtype).eps
        torch.testing.assert_close(found[name].double(), leaf, rtol=tolerance, atol=tolerance)


@every_block
def test_saved_and_resumed(case: BlockCase) -> None:
    params, state = run(case.make(), START, 5)
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    loaded = torch.load(file, weights_only=True)
    resumed = run(case.make(), params, 4, loaded, first=5)
    assert_trees_equal(resumed, run(case.make(), START, 9))


@every_block
def test_nothing_waits_for_the_device(case: BlockCase) -> None:
    """A fake tensor has no value to look at."""
    with FakeTensorMode(allow_non_fake_inputs=False):
        params = {name: torch.empty(leaf.shape) for name, leaf in START.items()}
        optimizer = case.make()
        state = optimizer.init(params)
        for inplace in (False, True):
            gradients = pytree.tree_map(torch.empty_like, params)
            updates, state = optimizer.update(gradients, state, params=params, inplace=inplace)
        assert {name: u.shape for name, u in updates.items()} == {
            name: leaf.shape for name, leaf in START.items()
        }


@every_block
def test_misfits_are_named(case: BlockCase) -> None:
    optimizer = case.make()
    state = optimizer.init(START)
    if case.needs_params:
        with pytest.raises(ValueError, match=r'call update\(\.\.\., params=params\)'):
            optimizer.update(START, state, inplace=False)
        other = {**START, 'b': torch.ones(3, dtype=torch.float64)}
        with pytest.raises(ValueError, match=r"\['b'\]"):
            optimizer.update(START, state, params=other, inplace=False)
    if state != (EmptyState(), EmptyState()):
        with pytest.raises((TypeError, ValueError), match='stat'):
            optimizer.update(START, EmptyState(), params=START, inplace=False)


@pytest.fixture
def fresh_compiler() -> Iterator[None]:
    torch.compiler.reset()
    yield
    torch.compiler.reset()


@pytest.mark.compile
@pytest.mark.usefixtures('fresh_compiler')
def test_all_in_one_compiled_meta_step() -> None:
    def meta_loss(phi: torch.Tensor, lr: torch.Tensor) -> torch.Tensor:
        optimizer = t.accumulate_gradients(t.lookahead(everything(lr), 1), 1)
        return outer_loss(adapted(optimizer, phi, START, 1)[0])

    derivative = torch.func.grad(meta_loss, argnums=(0, 1))
    inputs = META, torch.tensor(0.1, dtype=torch.float64)
    compiled = torch.compile(derivative, fullgraph=True, backend='eager')
    torch.testing.assert_close(compiled(*inputs), derivative(*inputs))


def everything(lr: Any) -> torchopt.GradientTransformation:
    direction = torchopt.chain(
        t.clip_by_value(1.0),
        t.ema(0.5),
        t.clip_by_block_rms(0.7),
        t.partition({'matrix': t.orthogonalize(ns_steps=2), 'other': t.ema()}, by_dimension),
        t.scale_by_trust_ratio(),
        t.scale(-lr),
    )
    return torchopt.schedule_free(t.apply_if_finite(direction), lr)


def test_blocks_are_printed_and_pickled_as_calls() -> None:
    optimizer = t.accumulate_gradients(t.lookahead(everything(0.1), sync_period=3), 4)
    text = repr(optimizer)
    assert text.startswith('accumulate_gradients(inner=lookahead(inner=schedule_free(inner=')
    copy = pickle.loads(pickle.dumps(optimizer))
    assert repr(copy) == text
    assert_trees_equal(run(copy, START), run(optimizer, START))
