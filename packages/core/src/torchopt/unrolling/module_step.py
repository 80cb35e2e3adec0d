"""Inner loops over modules: a step made from a module, an optimizer and a loss."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import nn

from torchopt.authoring.module_slots import parameter_slots
from torchopt.base import GradientTransformation
from torchopt.typing import OptState
from torchopt.unrolling.inner_gradients.grad import grad_and_value
from torchopt.update import apply_updates


class ModuleCarry(NamedTuple):
    """What an inner loop over a module changes.

    Attributes:
        params: The module's trained parameters, by name.
        buffers: The module's buffers, by name. They carry no derivative from step to step, as in
            ordinary training, where running averages are taken without a graph.
        state: State of the optimizer.
    """

    params: dict[str, torch.Tensor]
    buffers: dict[str, torch.Tensor]
    state: OptState


class ModuleStep:
    """A step for :func:`torchopt.unroll`, made from a module, an optimizer and a loss.

    The loss is a function of the module, as for ``MetaOptimizer``::

        inner = torchopt.unrolling.ModuleStep(net, torchopt.adam(1e-3), loss)
        carry, losses = torchopt.unroll(inner, inner.init(), batches, weights, backward=...)
        inner.write(carry)
        criterion(net(x_val), y_val).backward()

    Args:
        module: Its parameters that require grad are trained, and its buffers change as in
            training. The module itself stays as it is until :meth:`write`.
        optimizer: A gradient transformation, such as ``torchopt.adam()``. If its hyperparameters
            require grad, the step must make it from consts: give a function ``optimizer(consts)``
            that returns the transformation.
        loss: ``loss(module, x, consts)`` returns a scalar, which is also the step's ``y``.

    Raises:
        ValueError: no parameter of ``module`` requires grad.
    """

    def __init__(
        self,
        module: nn.Module,
        optimizer: GradientTransformation | Callable[[Any], GradientTransformation],
        loss: Callable[[Any, Any, Any], torch.Tensor],
    ) -> None:
        if not any(param.requires_grad for param in module.parameters()):
            raise ValueError('no parameter of the module requires grad: there is nothing to train')
        self._functional = _LossModule(module, loss)
        self._optimizer = optimizer

    def init(self, consts: Any = None) -> ModuleCarry:
        """Return the initial carry: the module's own parameters, and copies of its buffers.

        Args:
            consts: Passed to ``optimizer`` if it is a function.
        """
        module = self._functional.module
        params: dict[str, torch.Tensor] = {
            name: param for name, param in module.named_parameters() if param.requires_grad
        }
        # Clones: using the module before the backward pass writes into its own buffers.
        buffers = {name: buffer.clone() for name, buffer in module.named_buffers()}
        return ModuleCarry(params, buffers, self._transformation(consts).init(params))

    def __call__(self, carry: ModuleCarry, x: Any, consts: Any) -> tuple[ModuleCarry, torch.Tensor]:
        """Take one step; return the next carry and the loss."""
        gradients, (loss, buffers) = grad_and_value(self._loss, has_aux=True)(
            carry.params, carry.buffers, x, consts
        )
        updates, state = self._transformation(consts).update(
            gradients, carry.state, params=carry.params, inplace=False
        )
        return ModuleCarry(
            apply_updates(carry.params, updates, inplace=False), buffers, state
        ), loss

    def write(self, carry: ModuleCarry) -> None:
        """Put the parameters of ``carry``, with their graph, and its buffers into the module."""
        slots = parameter_slots(self._functional.module)
        shared = {id(slot.read()): name for name, slot in slots.items() if name in carry.params}
        for slot in slots.values():
            name = shared.get(id(slot.read()))
            if name is not None:
                slot.write(carry.params[name])
        with torch.no_grad():
            for name, buffer in self._functional.module.named_buffers():
                buffer.copy_(carry.buffers[name])

    def _transformation(self, consts: Any) -> GradientTransformation:
        if isinstance(self._optimizer, GradientTransformation):
            return self._optimizer
        return self._optimizer(consts)

    def _loss(
        self,
        params: dict[str, torch.Tensor],
        buffers: dict[str, torch.Tensor],
        x: Any,
        consts: Any,
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        # Modules write into their buffers; the buffers of the carry must not change.
        buffers = {name: buffer.detach().clone() for name, buffer in buffers.items()}
        tensors = {f'module.{name}': tensor for name, tensor in {**params, **buffers}.items()}
        result: tuple[torch.Tensor, dict[str, torch.Tensor]] = torch.func.functional_call(
            self._functional, tensors, (x, consts)
        )
        return result


class _LossModule(nn.Module):
    """A function of a module, as a module whose tensors ``functional_call`` can replace."""

    def __init__(self, module: nn.Module, fn: Callable[[Any, Any, Any], torch.Tensor]) -> None:
        super().__init__()
        self.module = module
        self._fn = fn

    def forward(self, x: Any, consts: Any) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        loss = self._fn(self.module, x, consts)
        # Read afterwards, because some modules assign new buffers instead of writing into them.
        return loss, dict(self.module.named_buffers())
