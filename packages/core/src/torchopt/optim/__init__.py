"""Optimizers as objects."""

from torchopt.optim.classes import *  # noqa: F403
from torchopt.optim.func import FuncOptimizer as FuncOptimizer
from torchopt.optim.optimizer import Optimizer as Optimizer
