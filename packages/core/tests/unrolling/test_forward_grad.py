"""``no_grad`` and hooks in a step mean in forward mode what they mean in the graph, or raise."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

import torchopt
from support.unrolls import DTYPE, assert_equal
from torchopt import unrolling
from torchopt.authoring import torch_internals
from torchopt.unrolling import ForwardMode, Recomputed, Stored, Strategy

FORWARD_OVER_REVERSE = Recomputed(keep_gradients=True, order='forward-over-reverse')
MODES = [ForwardMode(), FORWARD_OVER_REVERSE]
every_mode = pytest.mark.parametrize('backward', MODES, ids=str)
Step = Callable[[Any, Any, Any], Any]


def loss(c: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
    return (c.sin() * k).sum()


def gradients(step: Step, backward: Strategy) -> list[torch.Tensor]:
    w = torch.tensor([1.0, 2.0, 3.0], dtype=DTYPE, requires_grad=True)
    k = torch.tensor(0.5, dtype=DTYPE, requires_grad=True)
    end, _ = torchopt.unroll(step, w, None, k, length=4, backward=backward)
    return list(torch.autograd.grad(end.square().sum(), (w, k)))


def statistic(c: Any, x: Any, k: Any) -> Any:
    with torch.no_grad():
        norm = c.norm()
    return c - 0.1 * unrolling.grad(loss)(c, k) / norm, None


def first_order(c: Any, x: Any, k: Any) -> Any:
    with torch.no_grad():
        gradient = unrolling.grad(loss)(c, k)
    return c - 0.1 * gradient * k, None


def target_in_the_loss(c: Any, x: Any, k: Any) -> Any:
    def regression(c: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            target = (2 * c * k).tanh()
        return (k * (c.sin() - target).square()).sum()

    return c - 0.1 * unrolling.grad(regression)(c, k), None


def nested(c: Any, x: Any, k: Any) -> Any:
    with torch.no_grad():
        constant = c.norm()
        with torch.enable_grad():
            tracked = c.cos()
        constant = constant * k
        # Turned on for this gradient alone.
        inner = torch.func.grad(lambda c: (c.sin() * c.norm()).sum())(c)
    return c - 0.1 * k * (tracked * constant + inner * c.sin()), None


def until_further_notice(c: Any, x: Any, k: Any) -> Any:
    torch.set_grad_enabled(False)
    constant = c.norm() * k
    torch.set_grad_enabled(True)
    return c - 0.1 * k * constant * c.sin(), None


class Cube(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x: Any) -> Any:
        return x**3

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.save_for_backward(*inputs)
        ctx.save_for_forward(*inputs)

    @staticmethod
    def backward(ctx: Any, cotangent: Any) -> Any:
        (x,) = ctx.saved_tensors
        return 3 * x**2 * cotangent

    @staticmethod
    def jvp(ctx: Any, tangent: Any) -> Any:
        (x,) = ctx.saved_tensors
        return 3 * x**2 * tangent


def around_functions(c: Any, x: Any, k: Any) -> Any:
    """torch turns grad mode off and on inside of an ``autograd.Function``."""
    cube = Cube.apply(0.1 * c)
    gradient = unrolling.grad(lambda c, k: (Cube.apply(0.1 * c) * k).sum())(c, k)
    with torch.no_grad():
        constant = Cube.apply(0.1 * c)
    return c - 0.1 * (cube + constant + gradient) * k, None


STEPS = [
    statistic,
    first_order,
    target_in_the_loss,
    nested,
    until_further_notice,
    around_functions,
]
every_step = pytest.mark.parametrize('step', STEPS, ids=lambda step: step.__name__)


@every_mode
@every_step
def test_a_step_that_turns_grad_mode_off(step: Step, backward: Strategy) -> None:
    assert_equal(gradients(step, backward), gradients(step, Stored()))
    assert torch.is_grad_enabled()
    assert torch_internals.forward_grad_enabled()


@pytest.mark.parametrize('step', [statistic, first_order], ids=lambda step: step.__name__)
def test_under_vmap_of_the_step(step: Step) -> None:
    def mapped(c: Any, x: Any, k: Any) -> Any:
        return torch.vmap(lambda c: step(c.expand(2), x, k)[0].sum())(c), None

    assert_equal(gradients(mapped, ForwardMode()), gradients(mapped, Stored()))


def test_a_derivative_in_forward_mode_of_the_step_itself() -> None:
    """The inner ``jvp`` ignores ``no_grad``, as torch does; the outer one cannot tell."""

    def step(c: Any, x: Any, k: Any, *, off: bool = False) -> Any:
        def fn(c: torch.Tensor) -> torch.Tensor:
            with torch.set_grad_enabled(not off):
                return (c.sin() * k).square()

        return c - 0.1 * torch.func.jvp(fn, (c,), (c,))[1], None

    assert_equal(gradients(step, ForwardMode()), gradients(step, Stored()))
    with pytest.raises(RuntimeError, match=r'inside of a torch\.func\.jvp.*detach\(\)'):
        gradients(lambda c, x, k: step(c, x, k, off=True), ForwardMode())
    assert torch.is_grad_enabled()
    assert torch_internals.forward_grad_enabled()


def test_without_the_names_that_tell(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        patched.delattr(torch._C._functorch, 'get_interpreter_stack')
        with pytest.raises(RuntimeError, match='this version of torch cannot honour'):
            gradients(statistic, ForwardMode())
    assert torch.is_grad_enabled()
    assert torch_internals.forward_grad_enabled()


@pytest.mark.parametrize('name', ['register_hook', 'register_post_accumulate_grad_hook'])
def test_hooks_of_tensors(name: str) -> None:
    def step(c: Any, x: Any, k: Any) -> Any:
        moved = c * k
        getattr(moved, name)(lambda tensor: None)
        return moved, None

    with pytest.raises(RuntimeError, match=rf'{name} .* in forward mode'):
        gradients(step, ForwardMode())


def hooked_loss(c: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
    hidden = c * k
    hidden.register_hook(lambda cotangent: cotangent * cotangent)
    return hidden.sin().sum()


def test_hooks_in_an_inner_gradient() -> None:
    """They belong to the gradient, but a gradient that they change has no symmetric derivative."""

    def step(c: Any, x: Any, k: Any) -> Any:
        return c - 0.1 * unrolling.grad(hooked_loss)(c, k), None

    assert_equal(gradients(step, ForwardMode()), gradients(step, Stored()))
    kept = Recomputed(keep_gradients=True)
    assert_equal(gradients(step, kept), gradients(step, Stored()))
    with pytest.raises(RuntimeError, match="order='reverse-over-reverse'"):
        gradients(step, FORWARD_OVER_REVERSE)


def test_hooks_of_a_chain() -> None:
    optimizer = torchopt.chain(torchopt.register_hook(lambda g: 0.5 * g), torchopt.sgd(0.1))

    def step(c: Any, x: Any, k: Any) -> Any:
        updates, _ = optimizer.update(unrolling.grad(loss)(c, k), optimizer.init(c), inplace=False)
        return c + updates, None

    assert_equal(gradients(step, FORWARD_OVER_REVERSE), gradients(step, Stored()))
    with pytest.raises(RuntimeError, match=r'register_hook .* forward mode'):
        gradients(step, ForwardMode())
    # Where no tangent passes, no hook is missed.
    end, _ = torchopt.unroll(
        step, torch.ones(2), None, torch.tensor(0.5), length=2, backward=ForwardMode()
    )
    assert end.isfinite().all()
