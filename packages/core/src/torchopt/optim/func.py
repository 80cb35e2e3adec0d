"""The functional optimizer: a transformation that remembers its state."""

from __future__ import annotations

import torch

from torchopt import pytree
from torchopt.authoring import checks
from torchopt.authoring.gradients import gradients_of
from torchopt.authoring.state import checked_like
from torchopt.base import GradientTransformation
from torchopt.typing import OptState, TreeT
from torchopt.update import apply_updates, step_to


class FuncOptimizer:
    """Takes differentiable steps over a tree of tensors, and keeps the state between steps.

    Args:
        impl: The gradient transformation, such as ``torchopt.adam(lr=0.1)``.
        inplace: What :meth:`step` does where its own ``inplace`` is None.

    Attributes:
        impl: The gradient transformation.
        inplace: As above.

    Raises:
        TypeError: ``impl`` is not a transformation.

    Example:
        >>> import torch, torchopt
        >>> optimizer = torchopt.FuncOptimizer(torchopt.sgd(lr=0.5))
        >>> params = {'w': torch.ones(2, requires_grad=True)}
        >>> optimizer.step(params['w'].square().sum(), params)
        {'w': tensor([0., 0.], grad_fn=<AddBackward0>)}
    """

    def __init__(self, impl: GradientTransformation, *, inplace: bool = False) -> None:
        if not isinstance(impl, GradientTransformation):
            raise TypeError(
                f'impl must be a gradient transformation such as torchopt.adam(), got {impl!r}'
            )
        self.impl = impl
        self.inplace = inplace
        self._state: OptState | None = None

    def __repr__(self) -> str:
        inplace = ', inplace=True' if self.inplace else ''
        return f'FuncOptimizer({self.impl!r}{inplace})'

    def step(
        self,
        loss: torch.Tensor,
        params: TreeT,
        inplace: bool | None = None,
        *,
        first_order: bool = False,
    ) -> TreeT:
        """Differentiate ``loss`` with respect to ``params`` and return the updated tree.

        The state is made at the first step.

        Args:
            loss: A scalar that depends on ``params``.
            params: Tree of tensors; one that does not require grad, or that the loss does not
                depend on, keeps its value.
            inplace: Write into ``params``, without a graph; None takes what the optimizer was made
                with.
            first_order: Treat the gradients as constants.

        Raises:
            ValueError: ``loss`` is not a scalar, or does not depend on ``params``.
            RuntimeError: the step is called in ``torch.no_grad()`` or in a compiled function.
        """
        inplace = self.inplace if inplace is None else inplace
        leaves, structure = checks.params(params)
        found = gradients_of(loss, leaves, create_graph=not (first_order or inplace))
        gradients = pytree.tree_unflatten(structure, found)
        state = self.impl.init(params) if self._state is None else self._state
        # What state_dict has returned is never written into, nor gradients, which autograd may
        # have expanded from a single number.
        with torch.set_grad_enabled(not inplace):
            updates, state = self.impl.update(gradients, state, params=params, inplace=False)
            if inplace:
                new_params = apply_updates(params, updates, inplace=True)
            else:
                new_params = step_to(
                    params, updates, 'FuncOptimizer', state=state, first_order=first_order
                )
        self._state = state
        return new_params

    def state_dict(self) -> OptState | None:
        """Return the state, by reference; None before the first step."""
        return self._state

    def load_state_dict(self, state: OptState | None) -> None:
        """Load a state that :meth:`state_dict` returned.

        Raises:
            ValueError: the state does not fit the current state.
        """
        both = state is not None and self._state is not None
        self._state = checked_like(self._state, state, 'state') if both else state
