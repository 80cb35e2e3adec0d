# The compiled module, csrc/bindings.cpp.

from collections.abc import Sequence

# Name, number of states, names of the hyperparameters.
RULES: tuple[tuple[str, int, tuple[str, ...]], ...]

# How many bytes waiting_bytes() returns at most.
MOST_WAITING: int

class Problem:
    def __init__(
        self,
        rule: int,
        dtype: int,
        backward: bool,
        apply: bool,
        sizes: Sequence[int],
        inputs: Sequence[Sequence[int]],
        outputs: Sequence[Sequence[int]],
        hyper: Sequence[float],
        steps: int,
        numbers: int,
        positions: Sequence[int],
        lr: int,
        lr_stride: int,
        lr_grad: int,
        /,
    ) -> None: ...

class InPlace(Problem):
    hyper: Sequence[float]
    def __init__(
        self,
        rule: int,
        dtype: int,
        on_cpu: bool,
        device: int,
        hyper: Sequence[float],
        positions: Sequence[int],
    ) -> None: ...
    def read(self, types: tuple[type, ...], roles: list[list[object]]) -> int: ...
    def take(self, steps: int, numbers: int, lr: int, lr_stride: int) -> None: ...

def run_on_cpu(problem: Problem, threads: int) -> None: ...
def allocate(
    dtype: int, shapes: Sequence[Sequence[int]], strides: Sequence[Sequence[int]] = ...
) -> tuple[list[object], list[int]]: ...
def waiting_bytes() -> int: ...
def release_waiting() -> int: ...
def overlap(starts: Sequence[int], bytes: Sequence[int]) -> bool: ...
def addresses(type: type, roles: list[Sequence[object]]) -> tuple[list[list[int]], bool] | None: ...
def takes(roles: int, tensors: tuple[object, ...]) -> bool: ...
def forward_at_once(
    rule: int,
    with_params: bool,
    hyper: Sequence[float],
    positions: Sequence[int],
    steps: object,
    numbers: object,
    lr: object,
    tensors: tuple[object, ...],
    threads: int,
) -> tuple[object, ...] | None: ...
def backward_at_once(
    rule: int,
    with_params: bool,
    hyper: Sequence[float],
    positions: Sequence[int],
    steps: object,
    numbers: object,
    lr: object,
    cotangents: tuple[object, ...],
    tensors: tuple[object, ...],
    wanted: tuple[bool, ...],
    lr_wanted: bool,
    threads: int,
) -> tuple[object, ...] | None: ...
def supported_isas() -> list[str]: ...
def current_isa() -> str: ...
def use_isa(name: str) -> None: ...

# These exist in a build with CUDA only.
def run_on_cuda(problem: Problem, device: int, stream: int, scratch: int) -> None: ...
def cuda_scratch(sizes: Sequence[int]) -> int: ...
def cuda_obstacle(device: int) -> str: ...
