"""Inner loops over modules: a step made from a module, an optimizer and a loss."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import nn

from torchopt.authoring.describe import describe
from torchopt.authoring.module_slots import parameter_slots
from torchopt.authoring.state import saveable
from torchopt.authoring.wrappers import require_no_wrapper
from torchopt.base import GradientTransformation
from torchopt.typing import OptState
from torchopt.unrolling.context.graph import leaves_of_graph
from torchopt.unrolling.context.reachable import captured_state
from torchopt.unrolling.functional_loss import FunctionalLoss
from torchopt.unrolling.inner_gradients.grad import (
    grad_and_value,
    grad_and_value_of_part,
    total_over_parts,
)
from torchopt.unrolling.inner_gradients.parts import add_part, parts_of, require_number_of_parts
from torchopt.update import step_to


@saveable
class ModuleCarry(NamedTuple):
    """What an inner loop over a module changes.

    Attributes:
        params: The module's trained parameters, by name.
        buffers: The module's buffers, by name. They carry no derivative from step to step, as in
            ordinary training, where running averages are taken without a graph. A buffer that
            requires grad itself carries one.
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

    A parameter that the loss does not use keeps its value and its state, as with ``MetaOptimizer``.

    Args:
        module: Its parameters that require grad are trained, and its buffers change as in
            training. The module itself stays as it is until :meth:`write`.
        optimizer: A gradient transformation, such as ``torchopt.adam()``. If its hyperparameters
            require grad, the step must make it from consts: give a function ``optimizer(consts)``
            that returns the transformation.
        loss: ``loss(module, x, consts)`` returns a scalar, which is also the step's ``y``.
        micro_batches: Number of equal parts, at least 1, into which the tensors of ``x`` are split
            along their first dimension. Gradient and ``y`` are the means over the parts, which is
            the whole batch's, up to rounding, if the loss is a mean over examples that do not see
            each other. ``Recomputed``, ``Snapshots`` and ``Truncated`` over them then hold the
            graph of one part at a time; a graph that is kept, compiled or made under ``torch.vmap``
            holds all. Buffers go from part to part, as in gradient accumulation. Every part has
            ``consts``, and the 0-dim tensors and other values of ``x``.

    Raises:
        ValueError: no parameter of ``module`` requires grad, or ``micro_batches`` is less than 1;
            or, when the step is called, ``x`` cannot be split.
        TypeError: ``optimizer`` is neither a transformation nor a function, or ``micro_batches``
            is not an integer; or, when the step is called, the loss is not a scalar tensor.
        RuntimeError: ``fully_shard`` or DDP has wrapped a part of ``module``; when the step is
            called, the loss depends on no trained parameter; or the first call of the step is
            traced by ``torch.compile``.
    """

    def __init__(
        self,
        module: nn.Module,
        optimizer: GradientTransformation | Callable[[Any], GradientTransformation],
        loss: Callable[[Any, Any, Any], torch.Tensor],
        *,
        micro_batches: int = 1,
    ) -> None:
        require_number_of_parts(micro_batches)
        if not any(param.requires_grad for param in module.parameters()):
            raise ValueError('no parameter of the module requires grad: there is nothing to train')
        if not isinstance(optimizer, GradientTransformation) and not callable(optimizer):
            raise TypeError(
                'optimizer must be a gradient transformation such as torchopt.adam(1e-3), or a '
                f'function of consts that returns one, got {type(optimizer).__name__}'
            )
        require_no_wrapper(module, 'ModuleStep')
        self._functional = FunctionalLoss(module, loss)
        self._optimizer = optimizer
        self._micro_batches = micro_batches
        self._seen: list[nn.Module] | None = None

    def __repr__(self) -> str:
        module = type(self._functional.module).__name__
        optimizer = (
            repr(self._optimizer)
            if isinstance(self._optimizer, GradientTransformation)
            else _name_of(self._optimizer)
        )
        options = '' if self._micro_batches == 1 else f', micro_batches={self._micro_batches}'
        return f'ModuleStep({module}, {optimizer}, {_name_of(self._functional.fn)}{options})'

    def init(self, consts: Any = None) -> ModuleCarry:
        """Return the initial carry: the module's own parameters, and copies of its buffers.

        Args:
            consts: Passed to ``optimizer`` if it is a function.
        """
        self._functional.read_names()
        self._seen = None
        module = self._functional.module
        params: dict[str, torch.Tensor] = {
            name: param for name, param in module.named_parameters() if param.requires_grad
        }
        # Clones: using the module before the backward pass writes into its own buffers.
        buffers = {name: buffer.clone() for name, buffer in module.named_buffers()}
        return ModuleCarry(params, buffers, self._transformation(consts).init(params))

    def __call__(self, carry: ModuleCarry, x: Any, consts: Any) -> tuple[ModuleCarry, torch.Tensor]:
        """Take one step; return the next carry and the loss."""
        gradients, loss, buffers = self._gradients(carry, x, consts)
        updates, state = self._transformation(consts).update(
            gradients, carry.state, params=carry.params, inplace=False
        )
        params = step_to(carry.params, updates, 'ModuleStep', state=state)
        return ModuleCarry(params, buffers, state), loss

    def write(self, carry: ModuleCarry) -> None:
        """Put the parameters of ``carry``, with their graph, and its buffers into the module."""
        slots = parameter_slots(self._functional.module)
        shared = {id(slot.read()): name for name, slot in slots.items() if name in carry.params}
        for slot in slots.values():
            name = shared.get(id(slot.read()))
            if name is not None:
                slot.write(carry.params[name])
        self._write_buffers(carry.buffers)

    def _write_buffers(self, buffers: dict[str, torch.Tensor]) -> None:
        module = self._functional.module
        differentiable = {
            id(module.get_buffer(name)): buffers[name] for name in self._functional.differentiable
        }
        with torch.no_grad():
            for name, buffer in module.named_buffers():
                if id(buffer) not in differentiable:
                    buffer.copy_(buffers[name])
        for owner in module.modules():
            for key, held in owner._buffers.items():
                if id(held) in differentiable:
                    owner._buffers[key] = differentiable[id(held)]

    def _transformation(self, consts: Any) -> GradientTransformation:
        if isinstance(self._optimizer, GradientTransformation):
            return self._optimizer
        return self._optimizer(consts)

    def _gradients(
        self, carry: ModuleCarry, x: Any, consts: Any
    ) -> tuple[dict[str, torch.Tensor | None], torch.Tensor, dict[str, torch.Tensor]]:
        """Return the gradients, None where the loss uses no parameter; the loss; and the buffers.

        Each is the mean over the parts of the batch, but for the buffers, which go from one part to
        the next.
        """
        number = self._micro_batches
        total: dict[str, torch.Tensor] = {}
        losses: dict[str, torch.Tensor] = {}
        if number == 1:
            total, (loss, (buffers, unused)) = grad_and_value(self._loss, has_aux=True)(
                carry.params, carry.buffers, x, consts
            )
        else:
            unused, buffers = dict.fromkeys(carry.params, ()), carry.buffers
            modules = [] if torch.compiler.is_compiling() else self._modules()
            for position, part in enumerate(parts_of(x, number), 1):
                take = grad_and_value_of_part(self._loss, modules, is_last=position == number)
                found, (loss, (buffers, missing)) = take(carry.params, buffers, part, consts)
                unused = {name: () for name in unused if name in missing}
                total = add_part(total, found, number)
                losses = add_part(losses, {'loss': loss}, number)
            total, loss = total_over_parts(total), losses['loss']
        self._note_unused(tuple(unused), len(carry.params))
        gradients = {name: None if name in unused else total[name] for name in total}
        return gradients, loss, buffers

    def _modules(self) -> list[nn.Module]:
        """Return the modules that the loss sees; the search is long, and done once."""
        if self._seen is None:
            found = [part for _, part in captured_state(self._functional)]
            modules = (part.modules() for part in found if isinstance(part, nn.Module))
            self._seen = list(dict.fromkeys(itertools.chain.from_iterable(modules)))
        return self._seen

    def _note_unused(self, unused: tuple[str, ...], number: int) -> None:
        if len(unused) == number:
            raise RuntimeError(
                'the loss depends on no parameter that the step trains: it must use the module '
                'that it is given, with grad mode on'
            )
        # The same object as long as it is the same answer, because changes are recorded.
        if not torch.compiler.is_compiling() and unused != self._functional.unused:
            self._functional.unused = unused

    def _loss(
        self,
        params: dict[str, torch.Tensor],
        buffers: dict[str, torch.Tensor],
        x: Any,
        consts: Any,
    ) -> tuple[torch.Tensor, tuple[dict[str, torch.Tensor], dict[str, tuple[()]]]]:
        # Modules write into their buffers; the buffers of the carry must not change.
        learned = self._functional.differentiable
        buffers = {
            name: buffer.clone() if name in learned else buffer.detach().clone()
            for name, buffer in buffers.items()
        }
        loss, buffers = self._functional.call({**params, **buffers}, x, consts)
        if not isinstance(loss, torch.Tensor) or loss.dim():
            raise TypeError(f'the loss must be a scalar tensor, got {describe(loss)}')
        unused = self._functional.unused or ()
        if torch.compiler.is_compiling():
            if self._functional.unused is None:
                raise RuntimeError(
                    'the first call of a ModuleStep finds out which parameters the loss uses, '
                    'which a traced call cannot: run the step, or unroll, once outside of '
                    'torch.compile'
                )
        # Where the loss is evaluated for another derivative, it tells nothing.
        elif all(param.requires_grad for param in params.values()):
            unused = _unused(loss, params)
        # As keys, because a derivative returns tensors and trees alone, and keeps the tree.
        return loss, (buffers, dict.fromkeys(unused, ()))


def _unused(loss: torch.Tensor, params: dict[str, torch.Tensor]) -> tuple[str, ...]:
    """Return the names of the parameters that ``loss`` does not depend on."""
    missing = {id(param): name for name, param in params.items()}
    if loss.grad_fn is not None:
        by_node = {param.grad_fn: param for param in params.values() if param.grad_fn is not None}
        for leaf in leaves_of_graph([loss.grad_fn], by_node):
            missing.pop(id(leaf), None)
            if not missing:
                break
    elif id(loss) in missing:
        del missing[id(loss)]
    return tuple(missing.values())


def _name_of(fn: Callable[..., Any]) -> str:
    return getattr(fn, '__qualname__', None) or type(fn).__name__
