"""The plain optimizer: torch's interface over a gradient transformation."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch

from torchopt.authoring import checks
from torchopt.authoring.arguments import Recipe
from torchopt.authoring.state import checked_like
from torchopt.base import FusedTransformation, GradientTransformation
from torchopt.typing import OptState, ParamsLike
from torchopt.update import apply_updates


class Optimizer:
    """Updates tensors in place from their ``.grad``, with the interface of ``torch.optim``.

    Args:
        params: Tensors to optimise, or dictionaries with the key ``params`` and, for the classes
            of one rule such as :class:`torchopt.Adam`, hyperparameters of that group.
        impl: The gradient transformation, such as ``torchopt.adam(lr=0.1)``.

    Attributes:
        param_groups: A dictionary for every group, with its tensors under ``params``.

    Raises:
        TypeError: a parameter is no floating-point tensor, or ``impl`` no transformation.
        ValueError: there is no parameter, or one is given twice or is not a leaf.

    Example:
        >>> import torch, torchopt
        >>> weight = torch.ones(2, requires_grad=True)
        >>> optimizer = torchopt.Optimizer([weight], torchopt.sgd(lr=0.5))
        >>> weight.sum().backward()
        >>> optimizer.step()
        >>> weight
        tensor([0.5000, 0.5000], requires_grad=True)
    """

    def __init__(self, params: ParamsLike, impl: GradientTransformation | Recipe) -> None:
        if not isinstance(impl, (GradientTransformation, Recipe)):
            raise TypeError(
                f'impl must be a gradient transformation such as torchopt.adam(), got {impl!r}'
            )
        if isinstance(params, (torch.Tensor, Mapping)):
            raise TypeError(
                f'params must be an iterable of tensors or of dictionaries, '
                f'got a {type(params).__name__}'
            )
        self._impl = impl
        self._transformations: list[GradientTransformation] = []
        self._states: list[OptState] = []
        # Whether somebody else holds the states, which then must stay as they are.
        self._states_are_lent = False
        self.param_groups: list[dict[str, Any]] = []
        members: list[Any] = list(params)
        if not members:
            raise ValueError('params is empty: there is nothing to optimise')
        if isinstance(members[0], Mapping):
            for group in members:
                self.add_param_group(group)
        else:
            self.add_param_group({'params': members})

    def add_param_group(self, group: Mapping[str, Any]) -> None:
        """Add tensors, with a state of their own.

        Args:
            group: The tensors under ``params``; other keys replace hyperparameters, for the
                classes of one rule.

        Raises:
            TypeError: a tensor is not floating-point, or a hyperparameter does not exist.
            ValueError: a tensor is in a group already or is not a leaf.
        """
        if not isinstance(group, Mapping) or 'params' not in group:
            raise TypeError(f"a group is a dictionary with the key 'params', got {group!r:.80}")
        overrides = {key: value for key, value in group.items() if key != 'params'}
        params = group['params']
        params = [params] if isinstance(params, torch.Tensor) else list(params)
        for position, param in enumerate(params):
            if not isinstance(param, torch.Tensor):
                raise TypeError(f'params[{position}] must be a tensor, got {param!r:.80}')
        checks.params(params)
        known = {id(p) for other in self.param_groups for p in other['params']}
        for position, param in enumerate(params):
            if id(param) in known:
                raise ValueError(f'params[{position}] is in a parameter group already')
            if not param.is_leaf:
                raise ValueError(
                    f'params[{position}] is not a leaf: a plain optimizer reads .grad, which only '
                    'leaves have; use FuncOptimizer or a meta-optimizer'
                )
            known.add(id(param))
        if isinstance(self._impl, Recipe):
            transformation = self._impl.make(overrides)
        elif overrides:
            raise TypeError(
                f'a group can have its own {", ".join(overrides)} only in the class of one rule, '
                'such as torchopt.Adam'
            )
        else:
            transformation = self._impl
        state = transformation.init(params)
        self._transformations.append(transformation)
        self._states.append(state)
        self.param_groups.append({'params': params, **overrides})

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Drop the gradients, or fill them with zeros."""
        for group in self.param_groups:
            for param in group['params']:
                if set_to_none:
                    param.grad = None
                elif param.grad is not None:
                    param.grad = torch.zeros_like(param.grad)

    def step(self, closure: Callable[[], torch.Tensor] | None = None) -> torch.Tensor | None:
        """Update every tensor that has a gradient; the gradients themselves are kept.

        Args:
            closure: Clears the gradients, computes the loss, calls ``backward`` and returns the
                loss.

        Returns:
            The loss of ``closure``, or None.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        with torch.no_grad():
            self._step()
        return loss

    def state_dict(self) -> tuple[OptState, ...]:
        """Return the states of the groups, by reference: steps leave them as they are."""
        self._states_are_lent = True
        return tuple(self._states)

    def load_state_dict(self, state: tuple[OptState, ...]) -> None:
        """Take over states that :meth:`state_dict` returned.

        Raises:
            ValueError: the states do not fit this optimizer; nothing has changed then.
        """
        self._states = list(checked_like(tuple(self._states), state, 'state'))
        self._states_are_lent = True

    def _step(self) -> None:
        # Whatever can raise comes first, for all groups.
        fused: dict[int, Callable[[], OptState]] = {}
        plain: dict[int, tuple[Any, OptState]] = {}
        for position, transformation in enumerate(self._transformations):
            params, state = self.param_groups[position]['params'], self._states[position]
            gradients = [param.grad if param.requires_grad else None for param in params]
            commit = None
            if isinstance(transformation, FusedTransformation):
                commit = transformation.prepare(gradients, state, params, self._states_are_lent)
            if commit is not None:
                fused[position] = commit
            else:
                plain[position] = transformation.update(
                    gradients, state, params=params, inplace=False
                )
        # In one call, so that a tensor that can't be written stops all groups.
        apply_updates(
            [self.param_groups[position]['params'] for position in plain],
            [updates for updates, _ in plain.values()],
        )
        for position, (_, state) in plain.items():
            self._states[position] = state
        for position, commit in fused.items():
            self._states[position] = commit()
        self._states_are_lent = False

    def __copy__(self) -> Optimizer:
        """Return an optimizer of the same tensors whose steps leave the state of this one."""
        clone = object.__new__(type(self))
        clone._impl = self._impl
        clone._transformations = list(self._transformations)
        clone._states = list(self._states)
        clone._states_are_lent = self._states_are_lent = True
        clone.param_groups = [
            {**group, 'params': list(group['params'])} for group in self.param_groups
        ]
        return clone
