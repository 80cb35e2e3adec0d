"""The project, and torchopt 0.7.3, which has the same interface."""

from __future__ import annotations

from typing import Any

import torch
from torch.func import functional_call

import torchopt
from adapters import LR, Adapter, error, mean_gradient


def functional_loss(net):
    """Return the loss as a function of ``params, x, y``."""
    return lambda params, x, y: error(functional_call(net, params, (x,)), y)


class TorchOpt(Adapter):
    eps_roots = (1e-8, 0.0)

    def __init__(self, **options: Any) -> None:
        self._options = options

    def adam_step(self, grads, mu, nu, eps_root):
        optimizer = torchopt.adam(LR, **self._arguments('adam', eps_root))
        state = tuple(
            member._replace(mu=type(member.mu)(mu), nu=type(member.nu)(nu))
            if hasattr(member, 'mu')
            else member
            for member in optimizer.init(tuple(grads))
        )
        (position,) = (i for i, member in enumerate(state) if hasattr(member, 'mu'))

        def step():
            updates, new_state = optimizer.update(tuple(grads), state, inplace=False)
            moments = new_state[position]
            return [*updates, *moments.mu, *moments.nu]

        return step

    def meta_gradient(self, net, tasks, rule, eps_root, steps):
        meta_class = {'adam': torchopt.MetaAdam, 'sgd': torchopt.MetaSGD}[rule]
        arguments = self._arguments(rule, eps_root)

        def run():
            optimizer = meta_class(net, LR, **arguments)
            net_start = torchopt.extract_state_dict(net)
            optimizer_start = torchopt.extract_state_dict(optimizer)
            losses = []
            for task in tasks:
                for _ in range(steps):
                    optimizer.step(error(net(task.x), task.y))
                losses.append(error(net(task.outer_x), task.outer_y))
                torchopt.recover_state_dict(net, net_start)
                torchopt.recover_state_dict(optimizer, optimizer_start)
            return mean_gradient(losses, net)

        return run

    def batched_meta_gradient(self, net, tasks, rule, eps_root, steps):
        start = {name: value.detach() for name, value in net.named_parameters()}
        task_loss = self.task_loss(net, rule, eps_root, steps)

        def mean_loss(params):
            # One copy per task: the peer's Adam writes batched values into its initial moments.
            copies = {name: p.expand(len(tasks.x), *p.shape) for name, p in params.items()}
            return torch.vmap(task_loss)(copies, *tasks).mean()

        meta_gradient = torch.func.grad(mean_loss)
        return lambda: list(meta_gradient(start).values())

    def task_loss(self, net, rule, eps_root, steps):
        """Return the outer loss of one task as a function of parameters and ``Task``."""
        loss = functional_loss(net)
        inner_gradient = self.inner_gradient(loss)
        init, step = self.inner_optimizer(rule, eps_root)

        def outer_loss(params, x, y, outer_x, outer_y):
            state = init(params)
            for _ in range(steps):
                params, state = step(params, inner_gradient(params, x, y), state)
            return loss(params, outer_x, outer_y)

        return outer_loss

    def inner_gradient(self, loss):
        """Return the gradient of ``loss`` as a function of its arguments."""
        return torch.func.grad(loss)

    def inner_optimizer(self, rule, eps_root):
        """Return functions ``init(params)`` and ``step(params, grads, state)``."""
        make = {'adam': torchopt.adam, 'sgd': torchopt.sgd}[rule]
        optimizer = make(LR, **self._arguments(rule, eps_root))

        def step(params, grads, state):
            updates, state = optimizer.update(grads, state, inplace=False)
            return torchopt.apply_updates(params, updates, inplace=False), state

        return optimizer.init, step

    def _arguments(self, rule: str, eps_root: float) -> dict[str, Any]:
        return {**self._options, **({'eps_root': eps_root} if rule == 'adam' else {})}
