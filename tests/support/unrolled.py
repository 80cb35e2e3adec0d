"""A small meta-learning problem that every optimizer unrolls."""

from __future__ import annotations

from typing import Any

import torch

import torchopt
from torchopt import pytree

STEPS = 4
START = {
    'w': torch.tensor([[0.8, -0.5], [0.3, 1.1]], dtype=torch.float64),
    'b': torch.tensor([0.2, -0.7], dtype=torch.float64),
}
META = torch.tensor([0.6, -0.9, 0.4], dtype=torch.float64)


def inner_loss(phi: torch.Tensor, params: dict[str, torch.Tensor]) -> torch.Tensor:
    """Not quadratic, so that second derivatives vary along the way."""
    hidden = torch.tanh(params['w'] @ phi[:2] + params['b'])
    return ((hidden - phi[2]) ** 2).sum() + 0.1 * (params['w'] ** 2).sum()


def outer_loss(params: dict[str, torch.Tensor]) -> torch.Tensor:
    """A loss of the adapted parameters alone."""
    return sum(torch.sin(2 * leaf).sum() for leaf in pytree.tree_leaves(params))


def functional_meta_loss(
    optimizer: torchopt.GradientTransformation, phi: torch.Tensor, params: Any
) -> torch.Tensor:
    """The outer loss after some steps of the functional API, by torch.func."""
    state = optimizer.init(params)
    for _ in range(STEPS):
        gradients = torch.func.grad(inner_loss, argnums=1)(phi, params)
        updates, state = optimizer.update(gradients, state, params=params, inplace=False)
        params = torchopt.apply_updates(params, updates, inplace=False)
    return outer_loss(params)


def object_meta_loss(
    optimizer: torchopt.GradientTransformation, phi: torch.Tensor, params: Any
) -> torch.Tensor:
    """The same outer loss, by ``FuncOptimizer`` and autograd."""
    func_optimizer = torchopt.FuncOptimizer(optimizer)
    for _ in range(STEPS):
        params = func_optimizer.step(inner_loss(phi, params), params)
    return outer_loss(params)


def meta_gradient_by_differences(
    optimizer: torchopt.GradientTransformation, phi: torch.Tensor, params: Any, h: float = 1e-6
) -> tuple[torch.Tensor, Any]:
    """The meta-gradient with respect to ``(phi, params)``, by central differences."""
    leaves, structure = pytree.tree_flatten((phi, params))
    found = [torch.zeros_like(leaf) for leaf in leaves]
    for position, leaf in enumerate(leaves):
        for entry in range(leaf.numel()):
            values = []
            for sign in (1, -1):
                moved = [x.clone() for x in leaves]
                moved[position].view(-1)[entry] += sign * h
                moved_phi, moved_params = pytree.tree_unflatten(structure, moved)
                values.append(functional_meta_loss(optimizer, moved_phi, moved_params).detach())
            found[position].view(-1)[entry] = (values[0] - values[1]) / (2 * h)
    return pytree.tree_unflatten(structure, found)
