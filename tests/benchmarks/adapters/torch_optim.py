"""torch.optim with differentiable=True."""

from __future__ import annotations

import torch
from torch.func import functional_call
from torch.optim.adam import adam

from adapters import LR, TORCH_OPTIMIZERS, Adapter, error, mean_gradient


class TorchOptim(Adapter):
    def adam_step(self, grads, mu, nu, eps_root):
        def step():
            params = [torch.zeros_like(g, requires_grad=False) for g in grads]
            new_mu, new_nu = [m.clone() for m in mu], [n.clone() for n in nu]
            steps = [torch.zeros((), dtype=g.dtype) for g in grads]
            adam(
                params,
                grads,
                new_mu,
                new_nu,
                [],
                steps,
                foreach=False,
                differentiable=True,
                amsgrad=False,
                beta1=0.9,
                beta2=0.999,
                lr=LR,
                weight_decay=0.0,
                eps=1e-8,
                maximize=False,
            )
            return [*params, *new_mu, *new_nu]

        return step

    def meta_gradient(self, net, tasks, rule, eps_root, steps):
        def run():
            losses = []
            for task in tasks:
                params = {name: param.clone() for name, param in net.named_parameters()}
                optimizer = TORCH_OPTIMIZERS[rule](params.values(), LR, differentiable=True)
                for _ in range(steps):
                    # The optimizer writes into parameters, which the graph of a loss must keep.
                    kept = {name: param.clone() for name, param in params.items()}
                    loss = error(functional_call(net, kept, (task.x,)), task.y)
                    grads = torch.autograd.grad(loss, list(kept.values()), create_graph=True)
                    for param, grad in zip(params.values(), grads):
                        param.grad = grad
                    optimizer.step()
                losses.append(error(functional_call(net, params, (task.outer_x,)), task.outer_y))
            return mean_gradient(losses, net)

        return run
