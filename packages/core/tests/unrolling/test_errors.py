"""Mistakes raise an error that names the tensor, the step and the cure."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
from torch import nn

import torchopt
from support.unrolls import DTYPE, problem
from torchopt.unrolling import (
    ForwardMode,
    Recomputed,
    Snapshots,
    Stored,
    Strategy,
    Truncated,
    grad,
)

MODES = [Stored(), Recomputed(), Snapshots(2), Truncated(2), ForwardMode()]
every_mode = pytest.mark.parametrize('backward', MODES, ids=str)
LOSSLESS = [Recomputed(), Snapshots(2), ForwardMode(), Truncated(2, Recomputed())]
lossless = pytest.mark.parametrize('backward', LOSSLESS, ids=str)


def number(value: float = 0.5) -> torch.Tensor:
    return torch.tensor(value, dtype=DTYPE, requires_grad=True)


GLOBAL_RATE = number()


def of_a_variable() -> tuple[Any, torch.Tensor]:
    rate = torch.full((7,), 0.5, dtype=DTYPE, requires_grad=True)
    return lambda c, x, k: (c * rate.sum(), None), rate


def of_a_result() -> tuple[Any, torch.Tensor]:
    log_rate = number()
    rate = torch.stack([log_rate, log_rate]).exp()
    return lambda c, x, k: (c * rate.sum(), None), log_rate


def of_a_module() -> tuple[Any, torch.Tensor]:
    net = nn.Linear(3, 1, dtype=DTYPE)

    def step(c: Any, x: Any, k: Any) -> Any:
        return c + net(torch.ones(3, dtype=DTYPE)).sum(), None

    return step, net.weight


def of_an_object() -> tuple[Any, torch.Tensor]:
    class Step:
        def __init__(self) -> None:
            self.rate = number()

        def __call__(self, c: Any, x: Any, k: Any) -> Any:
            return c * self.rate, None

    step = Step()
    return step, step.rate


def of_a_partial() -> tuple[Any, torch.Tensor]:
    rate = number()
    return functools.partial(lambda c, x, k, rate: (c * rate, None), rate=rate), rate


def of_a_dictionary() -> tuple[Any, torch.Tensor]:
    options = {'lr': number()}
    return lambda c, x, k: (c * options['lr'], None), options['lr']


def of_a_global() -> tuple[Any, torch.Tensor]:
    return lambda c, x, k: (c * GLOBAL_RATE, None), GLOBAL_RATE


def of_an_inner_loss() -> tuple[Any, torch.Tensor]:
    rate = number()

    def loss(c: torch.Tensor) -> torch.Tensor:
        return (c * rate).sin()

    return lambda c, x, k: (c - grad(loss)(c), None), rate


def of_the_path() -> tuple[Any, torch.Tensor]:
    rate = number()
    return lambda c, x, k: (c * 0.5, c.detach() * rate), rate


CAPTURES = [
    (of_a_variable, r'rate \(a tensor of shape \(7,\)'),
    (of_a_result, r'rate \(a tensor of shape \(2,\)'),
    (of_a_module, r'net\.weight \(a tensor of shape \(1, 3\)'),
    (of_an_object, r'self\.rate \(a tensor of shape \(\)'),
    (of_a_partial, r'rate \(a tensor of shape \(\)'),
    (of_a_dictionary, r"options\['lr'\] \(a tensor of shape \(\)"),
    (of_a_global, r'GLOBAL_RATE \(a tensor of shape \(\)'),
    (of_an_inner_loss, r'rate \(a tensor of shape \(\)'),
    (of_the_path, r'rate \(a tensor of shape \(\)'),
]


@pytest.mark.parametrize('make, name', CAPTURES, ids=lambda value: getattr(value, '__name__', ''))
def test_a_tensor_from_elsewhere_is_named_or_gets_its_gradient(
    make: Callable[[], tuple[Any, torch.Tensor]], name: str
) -> None:
    step, captured = make()
    for backward in LOSSLESS:
        with pytest.raises(RuntimeError, match=f'depends on .*{name}.* consts'):
            torchopt.unroll(step, number(), length=3, backward=backward)
    end, ys = torchopt.unroll(step, number(), length=3)
    out = end if ys is None else ys.sum()
    assert torch.autograd.grad(out, captured)[0].any()


@every_mode
def test_without_grad_mode_captured_tensors_are_allowed(backward: Strategy) -> None:
    step, _ = of_a_module()
    with torch.no_grad():
        end, _ = torchopt.unroll(step, number(), length=3, backward=backward)
        mapped = torch.vmap(lambda c: torchopt.unroll(step, c, length=3, backward=backward)[0])
        torch.testing.assert_close(mapped(number().expand(2))[0], end)
    assert not end.requires_grad


@pytest.mark.parametrize('backward', LOSSLESS[:-1], ids=str)
def test_a_tensor_that_comes_in_late_is_named_too(backward: Strategy) -> None:
    late = number()

    def step(c: Any, x: Any, k: Any) -> Any:
        return (c[0] * (late if c[1] == 3 else 1), c[1] + 1), None

    with pytest.raises(RuntimeError, match=r'step 3 depends on .*late'):
        torchopt.unroll(step, (number(), 0), length=6, backward=backward)


def test_an_inner_loss_whose_gradient_is_kept_must_not_capture() -> None:
    k = number()

    def step(c: Any, x: Any, k: Any) -> Any:
        return c - grad(lambda c: (c * k).sin())(c), None

    mode = Recomputed(keep_gradients=True)
    end, _ = torchopt.unroll(step, number(), consts=k, length=3, backward=mode)
    with pytest.raises(
        RuntimeError, match=r'keep_gradients=True.* k \(a tensor of shape \(\).*argument'
    ):
        end.backward()
    assert k.grad is None


class Moments(NamedTuple):
    mu: torch.Tensor
    nu: torch.Tensor


START = {'w': torch.ones(2), 's': Moments(torch.ones(3), torch.ones(3)), 'n': 0}


@every_mode
@pytest.mark.parametrize(
    'change, error, match',
    [
        ({'w': torch.ones(3)}, ValueError, r"carry\['w'\] .*\(2,\).*\(3,\)"),
        ({'w': torch.ones(2).double()}, ValueError, r"carry\['w'\] .*float32.*float64"),
        ({'s': Moments(torch.ones(3), torch.ones(1))}, ValueError, r"carry\['s'\].nu"),
        ({'s': (torch.ones(3), torch.ones(3))}, ValueError, 'structure of its carry'),
        ({'more': 1}, ValueError, 'structure of its carry'),
        ({'w': None}, ValueError, r"carry\['w'\] .*None"),
        ({'n': 1.0}, ValueError, r"carry\['n'\] from int 0 to float 1.0"),
    ],
)
def test_a_carry_that_changes(
    backward: Strategy, change: Any, error: type[Exception], match: str
) -> None:
    def step(c: Any, x: Any, k: Any) -> Any:
        return {**c, **(change if x == 2 else {})}, None

    with pytest.raises(error, match=f'step 2 changes .*{match}'):
        torchopt.unroll(step, START, torch.arange(4), backward=backward)


@every_mode
def test_a_y_that_changes(backward: Strategy) -> None:
    def step(c: Any, x: Any, k: Any) -> Any:
        return c, {'loss': c} if x < 2 else {'loss': c[:1]}

    with pytest.raises(ValueError, match=r"step 2 changes y\['loss'\] "):
        torchopt.unroll(step, torch.ones(2), torch.arange(4), backward=backward)


@every_mode
@pytest.mark.parametrize('part', ['carry', 'x', 'consts'])
def test_a_step_that_writes_into_its_arguments(backward: Strategy, part: str) -> None:
    def step(c: Any, x: Any, k: Any) -> Any:
        {'carry': c, 'x': x, 'consts': k}[part]['w'].add_(1)
        return {'w': c['w'] * 2}, None

    rows = {'w': torch.ones(3, 2)}
    with pytest.raises(RuntimeError, match=rf"step 0 writes in place into {part}\['w'\]"):
        torchopt.unroll(step, {'w': torch.ones(2)}, rows, {'w': torch.ones(2)}, backward=backward)


@every_mode
@pytest.mark.parametrize(
    'result, error, match',
    [
        (torch.ones(2), TypeError, r'pair \(carry, y\), got Tensor'),
        ((torch.ones(2),), TypeError, r'pair \(carry, y\), got tuple'),
        ((torch.ones(2), {'loss': 1.5}), TypeError, r"y\['loss'\] must be a tensor or None"),
    ],
)
def test_a_result_of_the_wrong_kind(
    backward: Strategy, result: Any, error: type[Exception], match: str
) -> None:
    with pytest.raises(error, match=match):
        torchopt.unroll(lambda c, x, k: result, torch.ones(2), length=2, backward=backward)


def identity(c: Any, x: Any, k: Any) -> Any:
    return c, None


@pytest.mark.parametrize(
    'arguments, error, match',
    [
        ({}, ValueError, 'needs xs, length or until'),
        ({'step': 3, 'length': 1}, TypeError, 'step must be a function, got int'),
        ({'backward': Recomputed, 'length': 1}, TypeError, r'Snapshots\(\)'),
        ({'backward': 'snapshots', 'length': 1}, TypeError, 'snapshots'),
        ({'length': -1}, ValueError, 'length'),
        ({'length': True}, ValueError, 'length'),
        ({'length': 2, 'xs': torch.ones(3)}, ValueError, r'\[2, 3\]'),
        ({'xs': (torch.ones(3), torch.ones(4))}, ValueError, r'\[3, 4\]'),
        ({'xs': torch.ones(())}, TypeError, 'first dimension'),
        ({'xs': [1.0, 2.0]}, TypeError, 'first dimension'),
        ({'carry': {'net': nn.Linear(1, 1)}, 'length': 1}, TypeError, r"carry\['net'\].*Linear"),
    ],
)
def test_arguments(arguments: dict[str, Any], error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        torchopt.unroll(**{'step': identity, 'carry': torch.ones(1), **arguments})


@pytest.mark.parametrize(
    'make, match',
    [
        (lambda: Snapshots(0), 'count'),
        (lambda: Truncated(0), 'steps'),
        (lambda: Recomputed(order='backward'), 'order'),  # type: ignore[arg-type]
        (lambda: Recomputed(keep_gradients=True, compile=True), 'not both'),
    ],
)
def test_options(make: Callable[[], Strategy], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        make()


@pytest.mark.parametrize(
    'backward', [Snapshots(2), ForwardMode(200), Truncated(9, Snapshots(2))], ids=str
)
def test_modes_without_second_derivatives_say_so(backward: Strategy) -> None:
    example = problem(length=3)
    loss = example.outer_loss(backward)
    with pytest.raises(RuntimeError, match=r'create_graph=True.*Stored\(\) or Recomputed\(\)'):
        torch.autograd.grad(loss, example.wanted, create_graph=True)


@lossless
def test_a_second_backward_pass_needs_a_retained_graph(backward: Strategy) -> None:
    k = number()

    def step(c: Any, x: Any, k: Any) -> Any:
        return c * k, None

    end, _ = torchopt.unroll(step, number(), consts=k, length=3, backward=backward)
    first = torch.autograd.grad(end, k, retain_graph=True)
    assert torch.autograd.grad(end, k) == first
    with pytest.raises(RuntimeError, match='second time'):
        torch.autograd.grad(end, k)


@pytest.mark.parametrize('backward', [Recomputed(), Snapshots(2)], ids=str)
def test_a_carry_that_is_written_to_before_the_backward_pass(backward: Strategy) -> None:
    kept = []

    def step(c: Any, x: Any, k: Any) -> Any:
        kept.append(c * k)
        return kept[-1], None

    k = number()
    end, _ = torchopt.unroll(step, number(), consts=k, length=3, backward=backward)
    with torch.no_grad():
        for carry in kept:
            carry.zero_()
    with pytest.raises(RuntimeError, match='in-place'):
        end.backward()
    assert k.grad is None


def test_forward_mode_refuses_many_parameters() -> None:
    with pytest.raises(ValueError, match=r'65 tangents.*\(5, 13\).*Recomputed'):
        torchopt.unroll(
            lambda c, x, k: (c + k.sum(), None),
            torch.ones(2),
            consts=torch.ones(5, 13, requires_grad=True),
            length=2,
            backward=ForwardMode(),
        )


def test_steps_that_differentiate_their_carry_by_autograd() -> None:
    def step(c: torch.Tensor, x: Any, k: Any) -> Any:
        (gradient,) = torch.autograd.grad((c * k).sin(), c, create_graph=True)
        return c - gradient, None

    k = number()
    end, _ = torchopt.unroll(step, number(), consts=k, length=3)
    assert torch.autograd.grad(end, k)[0] != 0
    with pytest.raises(RuntimeError, match=r'torchopt\.unrolling\.grad or torch\.func\.grad'):
        torchopt.unroll(step, number(), consts=k, length=3, backward=Recomputed())


def test_running_averages_must_be_detached() -> None:
    def step(c: Any, x: torch.Tensor, k: torch.Tensor) -> Any:
        mean, var = c['mean'].clone(), c['var'].clone()
        out = nn.functional.batch_norm(x * c['w'], mean, var, training=True)
        return {'w': c['w'] + k * out.sum(), 'mean': mean, 'var': var}, None

    carry = {'w': torch.ones(2), 'mean': torch.zeros(2), 'var': torch.ones(2)}
    k = torch.tensor(0.1, requires_grad=True)
    end, _ = torchopt.unroll(step, carry, torch.rand(3, 4, 2), k, backward=Recomputed())
    with pytest.raises(RuntimeError, match=r'BatchNorm: let the step detach\(\)'):
        end['w'].sum().backward()


@pytest.mark.parametrize('backward', [Recomputed(), Snapshots(2), Truncated(2)], ids=str)
def test_an_inner_gradient_of_a_carry_without_a_graph_names_the_cure(backward: Any) -> None:
    def step(w: torch.Tensor, x: Any, k: torch.Tensor) -> Any:
        (gradient,) = torch.autograd.grad((w * k).square().sum(), w, create_graph=True)
        return w - 0.1 * gradient, None

    # A constant, because otherwise it would have a graph by k.
    k = torch.tensor(0.5)
    with pytest.raises(RuntimeError, match=r'^step 0 .* no graph .* torchopt.unrolling.grad'):
        torchopt.unroll(
            step, torch.ones(2, requires_grad=True), None, k, length=4, backward=backward
        )
