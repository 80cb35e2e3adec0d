"""Every way of paying for the backward pass gives the gradient of the plain graph."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import torchopt
from support.optimizer_cases import MAIN_CASES, OptimizerCase
from support.unrolls import DTYPE, assert_equal, problem
from torchopt.unrolling import (
    ForwardMode,
    Recomputed,
    Snapshots,
    Stored,
    Strategy,
    Truncated,
    grad_and_value,
)

LENGTH = 6
MODES = [
    Recomputed(),
    Recomputed(keep_gradients=True),
    Recomputed(keep_gradients=True, order='forward-over-reverse'),
    Snapshots(),
    Snapshots(1),
    Snapshots(LENGTH),
    Truncated(LENGTH),
    Truncated(LENGTH + 3, Recomputed()),
    ForwardMode(limit=200),
]
every_mode = pytest.mark.parametrize('backward', MODES, ids=str)


@pytest.mark.parametrize('case', MAIN_CASES, ids=str)
def test_every_optimizer(case: OptimizerCase) -> None:
    example = problem(lambda lr: case.make(lr=lr), LENGTH)
    expected = example.gradients(Stored())
    assert all(gradient.isfinite().all() for gradient in expected)
    for backward in MODES:
        assert_equal(example.gradients(backward), expected)


@every_mode
def test_chain_and_clipping(backward: Strategy) -> None:
    example = problem(
        lambda lr: torchopt.chain(torchopt.clip_grad_norm(0.1), torchopt.adam(lr)), LENGTH
    )
    assert_equal(example.gradients(backward), example.gradients(Stored()))


@every_mode
def test_with_a_stop_condition(backward: Strategy) -> None:
    example = problem(length=LENGTH)
    short = problem(length=LENGTH)

    def until(carry: Any) -> bool:
        return carry[2] == 4

    expected = short._replace(xs={'x': short.xs['x'][:4], 'nothing': None}).gradients(Stored())
    assert_equal(example.gradients(Stored(), until=until), expected)
    assert_equal(example.gradients(backward, until=until), expected)


@every_mode
def test_against_finite_differences(backward: Strategy) -> None:
    example = problem(length=3)

    def loss(*wanted: torch.Tensor) -> torch.Tensor:
        weight, bias, x, lr, weights = wanted
        carry = ({'weight': weight, 'bias': bias, 'absent': None}, *example.carry[1:])
        consts = {'lr': lr, 'weights': weights, 'power': 1.0}
        moved = example._replace(carry=carry, xs={'x': x, 'nothing': None}, consts=consts)
        return moved.outer_loss(backward)

    torch.autograd.gradcheck(loss, example.wanted)


@pytest.mark.parametrize('backward', MODES[:3], ids=str)
def test_differentiable_again(backward: Strategy) -> None:
    def twice(mode: Strategy) -> tuple[torch.Tensor, ...]:
        example = problem(torchopt.adam, LENGTH)
        first = torch.autograd.grad(example.outer_loss(mode), example.wanted, create_graph=True)
        return torch.autograd.grad(sum(g.square().sum() for g in first), example.wanted)

    assert_equal(list(twice(backward)), list(twice(Stored())))


def test_differentiable_again_where_one_argument_is_made_from_another() -> None:
    def second(backward: Strategy) -> torch.Tensor:
        w = torch.tensor(0.5, dtype=DTYPE, requires_grad=True)
        carry, _ = torchopt.unroll(
            lambda c, x, k: (torch.sin(c * k), None), w.exp(), consts=w, length=3, backward=backward
        )
        (first,) = torch.autograd.grad(carry, w, create_graph=True)
        return torch.autograd.grad(first, w)[0]

    torch.testing.assert_close(second(Recomputed()), second(Stored()))


@every_mode
def test_of_the_path_alone_and_of_the_end_alone(backward: Strategy) -> None:
    for pick in (lambda carry, ys: ys['loss'][2], lambda carry, ys: carry[0]['weight'].sum()):
        found = []
        for mode in (backward, Stored()):
            example = problem(length=LENGTH)
            grads = torch.autograd.grad(
                pick(*example.run(mode)), example.wanted, materialize_grads=True
            )
            found.append(list(grads))
        assert_equal(*found)


@every_mode
def test_retained_graph(backward: Strategy) -> None:
    example = problem(length=LENGTH)
    loss = example.outer_loss(backward)
    first = torch.autograd.grad(loss, example.wanted, retain_graph=True)
    again = torch.autograd.grad(loss, example.wanted)
    assert_equal(list(again), list(first))


@every_mode
def test_values_equal_the_plain_loop(backward: Strategy) -> None:
    example = problem(length=LENGTH)
    carry, losses = example.carry, []
    for number in range(LENGTH):
        carry, y = example.step(
            carry, {'x': example.xs['x'][number], 'nothing': None}, example.consts
        )
        losses.append(y['loss'])
    (params, _, count), ys = example.run(backward)
    assert count == LENGTH
    assert params['absent'] is None and ys['nothing'] is None
    torch.testing.assert_close(params['weight'], carry[0]['weight'])
    torch.testing.assert_close(ys['loss'], torch.stack(losses))


@every_mode
def test_leaves_that_pass_through_and_integers(backward: Strategy) -> None:
    w = torch.ones(2, dtype=DTYPE, requires_grad=True)
    carry = {'w': w, 'same': w * 2, 'count': torch.tensor(0), 'flag': torch.tensor(True)}

    def step(carry: Any, x: Any, consts: Any) -> Any:
        new = {**carry, 'w': carry['w'] * carry['same'], 'count': carry['count'] + 1}
        return new, carry['count']

    end, counts = torchopt.unroll(step, carry, length=4, backward=backward)
    assert end['count'] == 4 and counts.tolist() == [0, 1, 2, 3]
    assert not counts.requires_grad and not end['flag'].requires_grad
    (gradient,) = torch.autograd.grad((end['w'] + end['same']).sum(), w)
    torch.testing.assert_close(gradient, torch.full((2,), 5 * 2.0**4 + 2, dtype=DTYPE))


@every_mode
def test_nothing_to_differentiate_by(backward: Strategy) -> None:
    def step(c: Any, x: Any, k: Any) -> Any:
        return c + 1, c

    end, ys = torchopt.unroll(step, torch.zeros(1), length=3, backward=backward)
    assert not end.requires_grad and not ys.requires_grad
    with torch.no_grad():
        end, _ = problem().run(backward)
    assert not end[0]['weight'].requires_grad


@every_mode
def test_complex_numbers(backward: Strategy) -> None:
    def gradient(mode: Strategy) -> torch.Tensor:
        k = torch.tensor([0.7, 0.4], dtype=DTYPE, requires_grad=True)
        start = torch.tensor([1 + 2j, 0.3 - 1j], dtype=torch.complex128)

        def step(c: torch.Tensor, x: Any, k: torch.Tensor) -> Any:
            return c * torch.exp(1j * k) * 0.9 + k.flip(0), c.abs()

        end, path = torchopt.unroll(step, start, consts=k, length=LENGTH, backward=mode)
        return torch.autograd.grad((end * (0.2 + 0.5j)).imag.sum() + path.sum(), k)[0]

    assert_equal([gradient(backward)], [gradient(Stored())])


@every_mode
def test_no_step(backward: Strategy) -> None:
    example = problem(length=LENGTH)
    carry, ys = example.run(backward, until=lambda carry: True)
    assert ys is None
    (gradient,) = torch.autograd.grad(carry[0]['weight'].sum(), example.wanted[0])
    assert (gradient == 1).all()


def test_gradients_of_tuples_of_arguments_are_remembered() -> None:
    def step(c: Any, x: Any, k: Any) -> Any:
        def loss(a: Any, scale: Any, b: Any, k: Any) -> Any:
            value = (a * b * scale).sin().sum() * k
            return value, {'twice': 2 * value}

        (da, db), (value, aux) = grad_and_value(loss, (0, 2), has_aux=True)(c[0], 1.5, c[1], k)
        return (c[0] - 0.1 * da, c[1] - 0.1 * db), (value, aux['twice'])

    found = []
    for backward in (Stored(), *MODES[1:3]):
        a, b, k = (torch.full((3,), v, dtype=DTYPE, requires_grad=True) for v in (0.3, 0.7, 0.9))
        end, ys = torchopt.unroll(step, (a, b), consts=k.sum(), length=4, backward=backward)
        loss = end[0].square().sum() + end[1].sum() + ys[0].sum() * ys[1].sum()
        found.append(list(torch.autograd.grad(loss, (a, b, k))))
    for gradients in found[1:]:
        assert_equal(gradients, found[0])


@pytest.mark.slow
@settings(max_examples=25, deadline=None)
@given(
    length=st.integers(1, 14),
    count=st.integers(1, 6),
    last=st.integers(1, 16),
    stop=st.integers(0, 16),
)
def test_any_length_number_of_snapshots_and_truncation(
    length: int, count: int, last: int, stop: int
) -> None:
    example = problem(length=length)

    def until(carry: Any) -> bool:
        return carry[2] >= stop

    for options in ({}, {'until': until}):
        plain = example.gradients(Stored(), **options)
        for mode in (Recomputed(), Snapshots(count), Snapshots()):
            assert_equal(example.gradients(mode, **options), plain)
        cut = cut_by_hand(length, last, min(length, stop) if options else length)
        for inner in (Stored(), Snapshots(count)):
            assert_equal(example.gradients(Truncated(last, inner), **options), cut)


def cut_by_hand(length: int, last: int, taken: int) -> list[torch.Tensor]:
    """Truncation written as a plain loop: detached steps, then connected ones."""
    example = problem(length=length)
    carry, losses = example.carry, []
    for number in range(taken):
        x = {'x': example.xs['x'][number], 'nothing': None}
        carry, y = example.step(carry, x, example.consts)
        if number < taken - last:
            carry, y = torchopt.pytree.tree_map(
                lambda leaf: leaf.detach() if isinstance(leaf, torch.Tensor) else leaf, (carry, y)
            )
        losses.append(y['loss'])
    params = carry[0]
    loss = params['weight'].square().sum() + 3 * params['bias'].sum()
    if losses:
        loss = loss + torch.stack(losses).square().sum()
    return list(torch.autograd.grad(loss, example.wanted, materialize_grads=True))
