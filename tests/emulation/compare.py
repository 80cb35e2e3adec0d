"""One case, solved by the emulated kernels and by the CPU kernels: the same bits?"""

from __future__ import annotations

import random
from typing import NamedTuple

import torch

from emulation.cases import Case
from emulation.library import Counts, Library, Problem
from torchopt_accel.kernels import DTYPES, RULES, arranged
from torchopt_accel.platform import C

Role = list[torch.Tensor | None]  # empty if no tensor has it

SPECIAL = (0.0, -0.0, float('inf'), float('-inf'), float('nan'), 1e-40, 6e-8, 65504.0, 1e30, -1e-5)
# What the last device and stream of the emulation are; 0 is what a program that forgets them gets.
DEVICE, STREAM = 1, 7


class Outcome(NamedTuple):
    """What a case said.

    Attributes:
        numbers: How many numbers were compared.
        mistakes: The differences, if there are any.
        counts: What ran.
    """

    numbers: int
    mistakes: list[str]
    counts: Counts


def compare(case: Case, library: Library) -> Outcome:
    """Solve a case twice.

    Raises:
        RuntimeError: the emulated kernels failed.
    """
    solver = _Solver(case, library)
    counts, emulated, emulated_lr = solver.solve(cuda=True)
    _, expected, expected_lr = solver.solve(cuda=False)
    numbers, mistakes = 0, []
    for role, (ours, theirs) in enumerate(zip(emulated, expected, strict=True)):
        pairs = [(a, b) for a, b in zip(ours, theirs, strict=True) if a is not None]
        if not pairs:
            continue
        a, b = (torch.cat(side) for side in zip(*pairs))
        numbers += a.numel()
        # The bits of a number that is none depend on the order of operands.
        differ = (_bits(a) != _bits(b)) & ~(a.isnan() & b.isnan())
        if differ.any():
            at = int(differ.nonzero()[0])
            mistakes.append(
                f'output {role}: {int(differ.sum())} of {a.numel()} differ, the first at {at}: '
                f'{a[at].item()!r}, on the CPU {b[at].item()!r}'
            )
    if case.lr_grad and not case.special:
        numbers += len(expected_lr)
        mistakes += _lr_mistakes(case, emulated_lr, expected_lr)
    return Outcome(numbers, mistakes, counts)


def _lr_mistakes(case: Case, ours: torch.Tensor, theirs: torch.Tensor) -> list[str]:
    """Compare sums that were added up in another order, in float64 or, on the CPU, in float32."""
    summands = torch.tensor(case.sizes, dtype=torch.float64)
    if case.lr == 'one':
        summands = summands.sum().reshape(1)
    # Summands reach hundreds.
    rounding = 1e-12 if case.dtype == torch.float64 else 1e-4
    wrong = ~((ours - theirs).abs() <= rounding * (1 + summands))
    if not wrong.any():
        return []
    at = int(wrong.nonzero()[0])
    return [
        f'cotangent of learning rate {at} of {len(ours)}: {ours[at].item()!r}, on the CPU '
        f'{theirs[at].item()!r}'
    ]


class _Solver:
    def __init__(self, case: Case, library: Library) -> None:
        self.case, self.library = case, library
        self.random = random.Random(case.seed)
        self.generator = torch.Generator().manual_seed(case.seed)
        self.backward = case.direction == 'backward'
        self.states = RULES[case.rule].states
        self.gradient = self.states + 1 if self.backward else 0  # the role
        self.inputs = self._inputs()
        self.offsets = self._offsets(1 + self.states + self.backward)
        self.wanted = [not case.absent_roles or self._chance(1 / 2) for _ in self.offsets]
        self.absent = [[self._absent() for _ in case.sizes] for _ in self.offsets]
        count = len(case.sizes) if case.lr == 'each' else 1
        self.lr = 0.01 + torch.rand(count, generator=self.generator, dtype=torch.float64)
        steps = [self.random.randint(1, 9) for _ in range(len(case.sizes) + 3)]
        self.steps = torch.tensor(steps)
        self.numbers = torch.rand(len(steps), generator=self.generator, dtype=torch.float64)
        self.positions = [self.random.randrange(len(steps)) for _ in case.sizes]
        self.hyper = self._hyper()

    def _chance(self, probability: float) -> bool:
        return self.random.random() < probability

    def _absent(self) -> bool:
        return self.case.absent_tensors and self._chance(1 / 3)

    def _offsets(self, roles: int) -> list[list[int]]:
        """Say how many elements after an address of full alignment each tensor begins."""
        items = 16 // self.case.dtype.itemsize
        # Most are aligned: a tensor is so only if it is in all of its roles.
        odd = 1 / 4 if self.case.unaligned else 0
        return [
            [self.random.randrange(items) if self._chance(odd) else 0 for _ in self.case.sizes]
            for _ in range(roles)
        ]

    def _inputs(self) -> list[Role]:
        case, roles = self.case, []
        for number, offsets in enumerate(self._offsets(self.gradient + 2 + self.states)):
            needed = number == self.gradient or (case.direction == 'apply' and number == 1)
            if case.absent_roles and not needed and self._chance(1 / 2):
                roles.append([])
                continue
            values = self._values(sum(case.sizes), positive=number > self.gradient + 1)
            role: Role = []
            for value, offset in zip(values.split(case.sizes), offsets):
                absent = self._absent() and not (needed and case.direction == 'apply')
                role.append(None if absent else _memory(len(value), offset, case.dtype))
                if role[-1] is not None:
                    role[-1].copy_(value)
            roles.append(role)
        return roles

    def _values(self, size: int, positive: bool) -> torch.Tensor:
        values = torch.randn(size, generator=self.generator, dtype=torch.float64)
        if positive:
            values = values.abs() + 0.01
        if self.case.special:
            which = torch.randint(7 * len(SPECIAL), (size,), generator=self.generator)
            table = torch.tensor(SPECIAL, dtype=torch.float64)
            special = table[which.clamp(max=len(SPECIAL) - 1)]
            values = torch.where(which < len(SPECIAL), special, values)
        return values.to(self.case.dtype)

    def _hyper(self) -> list[float]:
        choices = {
            'lr': (0.25,),
            'sign': (1.0, -1.0),
            'coupled_decay': (0.3, 0.0),
            'decoupled_decay': (0.2, 0.0),
            'rho': (0.7,),
            'alpha': (0.8,),
            'beta1': (0.8, 0.4),
            'beta2': (0.9,),
            'beta3': (0.7,),
            'eps': (1e-2,),
            'eps_root': (1e-3, 0.0),
            'lr_decay': (0.3, 0.0),
            'momentum': (0.6,),
            'momentum_decay': (0.3,),
            'dampening': (0.2, 0.0),
            'nesterov': (0.0, 1.0),
            'smaller': (0.5,),
            'larger': (1.2,),
            'lowest': (0.3,),
            'highest': (1.0,),
        }
        names = RULES[self.case.rule].hyper
        drawn = {name: self.random.choice(choices[name]) for name in names}
        return list(arranged(self.case.rule, **drawn))

    def _outputs(self) -> tuple[list[Role], list[Role]]:
        """Return new outputs, full of garbage, and the inputs; in place, inputs are outputs."""
        case = self.case
        inputs, outputs = list(self.inputs), []
        for number, offsets in enumerate(self.offsets):
            role: Role = []
            source = number + 1 if number else int(case.direction == 'apply')
            over = inputs[source] if case.inplace else []
            if self.wanted[number]:
                for tensor, (size, offset) in enumerate(zip(case.sizes, offsets)):
                    memory = _memory(size, offset, case.dtype)
                    _bits(memory).fill_(0x6E)
                    if over and over[tensor] is not None:
                        memory.copy_(over[tensor])
                    absent = self.absent[number][tensor] and not over
                    role.append(None if absent else memory)
                if over:
                    kept = zip(role, over, strict=True)
                    inputs[source] = [None if old is None else new for new, old in kept]
            outputs.append(role)
        return inputs, outputs

    def solve(self, *, cuda: bool) -> tuple[Counts, list[Role], torch.Tensor]:
        """Return what ran, the outputs and the cotangents of the learning rates."""
        case = self.case
        inputs, outputs = self._outputs()
        lr_grad = torch.zeros_like(self.lr)
        numbers = self.library.rules if cuda else list(RULES)
        problem = Problem(
            numbers.index(case.rule),
            DTYPES[case.dtype],
            self.backward,
            case.direction == 'apply',
            list(case.sizes),
            _addresses(inputs),
            _addresses(outputs),
            self.hyper,
            self.steps.data_ptr() if case.steps else 0,
            self.numbers.data_ptr() if case.numbers else 0,
            self.positions,
            self.lr.data_ptr() if case.lr != 'number' else 0,
            int(case.lr == 'each'),
            lr_grad.data_ptr() if case.lr_grad else 0,
        )
        counts = Counts(0, 0, 0)
        if cuda:
            self.library.set_up(case.seed, case.processors, case.blocks_per_processor)
            doubles = self.library.scratch(case.sizes)
            scratch = torch.full((doubles,), float('nan'), dtype=torch.float64)
            counts = self.library.run(
                problem,
                device=DEVICE,
                stream=STREAM,
                scratch=scratch.data_ptr() if case.lr_grad else 0,
            )
        else:
            _run_on_cpu(problem)
        return counts, outputs, lr_grad


def _run_on_cpu(problem: Problem) -> None:
    """Use the instruction set for which no multiplication and addition are contracted."""
    before = C.current_isa()
    C.use_isa('baseline')
    try:
        C.run_on_cpu(C.Problem(*problem), 1)
    finally:
        C.use_isa(before)


def _memory(size: int, offset: int, dtype: torch.dtype) -> torch.Tensor:
    """Return a tensor in memory of its own that ends where the tensor ends."""
    return torch.empty(size + offset, dtype=dtype)[offset:]


def _bits(tensor: torch.Tensor) -> torch.Tensor:
    whole = {2: torch.int16, 4: torch.int32, 8: torch.int64}
    return tensor.view(whole[tensor.dtype.itemsize])


def _addresses(roles: list[Role]) -> list[list[int]]:
    return [[0 if x is None else x.data_ptr() for x in role] for role in roles]
