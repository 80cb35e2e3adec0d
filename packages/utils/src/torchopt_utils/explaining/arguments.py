"""The arguments of ``explain``, checked."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from torchopt import pytree
from torchopt.authoring.describe import describe
from torchopt.authoring.shards import placement_of
from torchopt.authoring.torch_internals import is_transformed, transforming


def named_tensors(wrt: Any) -> dict[str, torch.Tensor]:
    """Return the tensors of ``wrt`` by name; the only tensor is called ``'wrt'``."""
    if isinstance(wrt, nn.Module):
        found: dict[str, Any] = dict(wrt.named_parameters())
    else:
        paths, leaves, _ = pytree.tree_flatten_with_path(wrt)
        names = ['.'.join(map(str, path)) or 'wrt' for path in paths]
        found = dict(zip(names, leaves))
    for name, leaf in found.items():
        if not isinstance(leaf, torch.Tensor):
            raise TypeError(
                f'wrt must be a tensor, a tree of tensors or a module, got {describe(leaf)}'
                + ('' if name == 'wrt' else f' at {name!r}')
            )
    if not found:
        raise TypeError('wrt has no tensor')
    return found


def require_scalar(loss: Any) -> None:
    """Raise unless ``loss`` is a real scalar whose graph is whole."""
    if not isinstance(loss, torch.Tensor):
        raise TypeError(f'loss must be a tensor, got {describe(loss)}')
    if torch.compiler.is_compiling() or transforming() or is_transformed(loss):
        raise RuntimeError(
            'torchopt.explain reads the graph of torch.autograd, which does not exist inside of '
            'torch.func.grad, vmap and torch.compile: run the same function outside of them, on '
            'tensors that require grad, and explain the loss that it returns'
        )
    if loss.numel() != 1:
        raise ValueError(
            f'loss must be a scalar, got shape {tuple(loss.shape)}: take its mean or sum'
        )
    if loss.is_complex():
        raise ValueError('loss must be real: take its real part or its absolute value')


def require_plain(name: str, tensor: torch.Tensor) -> None:
    """Raise if ``tensor`` is spread over ranks."""
    if placement_of(tensor) is not None:
        raise NotImplementedError(
            f'{name} is a DTensor, of which each rank has a part: explain a run in one process'
        )
