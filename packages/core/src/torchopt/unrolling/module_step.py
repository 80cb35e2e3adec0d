"""The bridge from modules: an inner loop given as a function of a module."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import nn

from torchopt.authoring.module_slots import parameter_slots
from torchopt.base import GradientTransformation
from torchopt.typing import OptState
from torchopt.unrolling.inner_gradient import grad_and_value
from torchopt.update import apply_updates


class ModuleCarry(NamedTuple):
    """What an inner loop over a module changes.

    Attributes:
        params: The module's parameters that are trained, by name.
        buffers: Its buffers, by name. They carry no derivative from step to step, as they do not
            where a module is trained as it is: averages over batches are taken without a graph.
        state: State of the optimizer.
    """

    params: dict[str, torch.Tensor]
    buffers: dict[str, torch.Tensor]
    state: OptState


class ModuleStep:
    """A step for :func:`torchopt.unroll` from a module, an optimizer and a loss.

    The loss is written as for ``MetaOptimizer``, with the module as it is::

        inner = torchopt.unrolling.ModuleStep(net, torchopt.adam(1e-3), loss)
        carry, losses = torchopt.unroll(inner, inner.init(), batches, weights, backward=...)
        inner.write(carry)
        criterion(net(x_val), y_val).backward()

    Args:
        module: Its parameters that require grad are trained; its buffers change as they do in
            training. It is not changed itself before :meth:`write`.
        optimizer: A gradient transformation, such as ``torchopt.adam()``. One whose
            hyperparameters require grad is made in the step, from consts: give a function
            ``optimizer(consts)`` that returns it.
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
        self._call = _Call(module, loss)
        self._optimizer = optimizer

    def init(self, consts: Any = None) -> ModuleCarry:
        """Return the initial carry: the module's own parameters, and copies of its buffers.

        Args:
            consts: Given to ``optimizer`` if that is a function.
        """
        module = self._call.module
        params: dict[str, torch.Tensor] = {
            name: param for name, param in module.named_parameters() if param.requires_grad
        }
        # The module writes into its buffers when it is used before the backward pass.
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
        """Put the parameters of ``carry``, with their history, and its buffers into the module."""
        slots = parameter_slots(self._call.module)
        shared = {id(slot.read()): name for name, slot in slots.items() if name in carry.params}
        for slot in slots.values():
            name = shared.get(id(slot.read()))
            if name is not None:
                slot.write(carry.params[name])
        with torch.no_grad():
            for name, buffer in self._call.module.named_buffers():
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
        # Modules write into their buffers; clones keep those of the carry as they were.
        buffers = {name: buffer.detach().clone() for name, buffer in buffers.items()}
        tensors = {f'module.{name}': tensor for name, tensor in {**params, **buffers}.items()}
        result: tuple[torch.Tensor, dict[str, torch.Tensor]] = torch.func.functional_call(
            self._call, tensors, (x, consts)
        )
        return result


class _Call(nn.Module):
    """A function of a module as a module, whose tensors ``functional_call`` can replace."""

    def __init__(self, module: nn.Module, fn: Callable[[Any, Any, Any], torch.Tensor]) -> None:
        super().__init__()
        self.module = module
        self._fn = fn

    def forward(self, x: Any, consts: Any) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        loss = self._fn(self.module, x, consts)
        # Looked up afterwards: some modules do not write into buffers but assign them anew.
        return loss, dict(self.module.named_buffers())
