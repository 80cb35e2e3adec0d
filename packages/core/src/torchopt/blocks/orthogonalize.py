"""Updates of matrices that have nearly equal singular values."""

from __future__ import annotations

from typing import Any

import torch

from torchopt import pytree
from torchopt.authoring import checks
from torchopt.authoring.numerics import SIXTEEN_BIT, matrix_norms
from torchopt.authoring.origin import recorded
from torchopt.authoring.transformation import transformation
from torchopt.base import EmptyState, GradientTransformation
from torchopt.typing import OptState, Params, Scalar, Updates

QUINTIC: tuple[float, float, float] = (3.4445, -4.7750, 2.0315)
"""Coefficients by Jordan et al. They bring singular values near 1 fast, and leave them there."""


@recorded
def orthogonalize(
    ns_coefficients: tuple[Scalar, Scalar, Scalar] = QUINTIC,
    ns_steps: int = 5,
    eps: Scalar = 1e-7,
    *,
    iteration_dtype: torch.dtype | None = None,
) -> GradientTransformation:
    r"""Replace each matrix by one with the same singular vectors, and singular values near 1.

    .. math::

        X_0 = \frac{U}{\max(\|U\|_F, \epsilon)}, \qquad
        X_{k+1} = a X_k + (b A_k + c A_k^2) X_k, \qquad A_k = X_k X_k^\top

    Jordan et al., *Muon: An optimizer for hidden layers in neural networks*, 2024. Matrices of
    equal shape are iterated in one batch. A tensor of more than two dimensions is a stack of
    matrices, which are its last two.

    Args:
        ns_coefficients: :math:`a`, :math:`b` and :math:`c`.
        ns_steps: Number of steps of the iteration, >= 0.
        eps: Lower bound of the norm by which is divided, >= 0.
        iteration_dtype: Dtype of the iteration; by default that of the update, and float32 for
            16-bit updates. ``torch.bfloat16`` gives the numbers of :class:`torch.optim.Muon`.

    Raises:
        ValueError: a number is out of its range; at ``update``, an update has fewer than two
            dimensions.
    """
    a, b, c = checks.several('ns_coefficients', ns_coefficients, 3)
    for position, coefficient in enumerate((a, b, c)):
        checks.number(f'ns_coefficients[{position}]', coefficient)
    checks.nonnegative('ns_steps', ns_steps)
    checks.nonnegative('eps', eps)

    def orthogonal(stack: torch.Tensor) -> torch.Tensor:
        rows, columns = stack.shape[-2:]
        x = stack.flatten(end_dim=-3).to(iteration_dtype or _wide(stack.dtype))
        x = x.mT if rows > columns else x
        x = x / matrix_norms(x).to(x.dtype).clamp_min(eps)
        for _ in range(ns_steps):
            gram = x @ x.mT
            x = _plus_product(a, x, _plus_product(b, gram, gram, gram, c), x)
        return (x.mT if rows > columns else x).to(stack.dtype).reshape_as(stack)

    def init(params: Params) -> EmptyState:
        checks.representable('eps', eps, params)
        return EmptyState()

    def update(updates: Updates, state: OptState, params: Params | None) -> tuple[Any, OptState]:
        leaves, structure = pytree.tree_flatten(updates, none_is_leaf=True)
        groups: dict[Any, list[int]] = {}
        for position, leaf in enumerate(leaves):
            if leaf is None:
                continue
            if leaf.dim() < 2:
                where = structure.accessors()[position].codify('updates')
                raise ValueError(
                    f'{where} has shape {tuple(leaf.shape)}, and is not a matrix: give it another '
                    'rule by torchopt.transform.partition'
                )
            groups.setdefault((leaf.shape, leaf.dtype, leaf.device), []).append(position)
        for positions in groups.values():
            found = orthogonal(torch.stack([leaves[position] for position in positions]))
            for position, matrix in zip(positions, found.unbind()):
                leaves[position] = matrix
        return pytree.tree_unflatten(structure, leaves), state

    return transformation(init, update)


def _plus_product(
    beta: Scalar, addend: torch.Tensor, left: torch.Tensor, right: torch.Tensor, alpha: Scalar = 1.0
) -> torch.Tensor:
    """Return ``beta * addend + alpha * (left @ right)``, rounded once where numbers allow it."""
    if isinstance(beta, torch.Tensor) or isinstance(alpha, torch.Tensor):
        return beta * addend + alpha * (left @ right)
    return torch.baddbmm(addend, left, right, beta=beta, alpha=alpha)


def _wide(dtype: torch.dtype) -> torch.dtype:
    return torch.float32 if dtype in SIXTEEN_BIT else dtype
