"""A module of every trait, a stand-in for a meta-optimizer, and what they hold."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

import torchopt
from torchopt.authoring.module_slots import parameter_slots


class StandIn:
    """The little of a meta-optimizer that this package knows of, and a step to make graphs."""

    def __init__(self, module: nn.Module, lr: float = 0.1) -> None:
        self.module = module
        self.impl = torchopt.adam(lr)
        self.states: list[Any] = [self.impl.init(self.params())]

    def params(self) -> dict[str, torch.Tensor]:
        tensors = {name: slot.read() for name, slot in parameter_slots(self.module).items()}
        return {name: t for name, t in tensors.items() if t is not None}

    def step(self, loss: torch.Tensor) -> None:
        params = self.params()
        gradients = dict(
            zip(params, torch.autograd.grad(loss, list(params.values()), create_graph=True))
        )
        updates, self.states[0] = self.impl.update(gradients, self.states[0], inplace=False)
        new = torchopt.apply_updates(params, updates, inplace=False)
        replacement = {id(params[name]): new[name] for name in reversed(params)}
        for name, slot in parameter_slots(self.module).items():
            if name in params:
                slot.write(replacement[id(params[name])])

    def state_dict(self) -> tuple[Any, ...]:
        return tuple(self.states)

    def load_state_dict(self, state: tuple[Any, ...]) -> None:
        if not isinstance(state, tuple) or len(state) != len(self.states):
            raise ValueError('wrong number of states')
        self.states = list(state)


class Net(nn.Module):
    """Tied weights, a shared submodule, no bias, buffers, a None buffer and a frozen tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(2, 2, bias=False)
        self.second = nn.Linear(2, 2)
        self.second.weight = self.first.weight
        self.again = self.second
        self.norm = nn.BatchNorm1d(2)
        self.register_buffer('nothing', None)
        self.frozen = nn.Parameter(torch.ones(2), requires_grad=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(self.again(self.second(self.first(x)))) * self.frozen


def contents(target: Any) -> list[torch.Tensor | None]:
    """What a module or a state holds, tensor by tensor."""
    if isinstance(target, nn.Module):
        target = torchopt.extract_state_dict(target)
    return torchopt.pytree.tree_leaves(target, none_is_leaf=True)


def is_same(a: list[Any], b: list[Any]) -> bool:
    """Whether two lists hold the very same objects."""
    return len(a) == len(b) and all(x is y for x, y in zip(a, b))
