"""Fused kernels for the optimizers of ``torchopt``, behind ``use_accelerated_op=True``."""

from torchopt_accel.fuse import fuse as fuse
from torchopt_accel.memory import release_memory as release_memory
from torchopt_accel.platform import available as available

__all__ = ['available', 'fuse', 'release_memory']

__version__ = '0.1.0'
