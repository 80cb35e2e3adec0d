"""torch.optim with differentiable=True."""

from __future__ import annotations

import torch
from torch.optim.adam import adam

from adapters import LR, Adapter


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
