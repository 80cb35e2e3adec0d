"""Explicit gradient differentiation: optimizer steps that can be differentiated through.

Names of the sibling packages (``torchopt.MetaAdam``, ``torchopt.stop_gradient``, ...) are imported
from the installed siblings on first use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torchopt import _alone as _alone  # first: it stops a mixture of two libraries
from torchopt import base as base
from torchopt import clip as clip
from torchopt import hook as hook
from torchopt import optim as optim
from torchopt import pytree as pytree
from torchopt import registry as registry
from torchopt import schedule as schedule
from torchopt import transform as transform
from torchopt import typing as typing
from torchopt._aliases import install as _install_aliases
from torchopt._siblings import installed_names as _installed_names
from torchopt._siblings import resolve as _resolve
from torchopt.accelerated import accelerated_op_available as accelerated_op_available
from torchopt.authoring.from_torch import state_from_torch as state_from_torch
from torchopt.base import GradientTransformation as GradientTransformation
from torchopt.base import chain as chain
from torchopt.clip import clip_grad_norm as clip_grad_norm
from torchopt.hook import register_hook as register_hook
from torchopt.optim import FuncOptimizer as FuncOptimizer
from torchopt.optim import Optimizer as Optimizer
from torchopt.optim.classes import *  # noqa: F403
from torchopt.rules import *  # noqa: F403
from torchopt.schedule import *  # noqa: F403
from torchopt.transform import nan_to_num as nan_to_num
from torchopt.transform import schedule_free as schedule_free
from torchopt.transform import schedule_free_eval_params as schedule_free_eval_params
from torchopt.update import apply_updates as apply_updates

if TYPE_CHECKING:
    from torchopt import distributed as distributed
    from torchopt import unrolling as unrolling
    from torchopt.unrolling.unroll import unroll as unroll
    from torchopt_meta import MetaOptimizer as MetaOptimizer
    from torchopt_meta.classes import *  # noqa: F403
    from torchopt_utils import explain as explain
    from torchopt_utils import extract_state_dict as extract_state_dict
    from torchopt_utils import make_dot as make_dot
    from torchopt_utils import module_clone as module_clone
    from torchopt_utils import module_detach_ as module_detach_
    from torchopt_utils import recover_state_dict as recover_state_dict
    from torchopt_utils import stop_gradient as stop_gradient

__version__ = '0.1.0'

# What the library is made of is public where others build on it, but no name for users.
_PARTS = {'accelerated', 'authoring', 'blocks', 'rules', 'update'}
_own_names = [
    name
    for name in globals()
    if not name.startswith('_') and name not in {'TYPE_CHECKING', 'Any', 'annotations', *_PARTS}
]
_install_aliases()


def __dir__() -> list[str]:
    return sorted([*_own_names, '__version__', *_installed_names()])


if not TYPE_CHECKING:  # type checkers see all names above, and would accept misspelt ones

    def __getattr__(name: str) -> Any:
        if name == '__all__':
            return [name for name in __dir__() if not name.startswith('_')]
        return _resolve(name)
