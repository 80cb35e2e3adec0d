"""Every optimizer with its options, derived from the registry and the factories' signatures.

An optimizer in ``torchopt.registry.OPTIMIZERS`` is in these lists, and so in every test that runs
over them. The entry in the registry says what the tests may expect. An option that no other
optimizer has needs a line in ``SAMPLES``, and in ``INVALID`` unless it is a flag.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Mapping
from typing import Any

import torch

import torchopt
from torchopt import pytree
from torchopt.registry import OPTIMIZERS, OptimizerEntry


def decays_matrices(tree: Any) -> Any:
    """A mask: only tensors of at least two dimensions."""
    return pytree.tree_map(
        lambda leaf: leaf is not None and leaf.dim() >= 2, tree, none_is_leaf=True
    )


NAN = float('nan')

# For every option, a value that differs from its default and matters after a few steps. An
# optimizer whose option means something else has a line of its own, such as 'asgd.alpha'.
SAMPLES: dict[str, Any] = {
    'lr': 0.03,
    'lr_decay': 0.1,
    'betas': (0.8, 0.95),
    'rho': 0.8,
    'alpha': 0.9,
    'eps': 1e-2,
    'eps_root': 1e-3,
    'momentum_decay': 0.1,
    'weight_decay': 0.05,
    'momentum': 0.7,
    'dampening': 0.3,
    'nesterov': True,
    'centered': True,
    'amsgrad': True,
    'decoupled_weight_decay': True,
    'mask': decays_matrices,
    'initial_accumulator_value': 0.2,
    'initial_scale': 0.5,
    'moment_requires_grad': True,
    'maximize': True,
    'adafactor.eps': (1e-2, 0.1),
    'adan.betas': (0.8, 0.9, 0.95),
    'adjust_lr_fn': 'match_rms_adamw',
    'asgd.alpha': 0.5,
    'beta2_decay': -0.5,
    'd': 2.0,
    'etas': (0.4, 1.5),
    'iteration_dtype': torch.float64,
    'lambd': 0.1,
    'muon.nesterov': False,
    'ns_coefficients': (2.0, -1.5, 0.5),
    'ns_steps': 2,
    'others': torchopt.transform.scale(0.5),
    'step_sizes': (0.01, 0.06),
    't0': 3,
}

# Where derivatives by options are taken: values for those whose default has none. The first update
# of a vector by Adafactor has the root mean square 1, which is its bound by default.
DIFFERENTIABLE_VALUES: dict[str, Any] = {'d': 0.9, 'adafactor.eps': (1e-8, 1e-3)}

# The other options that an option needs to have an effect, or to be allowed.
COMPANIONS: dict[str, dict[str, Any]] = {
    'dampening': {'momentum': 0.7},
    'nesterov': {'momentum': 0.7},
    'decoupled_weight_decay': {'weight_decay': 0.05},
    'mask': {'weight_decay': 0.05},
}

# Options that exclude each other. A case of all options leaves out one of them, each in turn.
EXCLUSIVE = (frozenset({'dampening', 'nesterov'}),)

# For every option that is a number, values out of its range.
INVALID: dict[str, tuple[Any, ...]] = {
    'lr': (-1e-3, NAN),
    'lr_decay': (-0.1, NAN),
    'betas': ((-0.1, 0.9), (1.0, 0.9), (0.9, 1.0), (0.9, -0.1), (NAN, 0.9), (0.9, NAN)),
    'rho': (-0.1, 1.0, NAN),
    'alpha': (-0.1, 1.0, NAN),
    'eps': (-1e-8, NAN),
    'eps_root': (-1e-8, NAN),
    'momentum_decay': (-0.1, NAN),
    'weight_decay': (-0.1, NAN),
    'momentum': (-0.1, NAN),
    'dampening': (-0.1, 1.1, NAN),
    'initial_accumulator_value': (-0.1, NAN),
    'initial_scale': (-0.1, NAN),
    'adafactor.eps': ((-0.1, 0.1), (0.1, -0.1), (None, NAN)),
    'adan.betas': ((-0.1, 0.9, 0.9), (0.9, 1.0, 0.9), (0.9, 0.9, NAN)),
    'asgd.alpha': (-0.1, NAN),
    'beta2_decay': (0.1, NAN),
    'd': (0.0, NAN),
    'etas': ((0.0, 1.2), (1.0, 1.2), (0.5, 1.0), (NAN, 1.2)),
    'lambd': (-0.1, NAN),
    'muon.momentum': (-0.1, 1.0, NAN),
    'ns_coefficients': (),
    'step_sizes': ((-0.1, 1.0), (0.1, -1.0), (0.1, NAN)),
    't0': (-1, NAN),
}

# Options that every optimizer has.
COMMON = frozenset({'lr', 'weight_decay', 'moment_requires_grad', 'maximize'})

_MISSING = object()
_NOT_AN_OPTION = frozenset({'use_accelerated_op'})
_DIFFERENTIABLE = frozenset(
    {
        'Scalar',
        'LearningRate',
        'tuple[Scalar, Scalar]',
        'tuple[Scalar, Scalar, Scalar]',
        'tuple[Scalar | None, Scalar]',
    }
)
_NUMERIC = _DIFFERENTIABLE | {'float'}
# Options that torch spells in another way, or that do not change values.
_TORCH_KNOWS_OTHERWISE = frozenset({'mask', 'moment_requires_grad'})


@dataclasses.dataclass(frozen=True)
class OptimizerCase:
    """An optimizer with some of its options."""

    entry: OptimizerEntry
    label: str
    options: Mapping[str, Any]

    def __str__(self) -> str:
        return f'{self.entry.name}-{self.label}'

    @property
    def has_kernel(self) -> bool:
        """Whether ``use_accelerated_op`` finds a kernel for these options."""
        return self.entry.fused and not {'amsgrad', 'mask'} & self.options.keys()

    def make(self, **overrides: Any) -> torchopt.GradientTransformation:
        """Make the transformation, with some options replaced, such as ``lr=schedule``."""
        return self.entry.factory(**{**self.options, **overrides})

    def make_class(self, params: Any, **overrides: Any) -> torchopt.Optimizer:
        """Make the plain optimizer, such as ``torchopt.Adam(params, ...)``."""
        plain = getattr(torchopt, self.entry.class_name)
        return plain(params, **{**self.options, **overrides})

    def make_torch(self, params: list[torch.Tensor], **overrides: Any) -> torch.optim.Optimizer:
        """Make torch's optimizer; a mask becomes two parameter groups."""
        options = {**self.options, **overrides}
        options.pop('moment_requires_grad', None)
        mask = options.pop('mask', None)
        groups: list[dict[str, Any]] = [{'params': params}]
        if mask is not None:
            flags = mask(params)
            groups = [
                {'params': [p for p, flag in zip(params, flags) if flag]},
                {'params': [p for p, flag in zip(params, flags) if not flag], 'weight_decay': 0.0},
            ]
        cls = torch_class(self.entry)
        assert cls is not None, f'torch has no {self.entry.class_name}'
        if 'foreach' in inspect.signature(cls).parameters:
            options['foreach'] = False
        optimizer = cls(groups, **{'lr': self.value('lr'), **options})
        optimizer.register_step_pre_hook(_in_float64)
        optimizer.register_step_post_hook(_as_usual)
        return optimizer

    def params_for_torch(self, params: Any) -> Any:
        """The tree with None for every tensor that torch's class refuses."""

        def taken(leaf: Any) -> bool:
            if self.entry.torch_name == 'Muon':
                return leaf is not None and leaf.dim() == 2
            return leaf is not None and (self.entry.torch_name != 'Adafactor' or leaf.numel() > 0)

        return pytree.tree_map(
            lambda leaf: leaf if taken(leaf) else None, params, none_is_leaf=True
        )

    def value(self, option: str) -> Any:
        """The value of an option in this case, which may be its default."""
        return self.options.get(option, signature_of(self.entry)[option].default)

    def has(self, option: str) -> bool:
        """Tell whether the optimizer has an option of that name."""
        return option in signature_of(self.entry)

    def eps(self, value: Any) -> dict[str, Any]:
        """The option ``eps`` with this value, which may be a pair of such; empty without one."""
        if not self.has('eps'):
            return {}
        default = signature_of(self.entry)['eps'].default
        return {'eps': (value,) * len(default) if isinstance(default, tuple) else value}

    def tensor_options(self, dtype: torch.dtype = torch.float64) -> dict[str, Any]:
        """Every float hyperparameter as a 0-dim tensor that requires grad (pairs as pairs)."""
        values = {
            name: self.options.get(name, own(DIFFERENTIABLE_VALUES, self.entry, name, p.default))
            for name, p in signature_of(self.entry).items()
            if p.annotation in _DIFFERENTIABLE
        }
        # Nesterov and dampening exclude each other, and a tensor counts as dampening.
        if self.value('nesterov') if self.has('nesterov') else False:
            values.pop('dampening', None)
        return pytree.tree_map(
            lambda value: torch.tensor(value, dtype=dtype, requires_grad=True), values
        )


def _in_float64(*_: Any) -> None:
    """Let torch compute with the digits of float64 what it rounds on purpose.

    NAdam's product of momenta has torch's default dtype, and Muon iterates in bfloat16.
    """
    torch.set_default_dtype(torch.float64)
    torch.Tensor.bfloat16 = torch.Tensor.clone  # type: ignore[method-assign, assignment]


def _as_usual(*_: Any) -> None:
    torch.set_default_dtype(torch.float32)
    torch.Tensor.bfloat16 = _BFLOAT16  # type: ignore[method-assign]


_BFLOAT16 = torch.Tensor.bfloat16


@functools.cache
def signature_of(entry: OptimizerEntry) -> Mapping[str, inspect.Parameter]:
    """The options of an optimizer, by name."""
    parameters = inspect.signature(entry.factory).parameters
    return {name: p for name, p in parameters.items() if name not in _NOT_AN_OPTION}


def torch_class(entry: OptimizerEntry) -> type[torch.optim.Optimizer] | None:
    """The optimizer's class in torch; None also where this torch is too old to have it."""
    return getattr(torch.optim, entry.torch_name, None) if entry.torch_name else None


def sample_of(entry: OptimizerEntry, name: str) -> Any:
    """The sample value of an option."""
    return _needed(SAMPLES, entry, name)


def own(table: Mapping[str, Any], entry: OptimizerEntry, name: str, default: Any = None) -> Any:
    """The line of a table for an option: the optimizer's own, the option's, or the default."""
    return table.get(f'{entry.name}.{name}', table.get(name, default))


def _needed(table: Mapping[str, Any], entry: OptimizerEntry, name: str) -> Any:
    value = own(table, entry, name, default=_MISSING)
    if value is _MISSING:
        raise KeyError(
            f'the option {name!r} has no sample value: add one to SAMPLES in {__file__}, and the '
            'options that it needs to COMPANIONS, and values out of its range to INVALID'
        )
    return value


def _cases_of(entry: OptimizerEntry, names: list[str]) -> list[OptimizerCase]:
    cases = [OptimizerCase(entry, 'defaults', {})]
    for name in names:
        options = {**COMPANIONS.get(name, {}), name: sample_of(entry, name)}
        cases.append(OptimizerCase(entry, name, options))
    dropped: list[str | None] = [None]
    for group in EXCLUSIVE:
        if group <= set(names):
            dropped = sorted(group)
    for absent in dropped:
        together = {name: sample_of(entry, name) for name in names if name != absent}
        label = 'all' if absent is None else f'all_but_{absent}'
        cases.append(OptimizerCase(entry, label, together))
    return cases


CASES = [case for entry in OPTIMIZERS for case in _cases_of(entry, list(signature_of(entry)))]
"""Each optimizer: its defaults, each option alone, all options together."""


def _known_to_torch(entry: OptimizerEntry) -> list[str]:
    cls = torch_class(entry)
    known = set(inspect.signature(cls).parameters) if cls else set()
    return [name for name in signature_of(entry) if name in known | _TORCH_KNOWS_OTHERWISE]


TORCH_CASES = [
    case
    for entry in OPTIMIZERS
    if torch_class(entry)
    for case in _cases_of(entry, _known_to_torch(entry))
]
"""The same for the optimizers and options that torch has, too."""


def _changes_a_value_alone(case: OptimizerCase) -> bool:
    """Whether the only option is a number that the rule uses by default, too."""
    option = signature_of(case.entry).get(case.label)
    return (
        option is not None
        and option.annotation in _NUMERIC
        and (isinstance(option.default, tuple) or option.default != 0)
    )


PATH_CASES = [
    case for case in CASES if case.label not in COMMON and not _changes_a_value_alone(case)
]
"""The cases that take different paths through the rules, for tests that take long.

The options that every optimizer has are the same building blocks in all of them. They are in the
cases of all options.
"""

MAIN_CASES = [case for case in CASES if case.label == 'defaults' or case.label.startswith('all')]
"""Two or three cases of each optimizer, for tests that take long and depend little on options."""

FUSED_CASES = [case for case in CASES if case.entry.fused]
"""The cases of the optimizers that take ``use_accelerated_op``."""

FUSED_MAIN_CASES = [case for case in MAIN_CASES if case.entry.fused]
"""Two or three cases of each of these optimizers."""

INVALID_OPTIONS = [
    (entry, name, value)
    for entry in OPTIMIZERS
    for name, parameter in signature_of(entry).items()
    if parameter.annotation in _NUMERIC
    for value in _needed(INVALID, entry, name)
]
"""(optimizer, option, value out of range)."""

NUMERIC_OPTIONS = [
    (entry, name)
    for entry in OPTIMIZERS
    for name, parameter in signature_of(entry).items()
    if parameter.annotation in _NUMERIC
]
"""(optimizer, option that is a number or a pair of numbers)."""
