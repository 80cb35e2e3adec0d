"""How errors name what is run again, and the ways out that they offer."""

from __future__ import annotations

from typing import NamedTuple


class Wording(NamedTuple):
    """The words that depend on what is run again.

    Attributes:
        place: What is run again.
        through: How it can be given a tensor.
        otherwise: What to do instead.
    """

    place: str
    through: str
    otherwise: str


STEP = Wording('the step of unroll', 'through consts', 'use backward=Stored()')
