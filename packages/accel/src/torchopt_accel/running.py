"""What the operators do: check what they were given, run a kernel, return what it wrote."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from torchopt_accel import kernels
from torchopt_accel.internals import increment_versions
from torchopt_accel.kernels import StepArgs, compute, overlap
from torchopt_accel.reading import read, require_as_many
from torchopt_accel.roles import Mismatch, join, split
from torchopt_accel.scalars import Maybe

Commit = Callable[[], None]


def forward(rule: str, args: StepArgs) -> list[torch.Tensor]:
    """Return updates and new states, as one flat list.

    Raises:
        ValueError: the tensors do not fit together.
    """
    if not args.grads:
        return []
    found = read(args)
    return compute(rule, found.layout, found.args, found.addresses, [True] * (1 + len(args.states)))


def backward(
    rule: str, args: StepArgs, cotangents: Sequence[Maybe], wanted: Sequence[bool]
) -> list[torch.Tensor]:
    """Return the cotangents of the roles that ``wanted`` names, as one flat list.

    Raises:
        ValueError: the tensors do not fit together, or ``lr`` is wanted but not given.
    """
    if not args.grads:
        return []
    received = split(cotangents, 1 + len(args.states))
    require_as_many(args.grads, received)
    # A role without cotangents counts as zeros; the kernel need not look at its leaves.
    received = [role if any([x is not None for x in role]) else [] for role in received]
    found = read(args, *received)
    *roles, want_lr = wanted
    lr_grad = None
    if want_lr:
        if found.args.lr is None:
            raise ValueError('the cotangent of lr is wanted, but lr is not given')
        lr_grad = torch.zeros_like(found.args.lr)
    taken = len(found.addresses) - len(received)
    inputs = [*found.addresses[taken:], *found.addresses[:taken]]
    results = compute(rule, found.layout, found.args, inputs, roles, backward=True, lr_grad=lr_grad)
    if lr_grad is not None and args.lr is not None:
        results.append(lr_grad.to(args.lr.device, args.lr.dtype))
    return results


def prepare(rule: str, args: StepArgs, *, apply: bool) -> Commit:
    """Validate a step in place; return the closure that launches it.

    Raises:
        ValueError: the tensors do not fit together, or can't be written where they lie.
    """
    if not args.grads:
        return lambda: None
    if apply and not args.params:
        raise Mismatch('only a step with params can be applied')
    found = read(args, apply=apply)
    target, other = (1, 0) if apply else (0, 1)
    given = (args.grads, args.params, *args.states)
    if any([found.roles[role] is not given[role] for role in range(len(given)) if role != other]):
        raise Mismatch(
            'only dense tensors of one layout, not negative views, can be written in place'
        )
    written = join(role for number, role in enumerate(given) if number != other)
    outputs = [found.addresses[target], *found.addresses[2:]]
    if overlap(found.layout, [*outputs, *([found.addresses[other]] if given[other] else [])]):
        raise Mismatch('tensors that share memory cannot be written in place')

    def commit() -> None:
        increment_versions(written)
        kernels.launch(rule, found.layout, found.args, found.addresses, outputs, apply=apply)

    return commit
