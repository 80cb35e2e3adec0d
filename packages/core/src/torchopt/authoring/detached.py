"""Notes on leaves that were cut off a graph, for tools that explain a missing gradient.

A tensor that was detached looks like any other leaf. Who detaches it for a user says so here. A
note ends with its tensor, and holds a string and a number alone.
"""

from __future__ import annotations

import weakref
from typing import NamedTuple

import torch

from torchopt.authoring.step_marks import next_number


class Detached(NamedTuple):
    """How a leaf came to be one.

    Attributes:
        by: ``'stop_gradient'`` or ``'deepcopy'``.
        held_by: What held it: ``'module'``, ``'optimizer'``, ``'state'`` or ``'tree'``.
        number: Larger than the numbers of all steps before, see
            :class:`~torchopt.authoring.step_marks.Step`.
    """

    by: str
    held_by: str
    number: int


# By id, because the keys of a weak dictionary are compared, which tensors do elementwise.
_notes: dict[int, tuple[weakref.ref[torch.Tensor], Detached]] = {}


def note_detached(tensor: torch.Tensor, by: str, held_by: str) -> None:
    """Note that ``tensor`` was cut off the graph that computed it, or is such a copy."""
    if not tensor.requires_grad or torch.compiler.is_compiling():
        return
    key = id(tensor)

    def forget(reference: weakref.ref[torch.Tensor]) -> None:
        if key in _notes and _notes[key][0] is reference:
            del _notes[key]

    _notes[key] = weakref.ref(tensor, forget), Detached(by, held_by, next_number())


def detached_by(tensor: torch.Tensor) -> Detached | None:
    """Return the note on ``tensor``, if it is a leaf and has one."""
    reference, note = _notes.get(id(tensor), (None, None))
    known = reference is not None and reference() is tensor and tensor.is_leaf
    return note if known else None
