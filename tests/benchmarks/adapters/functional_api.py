"""Ways to write a meta-step with the project's functional optimizers."""

from __future__ import annotations

import torch

import torchopt
from adapters import LR
from adapters.torchopt_api import TorchOpt, functional_loss


class Looped(TorchOpt):
    """Task by task."""

    def batched_meta_gradient(self, net, tasks, rule, eps_root, steps):
        meta_gradient = torch.func.grad(self.mean_loss(net, rule, eps_root, steps))
        start = {name: value.detach() for name, value in net.named_parameters()}
        return lambda: list(meta_gradient(start, *tasks).values())

    def mean_loss(self, net, rule, eps_root, steps):
        """Return the loss to differentiate, a function of parameters and ``Task``."""
        task_loss = self.task_loss(net, rule, eps_root, steps)
        return lambda params, *tasks: torch.stack(
            [task_loss(params, *task) for task in zip(*tasks)]
        ).mean()

    def inner_gradient(self, loss):
        return torchopt.unrolling.grad(loss)


class Batched(Looped):
    """All tasks at once."""

    def mean_loss(self, net, rule, eps_root, steps):
        mapped = torch.vmap(self.task_loss(net, rule, eps_root, steps), (None, 0, 0, 0, 0))
        return lambda params, *tasks: mapped(params, *tasks).mean()


class ByHand(Batched):
    """All tasks at once, with torch alone in place of the library."""

    def inner_gradient(self, loss):
        return torch.func.grad(loss)

    def inner_optimizer(self, rule, eps_root):
        if rule == 'sgd':
            return dict, lambda params, grads, state: (
                {name: p - LR * grads[name] for name, p in params.items()},
                state,
            )

        def init(params):
            zeros = {name: torch.zeros_like(p) for name, p in params.items()}
            return zeros, zeros, 0

        def step(params, grads, state):
            mu, nu, count = state
            count += 1
            mu = {name: 0.9 * mu[name] + 0.1 * g for name, g in grads.items()}
            nu = {name: 0.999 * nu[name] + 0.001 * g * g for name, g in grads.items()}
            correction1, correction2 = 1 - 0.9**count, 1 - 0.999**count
            params = {
                name: p
                - LR
                * (mu[name] / correction1)
                / (torch.sqrt(nu[name] / correction2 + eps_root) + 1e-8)
                for name, p in params.items()
            }
            return params, (mu, nu, count)

        return init, step


class Compiled(Batched):
    """All tasks at once, in one graph."""

    # eps_root = 0 would give another graph and compile again.
    eps_roots = (1e-8,)

    def batched_meta_gradient(self, net, tasks, rule, eps_root, steps):
        meta_gradient = torch.compile(
            torch.func.grad(self.mean_loss(net, rule, eps_root, steps)), fullgraph=True
        )
        start = {name: value.detach() for name, value in net.named_parameters()}
        return lambda: list(meta_gradient(start, *tasks).values())


class Unrolled(Looped):
    """One step, for any number of steps and all tasks at once, whose memory is kept small."""

    eps_roots = (1e-8,)

    def __init__(self, *, compile: bool = False) -> None:
        super().__init__()
        self._compile = compile

    def batched_meta_gradient(self, net, tasks, rule, eps_root, steps):
        loss = functional_loss(net)
        inner_gradient = torch.vmap(self.inner_gradient(loss))
        init, inner_step = self.inner_optimizer(rule, eps_root)
        backward = torchopt.unrolling.Recomputed(compile=self._compile)

        def step(carry, _, consts):
            params, state = carry
            # The rule is elementwise, so it applies to the stacked parameters of all tasks.
            return inner_step(params, inner_gradient(params, *consts), state), None

        def outer_loss(params, x, y):
            return torch.vmap(loss)(params, x, y).mean()

        if self._compile:
            # As compile=True does with the steps.
            fused = not any(isinstance(part, torch.nn.Conv2d) for part in net.modules())
            outer_loss = torch.compile(
                outer_loss, fullgraph=True, backend='inductor' if fused else 'aot_eager'
            )

        start = {name: p.detach().requires_grad_() for name, p in net.named_parameters()}

        def run():
            # Contiguous like all later carries: another layout would compile again.
            copies = {
                name: p.expand(len(tasks.x), *p.shape).contiguous() for name, p in start.items()
            }
            (adapted, _), _ = torchopt.unroll(
                step,
                (copies, init(copies)),
                consts=(tasks.x, tasks.y),
                length=steps,
                backward=backward,
            )
            loss_after = outer_loss(adapted, tasks.outer_x, tasks.outer_y)
            return list(torch.autograd.grad(loss_after, list(start.values())))

        return run
