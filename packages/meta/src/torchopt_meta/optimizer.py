"""The meta-optimizer: differentiable steps on the parameters of modules."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from torchopt.authoring.arguments import Recipe
from torchopt.authoring.from_torch import entry_of
from torchopt.authoring.gradients import gradients_of
from torchopt.authoring.module_slots import ParameterSlot, write_params
from torchopt.authoring.step_marks import next_number
from torchopt.base import GradientTransformation
from torchopt.typing import OptState
from torchopt.update import step_to
from torchopt_meta.group import Group, fitted, trained_groups
from torchopt_meta.members import members_of, require_frozen, require_replaceable


class MetaOptimizer:
    r"""Takes steps that can be differentiated through, on the parameters of a module.

    A step replaces every parameter :math:`\theta` of the module by a new tensor
    :math:`\theta' = \theta + u(\nabla_\theta L, \text{state})` that carries the graph of its
    computation, so that a loss of the updated module has gradients with respect to everything
    that influenced the steps: meta-parameters in the inner loss, initial parameters,
    hyperparameters.

    Parameters that do not require grad are left alone. Parameters that a loss does not depend on
    keep their value and their state. A tensor that several modules share stays one tensor.

    The module may be moved or converted afterwards: the state takes over dtypes and devices of the
    parameters. While the parameters carry the graph of earlier steps, torch can't convert them
    properly; call :func:`torchopt.stop_gradient` first. Parametrizations, weight normalisation and
    pruning move parameters to other names, and must come before the optimizer.

    It can be pickled, and copied by ``copy.deepcopy``, together with its modules. A copy made alone
    steps copies of the modules. ``copy.copy`` makes an optimizer of the same modules.

    Args:
        module: Its parameters that require grad are optimised.
        impl: The gradient transformation, such as ``torchopt.sgd(lr=1.0)``. A tree of learning
            rates is a dictionary from the parameters' qualified names to numbers or tensors.

    Raises:
        TypeError: ``module`` is not a module, or ``impl`` is not a transformation.
        ValueError: the module has no parameter that requires grad.
        RuntimeError: ``fully_shard`` or DDP has wrapped a part of it.

    Example:
        >>> import torch, torchopt
        >>> net = torch.nn.Linear(1, 1, bias=False)
        >>> scale = torch.tensor(2.0, requires_grad=True)
        >>> optimizer = torchopt.MetaOptimizer(net, torchopt.sgd(lr=0.5))
        >>> optimizer.step(scale * net.weight.sum())
        >>> torch.autograd.grad(net.weight.sum(), scale)
        (tensor(-0.5000),)
    """

    def __init__(self, module: nn.Module, impl: GradientTransformation | Recipe) -> None:
        if not isinstance(impl, (GradientTransformation, Recipe)):
            raise TypeError(
                f'impl must be a gradient transformation such as torchopt.adam(), got {impl!r}'
            )
        self._impl = impl
        self._groups: list[Group] = []
        self._frozen: dict[ParameterSlot, str] = {}
        self.add_param_group(module)

    @classmethod
    def from_torch(
        cls, module: nn.Module, optimizer: torch.optim.Optimizer, **hyperparameters: Any
    ) -> MetaOptimizer:
        """Return a meta-optimizer that goes on where a trained optimizer stands.

        It takes over rule, hyperparameters, parameter groups and state of ``optimizer``, so that
        its steps are the next steps of ``optimizer``, made differentiable. The state is copied:
        steps of one leave the other as it is. Call it before a differentiable step has replaced
        the parameters, or after :func:`torchopt.recover_state_dict` has put them back. Parameters
        that ``optimizer`` does not hold are left alone.

        ``MetaOptimizer.from_torch`` takes an optimizer of any rule. A class of one rule, such as
        ``MetaAdam``, takes that rule only, and returns an object of the class. To start any other
        transformation, load what :func:`torchopt.state_from_torch` returns.

        Args:
            module: Holds parameters of ``optimizer``.
            optimizer: A ``torch.optim`` or plain optimizer.
            **hyperparameters: Replacements, in all groups, of the values in its ``param_groups``.

        Raises:
            TypeError: ``optimizer`` has another rule than the class, or one that is not known
                here, or a hyperparameter does not exist.
            ValueError: ``optimizer`` holds no parameter of ``module``.

        Example:
            >>> import torch, torchopt
            >>> net = torch.nn.Linear(1, 1, bias=False)
            >>> trained = torch.optim.SGD(net.parameters(), lr=0.5, momentum=0.9)
            >>> net.weight.sum().backward()
            >>> trained.step()
            >>> inner = torchopt.MetaSGD.from_torch(net, trained)
            >>> start = net.weight
            >>> inner.step(net.weight.sum())
            >>> net.weight - start
            tensor([[-0.9500]], grad_fn=<SubBackward0>)
        """
        entry = entry_of(optimizer)
        recipe = Recipe(entry.factory, {}).replace(hyperparameters)
        own = [f'Meta{name}' for name in entry.class_names]
        if cls is MetaOptimizer:
            self = cls(module, recipe)
        elif any(base.__name__ in own for base in cls.__mro__):
            self = cls(module, **hyperparameters)
        else:
            raise TypeError(
                f'{cls.__name__} cannot go on with the rule of {type(optimizer).__name__}: use '
                f'torchopt.{own[0]}.from_torch or torchopt.MetaOptimizer.from_torch'
            )
        (whole,) = self._groups
        self._groups = trained_groups(whole, recipe, optimizer, hyperparameters)
        if not self._groups:
            raise ValueError(
                f'the optimizer holds no parameter of this {type(module).__name__}: pass the '
                'module that it trains, before a differentiable step has replaced the parameters, '
                'or after recover_state_dict has put them back'
            )
        return self

    def add_param_group(
        self,
        module: nn.Module,
        impl: GradientTransformation | None = None,
        **hyperparameters: Any,
    ) -> None:
        """Optimise another module too, with a state of its own.

        A tensor that is optimised already stays in its group. Steps replace it in this module, too.

        Args:
            module: Its parameters that require grad are added.
            impl: The transformation of this group; by default, the first group's.
            **hyperparameters: Values for this group, such as ``lr=0.1``, in the place of the
                optimizer's. Only classes of one rule take them, such as :class:`torchopt.MetaAdam`.

        Raises:
            TypeError: ``module`` is not a module, or a hyperparameter does not exist.
            ValueError: there is nothing new to optimise.
            RuntimeError: ``fully_shard`` or DDP has wrapped a part of ``module``.
        """
        require_replaceable(module, type(self).__name__)
        source = self._source(impl, hyperparameters)

        known = {
            id(tensor): group.slots[name]
            for group in self._groups
            for name, tensor in group.read().items()
        }
        members = members_of(module, known)
        if not members.added:
            raise ValueError(
                f'{type(module).__name__} has no parameter that requires grad'
                + (' and is not optimised already' if members.again else '')
            )
        group = Group(source, members.added)

        for slots, slot in members.again:
            if slot not in slots:
                slots.append(slot)
        for slot in (slot for slots in members.added.values() for slot in slots):
            self._frozen.pop(slot, None)
        self._frozen.update(members.frozen)
        self._groups.append(group)

    def step(self, loss: torch.Tensor, *, first_order: bool = False) -> None:
        """Differentiate ``loss`` and replace the parameters by updated ones.

        Args:
            loss: A scalar that depends on the current parameters.
            first_order: Treat the gradients as constants, as first-order MAML does: the new
                parameters depend on the old ones, but not through the gradients.

        Raises:
            TypeError: ``loss`` is not a tensor.
            ValueError: ``loss`` is not a scalar, or depends on no parameter.
            RuntimeError: the step is called in ``torch.no_grad()`` or in a compiled function; or,
                since its module was added, a parameter was removed, is no longer shared, or began
                to require grad; or a parameter that carries a graph was converted.
        """
        require_frozen(self._frozen)
        params = [group.read() for group in self._groups]
        tensors = [tensor for old in params for tensor in old.values()]
        gradients = iter(gradients_of(loss, tensors, create_graph=not first_order))
        results = []
        name, number = type(self).__name__, next_number()
        for group, old in zip(self._groups, params):
            updates, state = group.update(dict(zip(old, gradients)), group.state, old)
            new = step_to(old, updates, name, state=state, first_order=first_order, number=number)
            results.append((new, state))
        for group, (new, state) in zip(self._groups, results):
            write_params(group.slots, new)
            group.take_over(state)

    def state_dict(self) -> tuple[OptState, ...]:
        """Return the states of the groups by reference. Steps replace them, and write into none."""
        return tuple(group.state for group in self._groups)

    def load_state_dict(self, state: tuple[OptState, ...]) -> None:
        """Take over states that :meth:`state_dict` returned.

        Tensors are converted to dtype and device of their parameters, as in ``torch.optim``.

        Raises:
            ValueError: the states do not fit this optimizer; nothing has changed then.
        """
        if isinstance(state, Mapping) and 'param_groups' in state:
            raise ValueError(
                'this is the state of a plain optimizer: begin with it by '
                f'torchopt.{type(self).__name__}.from_torch(module, optimizer)'
            )
        for group in self._groups:
            group.read()
        for group, group_state in zip(self._groups, fitted(self.state_dict(), state)):
            group.take_over(group_state)

    def __copy__(self) -> MetaOptimizer:
        """Return an optimizer of the same modules whose steps leave the state of this one."""
        clone = object.__new__(type(self))
        clone.__dict__.update(vars(self))
        clone._frozen = dict(self._frozen)
        clone._groups = [copy.copy(group) for group in self._groups]
        return clone

    def __repr__(self) -> str:
        """Return the hyperparameters of each group, in the form of ``torch.optim``."""
        lines = [f'{type(self).__name__} (']
        for position, group in enumerate(self._groups):
            lines.append(f'Parameter Group {position}')
            lines += [f'    {line}' for line in group.describe()]
        return '\n'.join([*lines, ')'])

    def _source(
        self, impl: GradientTransformation | None, hyperparameters: dict[str, Any]
    ) -> GradientTransformation | Recipe:
        if impl is not None and not isinstance(impl, GradientTransformation):
            raise TypeError(
                f'impl must be a gradient transformation such as torchopt.adam(), got {impl!r}'
            )
        chosen = self._impl if impl is None else impl
        if isinstance(chosen, Recipe):
            return chosen.replace(hyperparameters)
        if hyperparameters:
            raise TypeError(
                f'a group can have its own {", ".join(hyperparameters)} only in the class of one '
                'rule, such as torchopt.MetaAdam; pass a transformation of its own instead'
            )
        return chosen
