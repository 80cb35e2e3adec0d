"""Steps of ten small tensors: by the library, and by hand with the same torch operations."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import nn

import torchopt
from problems import vjp
from torchopt.authoring.step_marks import mark_step
from torchopt.authoring.update_marks import mark_gradients, mark_state, mark_update

Tensors = Sequence[torch.Tensor]

COUNT, LENGTH, LR, EPS, EPS_ROOT = 10, 64, 0.01, 1e-8, 1e-8
BY_HAND, KINDS = 'by hand', ('by hand', 'composite', 'accelerated')
RULES = ('sgd', 'adam')
CLASSES = {'sgd': 'SGD', 'adam': 'Adam'}


class Timed(NamedTuple):
    """What is timed.

    Attributes:
        prepare: Makes what ``run`` takes, and is not timed.
        run: Is timed; its result is freed within the time.
    """

    prepare: Callable[[], Any]
    run: Callable[[Any], object]


def normal(seed: int) -> list[torch.Tensor]:
    """Return the tensors with random values."""
    random = torch.Generator().manual_seed(seed)
    return [torch.randn(LENGTH, generator=random) for _ in range(COUNT)]


def sgd(params: Tensors, grads: Tensors) -> list[torch.Tensor]:
    """Take a step of SGD by hand."""
    return [p + g * -LR for p, g in zip(params, grads)]


def adam(params: Tensors, grads: Tensors, mu: Tensors, nu: Tensors, step: int) -> tuple[Any, ...]:
    """Take a step of Adam by hand; return parameters and moments."""
    mu = [torch.lerp(m, g, 0.1) for m, g in zip(mu, grads)]
    nu = [torch.addcmul(n * 0.999, g, g, value=0.001) for n, g in zip(nu, grads)]
    first, second = 1 - 0.9**step, 1 - 0.999**step
    new = [
        p + m / first / ((n / second + EPS_ROOT).sqrt() + EPS) * -LR
        for p, m, n in zip(params, mu, nu)
    ]
    return new, mu, nu


def functional(rule: str, kind: str, *, backward: bool) -> Timed:
    """``update`` and ``apply_updates``, between parameters and gradients that carry a graph."""
    leaves = [x.requires_grad_() for x in (*normal(0), *normal(1))]
    cotangents = normal(2)
    take = _functional_step(rule, kind)

    def prepare() -> list[torch.Tensor]:
        return [x * 1.0 for x in leaves]

    def run(inputs: list[torch.Tensor]) -> object:
        new = take(inputs[:COUNT], inputs[COUNT:])
        return vjp(new, cotangents, inputs) if backward else new

    return Timed(prepare, run)


def _functional_step(rule: str, kind: str) -> Callable[[Tensors, Tensors], Any]:
    if kind == BY_HAND:
        zeros = [torch.zeros(LENGTH) for _ in range(COUNT)]
        return sgd if rule == 'sgd' else lambda p, g: adam(p, g, zeros, zeros, 1)[0]
    optimizer = getattr(torchopt, rule)(**_options(rule), use_accelerated_op=kind != 'composite')
    state = optimizer.init(normal(1))

    def take(params: Tensors, grads: Tensors) -> Any:
        updates, _ = optimizer.update(grads, state, params=params, inplace=False)
        return torchopt.apply_updates(params, updates, inplace=False)

    return take


def object_oriented(rule: str, kind: str, *, backward: bool) -> Timed:
    """The second ``step(loss)`` of a meta-optimizer, which begins at parameters with a graph."""
    if kind == BY_HAND:
        return _step_by_hand(rule, backward=backward)
    net = nn.ParameterList(normal(0))
    start = list(net.parameters())
    optimizer = getattr(torchopt, f'Meta{CLASSES[rule]}')(
        net, **_options(rule), use_accelerated_op=kind != 'composite'
    )
    before = torchopt.extract_state_dict(net), torchopt.extract_state_dict(optimizer)

    def prepare() -> torch.Tensor:
        torchopt.recover_state_dict(net, before[0])
        torchopt.recover_state_dict(optimizer, before[1])
        optimizer.step(_loss(net))
        return _loss(net)

    def run(loss: torch.Tensor) -> object:
        optimizer.step(loss)
        return torch.autograd.grad(_loss(net), start) if backward else None

    return Timed(prepare, run)


def _step_by_hand(rule: str, *, backward: bool) -> Timed:
    start = [x.requires_grad_() for x in normal(0)]
    zeros = [torch.zeros(LENGTH) for _ in range(COUNT)]

    def take(loss: torch.Tensor, params: Tensors, *state: Any) -> tuple[Any, ...]:
        grads = torch.autograd.grad(loss, params, create_graph=True)
        return (sgd(params, grads),) if rule == 'sgd' else adam(params, grads, *state)

    def prepare() -> tuple[Any, ...]:
        state = () if rule == 'sgd' else (zeros, zeros, 1)
        new = take(_loss(start), start, *state)
        return _loss(new[0]), *new, *(() if rule == 'sgd' else (2,))

    def run(prepared: tuple[Any, ...]) -> object:
        new = take(*prepared)
        return torch.autograd.grad(_loss(new[0]), start) if backward else new

    return Timed(prepare, run)


def plain(rule: str, kind: str) -> Timed:
    """The ``step()`` of an optimizer that writes in place; by hand stands for ``torch.optim``."""
    params = [nn.Parameter(x) for x in normal(0)]
    for param, grad in zip(params, normal(1)):
        param.grad = grad
    if kind == BY_HAND:
        optimizer = getattr(torch.optim, CLASSES[rule])(params, lr=LR)
    else:
        optimizer = getattr(torchopt, CLASSES[rule])(
            params, lr=LR, use_accelerated_op=kind != 'composite'
        )
    return Timed(lambda: None, lambda _: optimizer.step())


def marks(rule: str, *, held: bool) -> Timed:
    """The marks of one composite step in autograd's graph, by which it is explained and drawn.

    Args:
        rule: Which state is marked.
        held: Whether an optimizer holds the state and has the loss at hand.
    """
    leaves = [x.requires_grad_() for x in normal(0)]
    state = getattr(torchopt, rule)().init(leaves)

    def prepare() -> tuple[Any, ...]:
        params, grads, updates = ([x * 1.0 for x in leaves] for _ in range(3))
        mark_step(leaves, params, 'benchmark')  # as after every step but the first
        moments = torchopt.pytree.tree_map(lambda s: s * leaves[0][0], state)
        return params, grads, updates, sgd(params, updates), moments, _loss(leaves)

    def run(prepared: tuple[Any, ...]) -> object:
        params, grads, updates, new, moments, loss = prepared
        if held:
            mark_gradients(grads, loss)
            mark_state(moments)
        else:
            mark_update(grads, updates)
        mark_step(params, new, 'benchmark')
        return None

    return Timed(prepare, run)


def _options(rule: str) -> dict[str, float]:
    return {'lr': LR, **({'eps': EPS, 'eps_root': EPS_ROOT} if rule == 'adam' else {})}


def _loss(params: Any) -> torch.Tensor:
    return torch.stack([p.square().sum() for p in params]).sum()
