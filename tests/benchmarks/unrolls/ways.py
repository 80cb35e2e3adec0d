"""The ways of computing one meta-gradient, each a function of a problem.

Functions import the libraries, because an environment holds only one of them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.func import functional_call
from torch.utils.checkpoint import checkpoint

from unrolls.problems import EPS_ROOT, LR, Problem, weighted_loss

Way = Callable[[Problem], Tensor]


def outer_loss(problem: Problem, logits: Tensor) -> Tensor:
    """Return the loss of held-out examples."""
    return weighted_loss(logits, problem.held_out[1], logits.new_ones(len(logits)))


def functional_step(
    problem: Problem, gradient: Callable[..., Any], optimizer_of: Callable[[Any], Any]
) -> Callable[..., tuple[Any, None]]:
    """Return an inner step.

    Args:
        problem: What is trained.
        gradient: Takes the inner gradient.
        optimizer_of: Makes the optimizer from consts.
    """
    import torchopt

    def loss(params: dict[str, Tensor], batch: Tensor, weights: Tensor) -> Tensor:
        logits = functional_call(problem.net, params, (problem.inputs[batch],))
        return weighted_loss(logits, problem.targets[batch], weights[batch])

    def step(carry: Any, batch: Tensor, consts: Any) -> tuple[Any, None]:
        params, state = carry
        grads = gradient(loss)(params, batch, consts['weights'])
        updates, state = optimizer_of(consts).update(grads, state, params=params, inplace=False)
        return (torchopt.apply_updates(params, updates, inplace=False), state), None

    return step


def start(problem: Problem, optimizer: Any) -> Any:
    """Return the carry before the first step."""
    params = {name: param.detach() for name, param in problem.net.named_parameters()}
    return params, optimizer.init(params)


def held_out_loss(problem: Problem, params: dict[str, Tensor]) -> Tensor:
    """Return the outer loss of trained parameters."""
    return outer_loss(problem, functional_call(problem.net, params, (problem.held_out[0],)))


def adam(consts: Any) -> Any:
    """Return Adam, with the learning rate of ``consts`` if there is one."""
    import torchopt

    return torchopt.adam(consts.get('lr', LR), eps_root=EPS_ROOT)


def unrolled(mode: str, by: str = 'weights') -> Way:
    """``torchopt.unroll`` with a strategy, given as source text."""

    def run(problem: Problem) -> Tensor:
        import torchopt
        from torchopt import unrolling

        backward = eval(mode, vars(unrolling).copy())
        consts = {'weights': problem.weights.detach(), 'lr': problem.weights.new_tensor(LR)}
        if by == 'weights':
            del consts['lr']
        consts[by].requires_grad_()
        step = functional_step(problem, unrolling.grad, adam)
        (params, _), _ = torchopt.unroll(
            step, start(problem, adam(consts)), problem.batches, consts, backward=backward
        )
        return torch.autograd.grad(held_out_loss(problem, params), consts[by])[0]

    return run


def checkpointed(problem: Problem) -> Tensor:
    """A Python loop with ``torch.utils.checkpoint`` around every step."""

    def gradient(loss: Callable[..., Tensor]) -> Callable[..., Any]:
        def compute(params: dict[str, Tensor], *rest: Tensor) -> Any:
            # torch.func.grad does not work under the hooks of checkpoint.
            with torch.enable_grad():
                leaves = list(params.values())
                grads = torch.autograd.grad(loss(params, *rest), leaves, create_graph=True)
            return dict(zip(params, grads))

        return compute

    step = functional_step(problem, gradient, adam)
    params, state = start(problem, adam({}))
    carry = {name: param.requires_grad_() for name, param in params.items()}, state
    for batch in problem.batches:
        carry, _ = checkpoint(step, carry, batch, {'weights': problem.weights}, use_reentrant=False)
    return torch.autograd.grad(held_out_loss(problem, carry[0]), problem.weights)[0]


def meta_adam(problem: Problem) -> Tensor:
    """``torchopt.MetaAdam`` of this project, or of torchopt 0.7.3."""
    import torchopt

    optimizer = torchopt.MetaAdam(problem.net, LR, eps_root=EPS_ROOT)
    for batch in problem.batches:
        logits = problem.net(problem.inputs[batch])
        optimizer.step(weighted_loss(logits, problem.targets[batch], problem.weights[batch]))
    loss = outer_loss(problem, problem.net(problem.held_out[0]))
    return torch.autograd.grad(loss, problem.weights)[0]


def higher_adam(problem: Problem) -> Tensor:
    """higher's loop."""
    import higher

    adam = torch.optim.Adam(problem.net.parameters(), LR)
    with higher.innerloop_ctx(problem.net, adam) as (net, optimizer):
        for batch in problem.batches:
            logits = net(problem.inputs[batch])
            optimizer.step(weighted_loss(logits, problem.targets[batch], problem.weights[batch]))
        loss = outer_loss(problem, net(problem.held_out[0]))
        return torch.autograd.grad(loss, problem.weights)[0]


STRATEGIES = (
    'Stored()',
    'Recomputed()',
    'Recomputed(keep_gradients=True)',
    "Recomputed(keep_gradients=True, order='forward-over-reverse')",
    'Snapshots()',
    'Snapshots(4)',
    'Truncated(10)',
)
BY_LR = ('Stored()', 'Recomputed()', 'ForwardMode()')

# (library, way): the function.
WAYS: dict[tuple[str, str], Way] = {
    **{('this project', mode): unrolled(mode) for mode in STRATEGIES},
    **{('this project', f'{mode}, by lr'): unrolled(mode, 'lr') for mode in BY_LR},
    ('this project', 'MetaAdam'): meta_adam,
    ('this project', 'torch.utils.checkpoint'): checkpointed,
    ('torchopt 0.7.3', 'MetaAdam'): meta_adam,
    ('higher 0.2.1', 'innerloop_ctx'): higher_adam,
}
PLAIN = ('this project', 'Stored()')
# The ways in the plot: the label, and whether the line is dashed.
PLOTTED = {
    PLAIN: ('Stored()', False),
    ('this project', 'Recomputed()'): ('Recomputed()', False),
    ('this project', 'Snapshots()'): ('Snapshots()', False),
    ('this project', 'ForwardMode(), by lr'): ('ForwardMode(), by lr', False),
    ('torchopt 0.7.3', 'MetaAdam'): ('torchopt 0.7.3: MetaAdam', True),
    ('this project', 'torch.utils.checkpoint'): ('torch.utils.checkpoint', True),
}


def reference(way: str) -> tuple[str, str]:
    """Return the way whose meta-gradient is the reference for ``way``."""
    return (PLAIN[0], 'Stored(), by lr') if way.endswith('by lr') else PLAIN
