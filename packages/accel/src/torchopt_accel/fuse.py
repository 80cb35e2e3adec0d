"""``fuse``, through which core gets the accelerated transformation."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import torch

from torchopt.base import FusedTransformation, GradientTransformation
from torchopt.typing import OptState, Params, TreeT
from torchopt_accel.choice import rule_is_faster
from torchopt_accel.in_place import InPlace
from torchopt_accel.roles import Mismatch
from torchopt_accel.specs import spec_of
from torchopt_accel.step import read_step


def fuse(
    name: str, composite: GradientTransformation, arguments: Mapping[str, Any]
) -> GradientTransformation:
    """Return the transformation that computes ``composite`` with fused kernels.

    Its states are the states of ``composite``. The step of a plain optimizer is one kernel, too,
    which writes the parameters. ``composite`` does what no kernel does:

    - ``amsgrad``, a ``mask``, hyperparameters other than ``lr`` that are tensors, a tree of
      learning rates unless only ``init`` uses it, as Rprop's;
    - numbers of leaves that require grad, such as NAdam's products of momenta: kernels take them
      as constants;
    - leaves of a dtype other than float32, float64, bfloat16 and float16, on a device other than
      the CPU and CUDA, of a subclass of Tensor, or sparse;
    - DTensors, unless gradient, states and parameter of each leaf are placed alike, none of them
      is a partial sum, and the learning rate requires no grad: kernels then run on each rank's
      part;
    - whatever ``torch.compile`` traces, since its compiler fuses the rule itself;
    - arguments that do not fit together, so that the error is the same;
    - a differentiable step of sgd over few small tensors on the CPU, for which the rule takes less
      time, as it is one or two operations per tensor: fewer than 12 tensors without weight decay
      and momentum, or one with either, and fewer than 2 ** 20 elements in all.

    In place, tensors that have gaps or other strides than the rest of their leaf, share memory, or
    carry a graph or a tangent are written by core, from what the kernels return.

    Args:
        name: Name of the optimizer's function.
        composite: The transformation that this function made.
        arguments: All arguments of the function, by name, except ``use_accelerated_op``.
    """
    spec = spec_of(name, arguments)
    if spec is None:
        return composite

    def update(
        updates: TreeT,
        state: OptState,
        *,
        params: Params | None = None,
        inplace: bool = True,
    ) -> tuple[TreeT, OptState]:
        found = None
        if not torch.compiler.is_compiling() and (
            inplace or spec.least == 1 or not rule_is_faster(spec.least, updates)
        ):
            found = read_step(spec, updates, state, params)
        if found is not None:
            try:
                return found.update(inplace)
            except Mismatch:
                pass
        return composite.update(updates, state, params=params, inplace=inplace)

    def functional(updates: Any, state: OptState, params: Params | None) -> tuple[Any, OptState]:
        return update(updates, state, params=params, inplace=False)

    update.functional = functional  # type: ignore[attr-defined]
    return FusedTransformation(composite.init, update, functools.partial(InPlace, spec))
