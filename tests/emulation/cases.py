"""The problems that are solved twice: what they are, and how they are drawn."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch

DIRECTIONS = ('forward', 'apply', 'backward')
# Around the borders of warps, blocks and chunks (8192 elements); some tensors take many chunks.
LISTS: tuple[tuple[int, ...], ...] = (
    (),
    (0,),
    (1,),
    (3, 0, 255),
    (0, 256, 0, 1, 8191),
    (8192, 8193),
    (30001,),
    (8193, 1, 0, 30001, 255, 3),
)
# More tensors than the arguments of a launch hold.
LONG = tuple(0 if i % 5 == 0 else 8193 if i % 300 == 7 else 1 + i % 3 for i in range(900))
# More learning rates than the arguments of a launch hold.
LONGER = (1,) * 4100


@dataclass(frozen=True)
class Case:
    """One problem, and the GPU that it runs on.

    Attributes:
        rule: Name of the rule.
        dtype: Dtype of all tensors.
        direction: One of ``DIRECTIONS``.
        sizes: Numbers of elements.
        seed: Seed of all numbers, and of the order of threads.
        unaligned: Let some tensors begin between the borders of 16 bytes.
        absent_roles: Leave out some inputs and outputs for all tensors.
        absent_tensors: Leave out some inputs and outputs for single tensors.
        special: Let values be infinite, not a number, huge, subnormal or a zero of either sign.
        lr: ``'number'``, or a tensor with ``'one'`` entry or one for ``'each'`` tensor.
        lr_grad: Compute the cotangent of the learning rate.
        steps: Give step counts.
        numbers: Give one number per tensor.
        inplace: Write over the inputs.
        processors: How many multiprocessors the GPU has.
        blocks_per_processor: How many blocks run there at once.
    """

    rule: str
    dtype: torch.dtype
    direction: str
    sizes: tuple[int, ...]
    seed: int
    unaligned: bool
    absent_roles: bool
    absent_tensors: bool
    special: bool
    lr: str
    lr_grad: bool
    steps: bool
    numbers: bool
    inplace: bool
    processors: int
    blocks_per_processor: int


def draw(rule: str, dtype: torch.dtype, direction: str, sizes: tuple[int, ...], seed: int) -> Case:
    """Return a random case."""
    at_random = random.Random(f'{rule} {dtype} {direction} {len(sizes)} {seed}')

    def chance(probability: float) -> bool:
        return at_random.random() < probability

    lr = at_random.choice(('number', 'one', 'each'))
    backward = direction == 'backward'
    return Case(
        rule,
        dtype,
        direction,
        sizes,
        seed=at_random.getrandbits(32),
        unaligned=chance(1 / 2),
        absent_roles=chance(1 / 2),
        absent_tensors=chance(1 / 3),
        special=chance(1 / 3),
        lr=lr,
        lr_grad=backward and lr != 'number' and chance(3 / 4),
        steps=chance(2 / 3),
        numbers=chance(2 / 3),
        inplace=not backward and chance(1 / 2),
        # Few blocks for many chunks, or one for each chunk.
        processors=at_random.randint(1, 3),
        blocks_per_processor=1 if chance(3 / 4) else 50,
    )


def every_case(
    rules: Sequence[str], dtypes: Sequence[torch.dtype], variants: int
) -> Iterator[Case]:
    """Yield all rules, dtypes, directions and lists of sizes, each ``variants`` times.

    Long lists come once. Only a step that has parameters can be applied.
    """
    for rule in rules:
        for dtype in dtypes:
            for direction in DIRECTIONS:
                for sizes in LISTS[direction == 'apply' :]:
                    for seed in range(variants):
                        yield draw(rule, dtype, direction, sizes, seed)
                yield _long(rule, dtype, direction, LONG)
    yield _long(rules[0], dtypes[0], 'backward', LONGER)


def _long(rule: str, dtype: torch.dtype, direction: str, sizes: tuple[int, ...]) -> Case:
    """Return a case whose learning rates tell the launches apart."""
    case = draw(rule, dtype, direction, sizes, 0)
    backward = direction == 'backward'
    return replace(case, lr='each', lr_grad=backward, special=False, absent_roles=False)
