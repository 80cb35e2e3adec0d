"""The plain optimizer: a ``torch.optim.Optimizer`` over a gradient transformation."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch

from torchopt.authoring import checks
from torchopt.authoring.arguments import Recipe
from torchopt.authoring.describe import describe
from torchopt.authoring.torch_internals import step_is_observed
from torchopt.authoring.torch_state import STEP, require_fitting
from torchopt.base import GradientTransformation
from torchopt.optim.group import GroupStep, keeping_tensors, name_of
from torchopt.typing import ParamsLike

# Keys that torch and its schedulers put into groups. They choose between torch's implementations
# or belong to a scheduler, and have no effect here.
_TORCH_KEYS = frozenset(
    {'capturable', 'differentiable', 'foreach', 'fused', 'initial_lr', 'param_names', 'params'}
)
# Chosen for a machine, not for the run that is saved.
_NOT_SAVED = frozenset({'use_accelerated_op'})


class Optimizer(torch.optim.Optimizer):
    """Updates tensors in place from their ``.grad``, as a ``torch.optim.Optimizer``.

    Schedulers, hooks, ``GradScaler``, ``add_param_group`` and all other tools for torch's
    optimizers work with this one. ``state`` and ``state_dict()`` are in torch's format, with
    torch's names, so that a checkpoint of :class:`torch.optim.Adam` loads into
    :class:`torchopt.Adam` and back.

    Args:
        params: Tensors to optimise, pairs of names and tensors, or dictionaries with the key
            ``params``. In the classes of one rule, such as :class:`torchopt.Adam`, the
            dictionaries may also hold hyperparameters.
        impl: The gradient transformation, such as ``torchopt.adam(lr=0.1)``.

    Attributes:
        param_groups: One dictionary per group, with its tensors under ``params`` and its
            hyperparameters under their names. Changes take effect at the next step. A
            hyperparameter that is a tensor keeps its identity, so that it can be learned in place.
        state: One dictionary of tensors per parameter that has taken a step.

    Raises:
        TypeError: a parameter is not a floating-point tensor, or ``impl`` is not a transformation.
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
        members: list[Any] = list(params)
        if not members:
            raise ValueError('params is empty: there is nothing to optimise')
        if isinstance(members[0], Mapping):
            # Copies, so that the caller's dictionaries do not change.
            members = [dict(g) if isinstance(g, Mapping) else g for g in members]
        self._impl = impl
        self._group_steps: list[GroupStep] = []
        # Whether state_dict or a copy of the optimizer refers to the tensors of the state, so that
        # the next step must not write into them.
        self._state_is_lent = False
        super().__init__(members, {} if isinstance(impl, GradientTransformation) else impl.values())

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a parameter group.

        Args:
            param_group: The tensors under ``params``. In the classes of one rule, other keys
                override hyperparameters.

        Raises:
            TypeError: a tensor is not floating-point, or a hyperparameter does not exist.
            ValueError: a tensor is in a group already or is not a leaf, or a hyperparameter is out
                of its range.
        """
        if not isinstance(param_group, Mapping) or 'params' not in param_group:
            raise TypeError(
                f"a group is a dictionary with the key 'params', got {param_group!r:.80}"
            )
        group = dict(param_group)
        params = group['params']
        if not isinstance(params, (torch.Tensor, set)):
            params = group['params'] = list(params)
            self._require_new_leaves(params)
        elif isinstance(params, torch.Tensor):
            self._require_new_leaves([params])
        overrides = {key: value for key, value in group.items() if key not in _TORCH_KEYS}
        if isinstance(self._impl, Recipe):
            self._impl.make(overrides)
        elif overrides:
            raise TypeError(
                f'a group can have its own {", ".join(overrides)} only in the class of one rule, '
                'such as torchopt.Adam, not in an optimizer that was given a transformation'
            )
        super().add_param_group(group)

    def step(  # type: ignore[override]
        self, closure: Callable[[], torch.Tensor] | None = None
    ) -> torch.Tensor | None:
        """Update every tensor that has a gradient; the gradients do not change.

        Args:
            closure: Clears the gradients, computes the loss, calls ``backward`` and returns the
                loss.

        Returns:
            The loss of ``closure``, or None.

        Raises:
            TypeError: ``closure`` is not a function, or a gradient is sparse and the rule does not
                take sparse gradients.
            ValueError: a hyperparameter of a group is out of its range, or tensors do not fit.
                No group has changed in that case.
        """
        # torch has wrapped the step of a subclass, and calls its hooks there.
        if type(self).step is not Optimizer.step or not step_is_observed(self):
            return self._step(closure)
        return _observed(self) if closure is None else _observed(self, closure)

    # torch wraps every step that is not marked so, and its wrapper takes longer than a small step.
    step.hooked = True  # type: ignore[attr-defined]

    def _step(self, closure: Callable[[], torch.Tensor] | None = None) -> torch.Tensor | None:
        if closure is not None and not callable(closure):
            raise TypeError(
                f'step takes a function that returns the loss, got {describe(closure)}: call '
                'loss.backward() and step(), or give the loss to the step of a meta-optimizer'
            )
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        with torch.no_grad():
            # All groups are validated before the first is written.
            commits = [
                worker.prepare(group, self.state, keep_state=self._state_is_lent)
                for worker, group in self._workers()
            ]
            for commit in commits:
                commit()
        self._state_is_lent = False
        return loss

    def state_dict(self) -> dict[str, Any]:
        """Return the state in torch's format.

        Parameters that have taken no step are left out, as in torch. Schedules, masks,
        transformations and ``use_accelerated_op`` are left out of the groups. The tensors are
        references, but later steps do not write into them.
        """
        live = self.state, self.param_groups
        exported = {}
        for worker, group in self._workers():
            entries = worker.entries(group, self.state)
            counts = [int(entry[STEP]) for entry in entries]
            needed = worker.layout(group).is_from_construction
            for param, entry, count in zip(group['params'], entries, counts):
                if count or needed:
                    exported[param] = {**entry, STEP: torch.tensor(float(count))}
        self._state_is_lent = True
        try:
            self.state = exported  # type: ignore[assignment]
            self.param_groups = [
                {k: v for k, v in group.items() if _is_saved(k, v)} for group in self.param_groups
            ]
            return super().state_dict()
        finally:
            self.state, self.param_groups = live

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load a state in torch's format, from this class or its namesake in torch.

        Hyperparameters are loaded, too. A hyperparameter that is a tensor here keeps its identity
        and takes the loaded value; a hyperparameter that ``state_dict`` leaves out does not change.

        Raises:
            TypeError: ``state_dict`` is not in torch's format.
            ValueError: ``state_dict`` does not fit this optimizer. Nothing has changed in that
                case.
        """
        if not isinstance(state_dict, Mapping) or not {'state', 'param_groups'} <= {*state_dict}:
            raise TypeError(
                "a state is a dictionary with the keys 'state' and 'param_groups', as state_dict "
                f'returns, got {type(state_dict).__name__}'
            )
        super().load_state_dict(state_dict)

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), '_impl': self._impl}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Restore a pickled optimizer, or the state that torch's ``load_state_dict`` passes."""
        if '_impl' in state:
            self._group_steps, self._state_is_lent = [], False
        else:
            self._complete(state)
        super().__setstate__(state)

    def __copy__(self) -> Optimizer:
        """Return an optimizer of the same parameters, with a state of its own."""
        clone = object.__new__(type(self))
        state = self.__getstate__()
        state['defaults'] = dict(self.defaults)
        # Counts, unlike the other tensors, are written in place also where the state is lent.
        state['state'] = type(self.state)(
            dict,
            {
                p: {k: torch.as_tensor(v).clone() if k == STEP else v for k, v in e.items()}
                for p, e in self.state.items()
            },
        )
        state['param_groups'] = [{**g, 'params': list(g['params'])} for g in self.param_groups]
        clone.__setstate__(state)
        clone._state_is_lent = self._state_is_lent = True
        return clone

    def _workers(self) -> Iterable[tuple[GroupStep, dict[str, Any]]]:
        """Return the step of each group, also of groups put into ``param_groups`` directly."""
        while len(self._group_steps) < len(self.param_groups):
            self._group_steps.append(GroupStep(self._impl))
        for group in self.param_groups:
            for name, value in self.defaults.items():
                group.setdefault(name, value)
        return list(zip(self._group_steps, self.param_groups))

    def _require_new_leaves(self, members: list[Any]) -> None:
        # torch takes pairs of names and tensors, too.
        params: list[Any] = [m[1] if isinstance(m, tuple) and len(m) == 2 else m for m in members]
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

    def _complete(self, loaded: dict[str, Any]) -> None:
        """Check a loaded state against this optimizer, and fill in what it leaves out."""
        writes: list[tuple[torch.Tensor, torch.Tensor]] = []
        for group, new in zip(self.param_groups, loaded['param_groups']):
            for name, value in group.items():
                if not _is_saved(name, value):
                    new[name] = value
                new.setdefault(name, value)
            layout = GroupStep(self._impl).layout(new)
            for position, param in enumerate(new['params']):
                entry = loaded['state'].get(param, {})
                require_fitting(name_of(new, position), position, entry, layout, 'this optimizer')
                # A later step works in place, and must not write into the caller's tensors. A value
                # that is None, such as a momentum before its first step, is initialised later.
                loaded['state'][param] = {
                    k: v.clone() if isinstance(v, torch.Tensor) else v
                    for k, v in entry.items()
                    if v is not None
                }
            for name, value in group.items():
                if name != 'params':
                    new[name] = keeping_tensors(name, value, new[name], writes)
        with torch.no_grad():
            for old, loaded_value in writes:
                old.copy_(loaded_value)


# Calls hooks and profilers, as torch does around the steps of its own optimizers.
_observed = Optimizer.profile_hook_step(Optimizer._step)


def _is_saved(name: str, value: Any) -> bool:
    """Tell whether an entry of a group is part of ``state_dict``: a file can't hold functions."""
    return not (name in _NOT_SAVED or callable(value) or isinstance(value, GradientTransformation))
