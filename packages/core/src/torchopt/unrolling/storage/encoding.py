"""Leaves of a tree as values that ``torch.load`` reads with ``weights_only=True``."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import torch

from torchopt.authoring.describe import describe
from torchopt.unrolling.context.attributes import AttributeChanges, Mark
from torchopt.unrolling.context.random_state import RandomState
from torchopt.unrolling.leaves import Leaves
from torchopt.unrolling.storage.parts import Recipe, take_apart

_PLAIN_VALUES = (bool, int, float, str, type(None))


class Form(NamedTuple):
    """What a leaf is like, beside its value.

    Attributes:
        value: The leaf itself, unless it is a tensor.
        recipe: How plain tensors make up a tensor; None for other leaves.
        devices: Where these are.
    """

    value: Any
    recipe: Recipe | None = None
    devices: tuple[torch.device, ...] = ()

    @classmethod
    def of(cls, leaf: Any) -> Form:
        """Return the form of ``leaf``."""
        if not isinstance(leaf, torch.Tensor):
            return cls(leaf)
        plain, recipe = take_apart(leaf)
        return cls(None, recipe, tuple(part.device for part in plain))


def encode(leaves: Iterable[Any], forms: list[Form]) -> list[Any]:
    """Return ``leaves`` as values to save; :func:`decode` is the inverse.

    A tensor becomes the list of the plain tensors in it, each on the CPU, and without the rest of
    the memory that it may be a view of. A value of a type that ``torch.load`` does not take for
    granted must be the one in ``forms``, and becomes an empty dictionary.

    Args:
        leaves: The leaves.
        forms: Their forms when the loop began.

    Raises:
        TypeError: a leaf can't be saved.
    """
    compacted: dict[Any, Any] = {}
    return [_encoded(leaf, form, compacted) for leaf, form in zip(leaves, forms)]


def _encoded(leaf: Any, form: Form, compacted: dict[Any, Any]) -> Any:
    if isinstance(leaf, torch.Tensor):
        plain, recipe = take_apart(leaf)
        if recipe != form.recipe:
            raise TypeError(
                f'{describe(leaf)}, a {type(leaf).__name__}, is made up in another way than when '
                'the loop began, such as with other placements, and Disk cannot keep it: let the '
                "step return every leaf of the carry placed as it came, or use storage='cpu'"
            )
        return [_compact_once(part, compacted) for part in plain]
    if type(leaf) in _PLAIN_VALUES:
        return leaf
    if type(leaf) is bytes:
        return {'bytes': leaf.hex()}
    if leaf is form.value or (type(leaf) is type(form.value) and leaf == form.value):
        return {}
    raise TypeError(
        f'a leaf of the carry changes to {describe(leaf)}, which Disk cannot keep: use a tensor, '
        "a number or a string, or storage='cpu'"
    )


def decode(values: Iterable[Any], forms: Iterable[Form]) -> Leaves:
    """Return the leaves that :func:`encode` was given, with tensors where ``forms`` say."""
    return [_decoded(value, form) for value, form in zip(values, forms)]


def _decoded(value: Any, form: Form) -> Any:
    if isinstance(value, dict):
        return bytes.fromhex(value['bytes']) if value else form.value
    if not isinstance(value, list):
        return value
    assert form.recipe is not None
    parts = [_expanded(part, device) for part, device in zip(value, form.devices)]
    return form.recipe.build(iter(parts))


def _compact_once(tensor: torch.Tensor, compacted: dict[Any, Any]) -> Any:
    """Compact ``tensor``, or return what the same tensor gave before."""
    if tensor.layout is not torch.strided or tensor.numel() == 0:
        return tensor.detach().to('cpu', copy=True)
    own = (tensor.data_ptr(), tensor.device, tensor.dtype, tensor.shape, tensor.stride())
    lazy = (tensor.is_conj(), tensor.is_neg())
    key = (*own, *lazy)
    if key not in compacted:
        compacted[key] = _compact(tensor.detach().resolve_conj().resolve_neg())
    return compacted[key]


def _compact(tensor: torch.Tensor) -> Any:
    """Return a tensor on the CPU in memory of its own size, with the strides of ``tensor``.

    If such memory has gaps, or several elements in one place, the result is a dictionary of the
    elements and the strides. Results of a step can depend on strides in their last bits.
    """
    distinct = tensor
    for dim, stride in enumerate(tensor.stride()):
        if stride == 0:
            distinct = distinct.narrow(dim, 0, min(1, tensor.shape[dim]))
    is_dense = distinct.stride() == torch.empty_like(distinct, device='meta').stride()
    if is_dense and distinct.shape == tensor.shape:
        host = distinct.to('cpu')  # keeps the strides of what has no gaps
        is_whole = host.untyped_storage().nbytes() == host.numel() * host.element_size()
        return host if is_whole else host.clone()
    is_simple = _is_without_overlap(distinct.shape, tensor.stride())
    return {
        'elements': distinct.to('cpu').clone(memory_format=torch.contiguous_format),
        'size': list(tensor.shape),
        'stride': list(tensor.stride()) if is_simple else None,
    }


def _expanded(value: Any, device: torch.device) -> torch.Tensor:
    if isinstance(value, torch.Tensor):
        return value.to(device)
    elements: torch.Tensor = value['elements'].to(device)
    if value['stride'] is not None:
        gapped = elements.new_empty_strided(elements.shape, value['stride'])
        elements = gapped.copy_(elements)
    return elements.expand(value['size'])


def _is_without_overlap(shape: Iterable[int], strides: Iterable[int]) -> bool:
    extent = 1
    for stride, size in sorted(zip(strides, shape)):
        if size > 1:
            if stride < extent:
                return False
            extent += (size - 1) * stride
    return True


def encode_random(state: RandomState) -> dict[str, Any]:
    """Return a state of the generators as values to save."""
    return state._asdict()


def decode_random(values: dict[str, Any]) -> RandomState:
    """Return the state of the generators that was saved."""
    return RandomState(**values)


def encode_attributes(changes: AttributeChanges) -> dict[int, Any]:
    """Return changes of attributes as values to save.

    Raises:
        TypeError: a value can't be saved.
    """
    return {
        position: (list(numbers), [_encoded_attribute(value) for value in values])
        for position, (numbers, values) in changes.items()
    }


def _encoded_attribute(value: Any) -> Any:
    if isinstance(value, Mark):
        return {'mark': value.name}
    if not _is_plain(value):
        raise TypeError(
            'an attribute of a module that the step of unroll uses changes from step to step to '
            f"{describe(value)}, which Disk cannot keep: use numbers or strings, or storage='cpu'"
        )
    return value


def _is_plain(value: Any) -> bool:
    if type(value) is tuple:
        return all(map(_is_plain, value))
    return type(value) in (*_PLAIN_VALUES, torch.dtype, torch.device, torch.Size)


def decode_attributes(values: dict[int, Any]) -> AttributeChanges:
    """Return the changes of attributes that were saved."""
    return {
        position: (
            list(numbers),
            [Mark[value['mark']] if isinstance(value, dict) else value for value in found],
        )
        for position, (numbers, found) in values.items()
    }
