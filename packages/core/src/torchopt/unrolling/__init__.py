"""Long unrolls: one loop, and the ways of paying for its backward pass."""

from torchopt.unrolling.forward import ForwardMode as ForwardMode
from torchopt.unrolling.inner_gradient import grad as grad
from torchopt.unrolling.inner_gradient import grad_and_value as grad_and_value
from torchopt.unrolling.module_step import ModuleCarry as ModuleCarry
from torchopt.unrolling.module_step import ModuleStep as ModuleStep
from torchopt.unrolling.products import Order as Order
from torchopt.unrolling.recomputed import Recomputed as Recomputed
from torchopt.unrolling.snapshots import Snapshots as Snapshots
from torchopt.unrolling.stored import Stored as Stored
from torchopt.unrolling.strategy import Strategy as Strategy
from torchopt.unrolling.truncated import Truncated as Truncated
from torchopt.unrolling.unroll import unroll as unroll

__all__ = [
    'ForwardMode',
    'ModuleCarry',
    'ModuleStep',
    'Order',
    'Recomputed',
    'Snapshots',
    'Stored',
    'Strategy',
    'Truncated',
    'grad',
    'grad_and_value',
    'unroll',
]
