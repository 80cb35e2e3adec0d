"""higher, which makes torch's optimizers differentiable."""

from __future__ import annotations

import higher
import torch

from adapters import LR, TORCH_OPTIMIZERS, Adapter, error, mean_gradient


class Higher(Adapter):
    def adam_step(self, grads, mu, nu, eps_root):
        params = [torch.zeros_like(g, requires_grad=False) for g in grads]
        optimizer = higher.get_diff_optim(torch.optim.Adam(params, LR), params)
        (group,), (states,) = optimizer.param_groups, optimizer.state

        def step():
            group['params'] = list(params)
            for i, (m, n) in enumerate(zip(mu, nu)):
                states[i] = {'step': 0, 'exp_avg': m, 'exp_avg_sq': n}
            optimizer._update([grads])
            new = states.values()
            return [
                *group['params'],
                *(state['exp_avg'] for state in new),
                *(state['exp_avg_sq'] for state in new),
            ]

        return step

    def meta_gradient(self, net, tasks, rule, eps_root, steps):
        optimizer = TORCH_OPTIMIZERS[rule](net.parameters(), LR)

        def run():
            losses = []
            for task in tasks:
                with higher.innerloop_ctx(net, optimizer, copy_initial_weights=False) as inner:
                    fast_net, fast_optimizer = inner
                    for _ in range(steps):
                        fast_optimizer.step(error(fast_net(task.x), task.y))
                    losses.append(error(fast_net(task.outer_x), task.outer_y))
            return mean_gradient(losses, net)

        return run
