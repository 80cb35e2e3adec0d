"""The compiled kernels: rules, raw pointers, memory for results, launches."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch

from torchopt_accel.internals import from_dlpack
from torchopt_accel.platform import C
from torchopt_accel.scalars import Maybe, Scalars
from torchopt_accel.strides import Strides, empty

# Number of a rule, whether it gets parameters, its hyperparameters, and the positions of counts:
# what all steps of one call have in common. No positions mean that leaf i has the count at i.
OfRule = tuple[int, bool, Sequence[float], Sequence[int]]
# One entry per leaf, or none at all: an input that counts as zeros, an output nobody wants.
Role = Sequence[Any]


class Rule(NamedTuple):
    """What the compiled module says of a rule.

    Attributes:
        number: Its number there.
        states: The number of its states.
        hyper: The names of its hyperparameters, in the order in which the kernel reads them.
    """

    number: int
    states: int
    hyper: tuple[str, ...]


DTYPES = {
    torch.float32: 0,
    torch.float64: 1,
    torch.bfloat16: 2,
    torch.float16: 3,
}
RULES = {name: Rule(number, states, hyper) for number, (name, states, hyper) in enumerate(C.RULES)}


class Layout(NamedTuple):
    """What the tensors of all roles have in common.

    Attributes:
        shapes: Their shapes, by leaf.
        dtype: The dtype of all.
        device: The device of all.
        strides: Their strides, by leaf: see :mod:`torchopt_accel.strides`.
    """

    shapes: list[torch.Size]
    dtype: torch.dtype
    device: torch.device
    strides: Strides

    def sizes(self) -> list[int]:
        """Return the number of elements of each leaf."""
        return [shape.numel() for shape in self.shapes]


class StepArgs(NamedTuple):
    """What every operator, and the kernel behind it, takes.

    Attributes:
        grads: One gradient per leaf.
        params: One parameter per leaf, or none where no weights decay.
        states: One role per state; operators take one flat list.
        steps: Step counts after this step, int64, for the kernels that need them.
        numbers: Numbers before this step, float64, for the kernels that need them.
        positions: Where in ``steps`` and ``numbers`` each leaf has its entries.
        lr: The learning rate if it is a tensor: 0-dim, or one entry per leaf.
        hyper: The numbers that ``RULES`` names for the rule, in that order.
    """

    grads: Role
    params: Role
    states: Sequence[Role]
    steps: Maybe
    numbers: Maybe
    positions: Sequence[int]
    lr: Maybe
    hyper: Sequence[float]


def arranged(rule: str, **numbers: float) -> tuple[float, ...]:
    """Return hyperparameters in the order in which the kernel of ``rule`` reads them.

    Raises:
        TypeError: a hyperparameter is missing, or the rule has none of that name.
    """
    names = RULES[rule].hyper
    missing = [name for name in names if name not in numbers]
    unknown = [name for name in numbers if name not in names]
    if missing or unknown:
        raise TypeError(
            f'the kernel {rule} takes {", ".join(names)}; missing: {", ".join(missing) or "none"}; '
            f'unknown: {", ".join(unknown) or "none"}'
        )
    return tuple(float(numbers[name]) for name in names)


def compute(
    rule: str,
    layout: Layout,
    args: StepArgs,
    inputs: Sequence[list[int]],
    wanted: Sequence[bool],
    *,
    backward: bool = False,
    lr_grad: torch.Tensor | None = None,
) -> list[torch.Tensor]:
    """Run a kernel that writes its results into new tensors; see :func:`launch`.

    Args:
        rule: Name of the rule.
        layout: The layout of all tensors, which have been compared.
        args: The step's scalars, on the device.
        inputs: Addresses of plain tensors, by role in the order of ``csrc/problem.h``; 0 for a
            tensor of zeros.
        wanted: Which results to compute, by role in the order of ``csrc/problem.h``.
        backward: Run the derivative.
        lr_grad: Where the cotangent of ``args.lr`` is added, laid out as ``args.lr``.

    Returns:
        The wanted results, role after role.
    """
    results: list[torch.Tensor] = []
    outputs: list[list[int]] = []
    for want in wanted:
        tensors, addresses = _allocate(layout) if want else ([], [])
        results += tensors
        outputs.append(addresses)
    launch(rule, layout, args, inputs, outputs, backward=backward, lr_grad=lr_grad)
    return results


def launch(
    rule: str,
    layout: Layout,
    args: StepArgs,
    inputs: Sequence[list[int]],
    outputs: Sequence[list[int]],
    *,
    backward: bool = False,
    apply: bool = False,
    lr_grad: torch.Tensor | None = None,
) -> None:
    """Run a kernel on given addresses; the caller keeps their tensors alive.

    Args:
        rule: Name of the rule.
        layout: The layout of all tensors, which have been compared.
        args: The step's scalars, on the device.
        inputs: Addresses of plain tensors, by role in the order of ``csrc/problem.h``; 0 for a
            tensor of zeros.
        outputs: Addresses of plain tensors, by role in the order of ``csrc/problem.h``.
        backward: Run the derivative.
        apply: Write the new parameters in place of the updates.
        lr_grad: Where the cotangent of ``args.lr`` is added, laid out as ``args.lr``.
    """
    sizes, lr = layout.sizes(), args.lr
    problem = C.Problem(
        RULES[rule].number,
        DTYPES[layout.dtype],
        backward,
        apply,
        sizes,
        inputs,
        outputs,
        args.hyper,
        address(args.steps),
        address(args.numbers),
        args.positions,
        address(lr),
        stride_of(lr),
        address(lr_grad),
    )
    scratch = None
    if lr_grad is not None and layout.device.type == 'cuda':
        scratch = torch.empty(C.cuda_scratch(sizes), dtype=torch.float64, device=layout.device)
    _run(problem, layout.device, scratch)


def address(tensor: Maybe) -> int:
    """Return where a tensor begins; 0 if there is none."""
    return 0 if tensor is None else tensor.data_ptr()


def stride_of(lr: Maybe) -> int:
    """Return how far apart the learning rates of two leaves are: 0 if they share one."""
    return 0 if lr is None else lr.dim()


def launch_in_place(rule: str, problem: Any, device: torch.device) -> None:
    """Run a kernel of ``rule`` on a problem that has been read (``C.InPlace``)."""
    _run(problem, device)


def _run(problem: Any, device: torch.device, scratch: Maybe = None) -> None:
    if device.type == 'cpu':
        C.run_on_cpu(problem, torch.get_num_threads())
        return
    with torch.cuda.device(device):
        stream = torch.cuda.current_stream(device).cuda_stream
        C.run_on_cuda(problem, device.index, stream, 0 if scratch is None else scratch.data_ptr())


def forward_at_once(
    rule: OfRule, scalars: Scalars, tensors: Sequence[torch.Tensor]
) -> tuple[torch.Tensor, ...] | None:
    """Read tensors and run the forward kernel, in one call.

    Args:
        rule: What the step has in common with others.
        scalars: The step's scalars.
        tensors: The flat list of tensors.

    Returns:
        Updates and new states, role after role. None unless ``C.takes`` takes the tensors, and
        the scalars go with them: then they have to be looked at one by one.
    """
    lr, steps, numbers = scalars
    if lr is not None:
        lr = lr.double()
    found: Any = C.forward_at_once(
        *rule, steps, numbers, lr, tuple(tensors), torch.get_num_threads()
    )
    results: tuple[torch.Tensor, ...] | None = found
    return results


def backward_at_once(
    rule: OfRule,
    scalars: Scalars,
    cotangents: tuple[Maybe, ...],
    tensors: tuple[torch.Tensor, ...],
    wanted: tuple[bool, ...],
    lr_wanted: bool,
) -> tuple[Maybe, ...] | None:
    """Read tensors and run the backward kernel, in one call.

    Args:
        rule: What the step has in common with others.
        scalars: The step's scalars.
        cotangents: Cotangents of the step's results; None counts as zeros.
        tensors: The flat list of tensors.
        wanted: For each tensor, whether its cotangent is wanted.
        lr_wanted: Whether the cotangent of ``lr`` is wanted.

    Returns:
        The cotangent of ``lr``, then the cotangents of the tensors, with None for what is not
        wanted. None where :func:`forward_at_once` returns None.
    """
    lr, steps, numbers = scalars
    rate = None if lr is None else lr.double()
    found: Any = C.backward_at_once(
        *rule, steps, numbers, rate, cotangents, tensors, wanted, lr_wanted, torch.get_num_threads()
    )
    if found is None:
        return None
    if lr is not None and lr_wanted:
        lr_grad, *grads = found
        return (lr_grad.to(lr.dtype), *grads)
    results: tuple[Maybe, ...] = found
    return results


def overlap(layout: Layout, roles: Sequence[list[int]]) -> bool:
    """Tell whether any two of these plain tensors share memory, given their addresses by role."""
    sizes = [size * layout.dtype.itemsize for size in layout.sizes()]
    addresses = [address for role in roles for address in role]
    shared: bool = C.overlap(addresses, sizes * len(roles))
    return shared


def _allocate(layout: Layout) -> tuple[list[torch.Tensor], list[int]]:
    """Return new tensors for one role of results, and their addresses.

    On the CPU they reuse the memory of results that have been freed: see ``csrc/cpu/pool.h``.
    """
    if layout.device.type == 'cpu':
        capsules, addresses = C.allocate(DTYPES[layout.dtype], layout.shapes, layout.strides)
        return list(map(from_dlpack, capsules)), addresses
    tensors = [
        empty(shape, strides, layout.dtype, layout.device)
        for shape, strides in zip(layout.shapes, layout.strides or [()] * len(layout.shapes))
    ]
    return tensors, [tensor.data_ptr() for tensor in tensors]
