"""The memory that kernels on the CPU keep for the results of later steps."""

from __future__ import annotations

from torchopt_accel.platform import C


def release_memory() -> int:
    """Give the memory that waits for later results back to the system.

    Kernels on the CPU write their results into memory of this package. When such a tensor is freed,
    its memory waits for the next step, because new memory takes longer than a small kernel. No more
    than 256 MiB wait. Beyond that, what has waited longest is given back, so that there is seldom a
    reason to call this. The next step after a call is slower. Tensors that are in use keep their
    memory. On CUDA, results lie in torch's memory, see ``torch.cuda.empty_cache``.

    Any thread may call it at any time.

    Returns:
        The number of bytes that waited.

    Example:
        >>> import torch, torchopt, torchopt_accel
        >>> optimizer = torchopt.adam(lr=0.1, use_accelerated_op=True)
        >>> params = [torch.ones(1000)]
        >>> updates = optimizer.update(params, optimizer.init(params), inplace=False)
        >>> del updates
        >>> torchopt_accel.release_memory() > 0
        True
    """
    released: int = C.release_waiting()
    return released


def describe_memory() -> str:
    """Say how much memory waits, and how much may."""
    waiting, most = C.waiting_bytes(), C.MOST_WAITING
    return f'{waiting / 2**20:.1f} MiB wait for results of later steps, {most >> 20} MiB at most'
