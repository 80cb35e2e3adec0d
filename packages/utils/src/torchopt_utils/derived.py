"""Tensors that a layer computes from its parameters and keeps as plain attributes.

Old-style weight normalisation, old-style spectral normalisation and pruning replace a parameter
``weight`` by parameters such as ``weight_orig``, or ``weight_g`` and ``weight_v``. A hook computes
the attribute ``weight`` from them before each call of the layer.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from torch.nn.utils.prune import BasePruningMethod
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm


def derived_tensors(module: nn.Module) -> Iterator[tuple[nn.Module, str, torch.Tensor]]:
    """Yield submodule, name and value of each tensor that is computed from parameters.

    They are told by their names: a parameter continues the name of the attribute, as in ``weight``
    and ``weight_orig``. Other attributes may carry a graph that the caller still needs, such as a
    temperature computed from a meta-parameter.
    """
    for submodule in module.modules():
        for name, value in list(vars(submodule).items()):
            if isinstance(value, torch.Tensor) and any(
                parameter.startswith(f'{name}_') for parameter in submodule._parameters
            ):
                yield submodule, name, value


def refresh_derived(module: nn.Module) -> None:
    """Compute the attributes again that torch's own hooks derive from parameters.

    Without this, code that reads such an attribute before the next call of its layer would see the
    weights of an earlier call. Buffers stay as they are.
    """
    with torch.enable_grad():
        for submodule in module.modules():
            for hook in submodule._forward_pre_hooks.values():
                if isinstance(hook, (WeightNorm, SpectralNorm, BasePruningMethod)):
                    _refresh(submodule, hook)


def _refresh(module: nn.Module, hook: Any) -> None:
    held = [*module._parameters.values(), *module._buffers.values()]
    if len({tensor.device for tensor in held if tensor is not None}) > 1:
        return  # Parameters were moved without the buffers. The next call of the layer says so.
    if isinstance(hook, SpectralNorm):
        setattr(module, hook.name, hook.compute_weight(module, do_power_iteration=False))
    else:
        hook(module, None)
