"""A few elements of a block's results, to notice a second run that gives others."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from torchopt.authoring.torch_internals import transforming
from torchopt.unrolling.leaves import is_differentiable

_MOST_ELEMENTS = 64


class Sample:
    """The ends of the results, where the comparison costs next to nothing: on the CPU."""

    def __init__(self, parts: list[torch.Tensor | None], kinds: list[object]) -> None:
        self._parts = parts
        self._kinds = kinds

    @classmethod
    def of(cls, results: Sequence[torch.Tensor | None]) -> Sample:
        """Take a sample of the first run's results."""
        return cls(list(map(_ends, results)), list(map(_kind, results)))

    def require_same(self, results: Sequence[torch.Tensor | None]) -> None:
        """Raise if ``results``, of a second run, are others, by more than rounding.

        Raises:
            RuntimeError: they are.
        """
        if list(map(_kind, results)) == self._kinds:
            if transforming():
                return
            for expected, result in zip(self._parts, results):
                if expected is None:
                    continue
                found = _ends(result)
                assert found is not None
                if torch.equal(found, expected):
                    continue
                rounding = min(256 * torch.finfo(expected.dtype).eps, 0.05)
                if not torch.allclose(
                    found,
                    expected,
                    rtol=rounding,
                    atol=_largest(expected) * rounding,
                    equal_nan=True,
                ):
                    break
            else:
                return
        raise RuntimeError(
            'a block of remat gives another result when it is run again. It depends on something '
            'beside its arguments that is neither replayed nor watched, such as a variable that '
            'has changed: pass that as an argument'
        )


def _kind(result: torch.Tensor | None) -> object:
    return None if result is None else (result.shape, result.dtype)


def _ends(result: torch.Tensor | None) -> torch.Tensor | None:
    """Return the first and the last row of a tensor, or their first elements."""
    if result is None or not is_differentiable(result) or result.device.type != 'cpu':
        return None
    if not result.numel() or type(result) not in (torch.Tensor, torch.nn.Parameter):
        return None
    first = last = result.detach()
    while first.dim() > 1:
        first, last = first[0], last[-1]
    if first.dim() == 0:
        return first.clone()
    return torch.cat([first[:_MOST_ELEMENTS], last[-_MOST_ELEMENTS:]])


def _largest(sample: torch.Tensor) -> float:
    return torch.nan_to_num(sample).abs().max().item()
