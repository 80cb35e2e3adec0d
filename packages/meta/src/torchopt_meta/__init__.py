"""Differentiable optimizers for torch modules."""

from torchopt_meta.classes import *  # noqa: F403
from torchopt_meta.optimizer import MetaOptimizer as MetaOptimizer

__version__ = '0.1.0'
