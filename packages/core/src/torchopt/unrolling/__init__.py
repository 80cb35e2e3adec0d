"""Long unrolls: one loop, and the strategies that pay for its backward pass.

Where a change belongs, from top to bottom; each file imports only files of lower lines::

    unroll.py           the public function: its arguments
    module_step.py      steps made from modules
    rematerialized/     blocks whose activations are in no graph: remat, its derivatives
    strategies/         the backward pass of a whole loop: what is stored, what is run again
    storage/            where carries are kept: on their device, in host memory, on disk
    sweep.py            all steps in order
    steps/              one step: called, stored, run again, differentiated (eager, compiled, vmap)
    loop.py             one call of unroll as data
    stream.py           data by the number of a step
    inner_gradients/    gradients that a step takes: grad, their cache, their derivative
    vjp.py              vector-Jacobian products of lists of tensors
    context/            what a step depends on beside its arguments: replayed or watched
    functional_loss.py  a loss of a module as a function of the module's tensors
    hashing.py          hashes of tensors
    leaves.py           trees as flat lists of leaves
"""

from torchopt.unrolling.inner_gradients.grad import grad as grad
from torchopt.unrolling.inner_gradients.grad import grad_and_value as grad_and_value
from torchopt.unrolling.inner_gradients.gradient_vjp import Order as Order
from torchopt.unrolling.module_step import ModuleCarry as ModuleCarry
from torchopt.unrolling.module_step import ModuleStep as ModuleStep
from torchopt.unrolling.rematerialized.remat import remat as remat
from torchopt.unrolling.storage.choice import Place as Place
from torchopt.unrolling.storage.disk import Disk as Disk
from torchopt.unrolling.strategies.base import Strategy as Strategy
from torchopt.unrolling.strategies.forward_mode import ForwardMode as ForwardMode
from torchopt.unrolling.strategies.recomputed import Recomputed as Recomputed
from torchopt.unrolling.strategies.snapshots import Snapshots as Snapshots
from torchopt.unrolling.strategies.stored import Stored as Stored
from torchopt.unrolling.strategies.truncated import Truncated as Truncated
from torchopt.unrolling.stream import Stream as Stream
from torchopt.unrolling.unroll import unroll as unroll

__all__ = [
    'Disk',
    'ForwardMode',
    'ModuleCarry',
    'ModuleStep',
    'Order',
    'Place',
    'Recomputed',
    'Snapshots',
    'Stored',
    'Strategy',
    'Stream',
    'Truncated',
    'grad',
    'grad_and_value',
    'remat',
    'unroll',
]
