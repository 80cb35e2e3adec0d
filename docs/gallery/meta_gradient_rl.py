"""Meta-gradient reinforcement learning (Xu et al., NeurIPS 2018): which values to trust."""

from __future__ import annotations

from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor

import torchopt
from torchopt.unrolling import grad

SETTINGS = {'episodes': 2000, 'agents': 64, 'window': 5}
SMALL = {'episodes': 250, 'agents': 16, 'window': 2}
SEEDS = 10
PAPER: dict[str, str] = {}
ROWS = [
    ('error of the values, learned λ', 'learned error'),
    ('error of the values, best of 11 fixed λ', 'fixed error'),
    ('error of the values, λ set by hand', 'by hand error'),
    ('learned λ, states that are told apart', 'distinct'),
    ('learned λ, states that look the same', 'alike'),
    ('learned λ, state 5', 'middle'),
]
STATES, NOISE = 10, 2.0
SEEN_AS = torch.tensor([0, 1, 2, 1, 4, 1, 6, 1, 8, 1])  # odd states have one value in common
DISTINCT = torch.arange(STATES) % 2 == 0
TRUTH = torch.arange(STATES, 0, -1.0)
FIXED = torch.cat([torch.linspace(0, 1, 11)[:, None].expand(-1, STATES), ~DISTINCT[None]])
INNER, OUTER = torchopt.sgd(0.1), torchopt.adam(0.1)


def returns(rewards: Tensor, values: Tensor, lambdas: Tensor) -> Tensor:
    """Return the λ-returns of all states: of rewards, and where λ is below 1, of values."""
    found = [rewards[:, -1]]
    for state in reversed(range(1, STATES)):
        after = torch.lerp(values[:, SEEN_AS[state]], found[0], lambdas[state])
        found.insert(0, rewards[:, state - 1] + after)
    return torch.stack(found, -1)


def error(values: Tensor, targets: Tensor) -> Tensor:
    return (values[:, SEEN_AS] - targets).square().sum() / 2


def learn_episode(values: Tensor, episodes: tuple[Tensor, Tensor], lambdas: Tensor) -> Any:
    """Learn from one episode; judge by the whole returns of the next one."""
    rewards, next_rewards = episodes
    gradient = grad(error)(values, returns(rewards, values, lambdas))
    updates, _ = INNER.update(gradient, INNER.init(values), inplace=False)
    values = torchopt.apply_updates(values, updates, inplace=False)
    judged = error(values, returns(next_rewards, values, torch.ones(STATES))) / len(values)
    squares = (values[:, DISTINCT] - TRUTH[DISTINCT]).square().mean()
    return values, (judged, squares)


def run(seed: int, episodes: int, agents: int, window: int) -> dict[str, Any]:
    torch.manual_seed(seed)
    start, late = torch.zeros(agents, STATES), episodes * 2 // 3
    rewards = 1 + NOISE * torch.randn(episodes + 1, agents, STATES)
    logits, path, squares, values = torch.zeros(STATES), [], [], start
    state = OUTER.init(logits)
    for first in range(0, episodes, window):
        logits = logits.detach().requires_grad_()
        xs = rewards[:-1][first : first + window], rewards[1:][first : first + window]
        values, (judged, found) = torchopt.unroll(learn_episode, values, xs, logits.sigmoid())
        (gradient,) = torch.autograd.grad(judged.mean(), logits)
        updates, state = OUTER.update(gradient, state, inplace=False)
        logits = torchopt.apply_updates(logits, updates, inplace=False)
        values, squares = values.detach(), [*squares, found.detach()]
        path.append(logits.detach().sigmoid())

    def error_with(lambdas: Tensor, xs: Any = (rewards[:-1], rewards[1:])) -> Tensor:
        return torchopt.unroll(learn_episode, start, xs, lambdas)[1][1][late:].mean().sqrt()

    *fixed, by_hand = torch.vmap(error_with)(FIXED).tolist()
    result = {'fixed': fixed, 'fixed error': min(fixed), 'by hand error': by_hand}
    result |= {'learned error': torch.cat(squares)[late:].mean().sqrt().item()}
    result |= {'path': torch.stack(path)[:: len(path) // 50].tolist(), 'episodes': episodes}
    for name, states in (('distinct', [2, 4, 6, 8]), ('alike', [1, 3, 7, 9]), ('middle', [5])):
        result[name] = path[-1][states].mean().item()
    return result


def draw(runs: list[dict[str, Any]], figure: Figure) -> None:
    left, right = figure.subplots(1, 2)
    path = torch.tensor([run['path'] for run in runs]).mean(0)[:, 1:].T.numpy()
    area = (0, runs[0]['episodes'], STATES - 0.5, 0.5)
    figure.colorbar(left.imshow(path, vmin=0, vmax=1, extent=area, aspect='auto'), label='λ')
    left.set(xlabel='episode', ylabel='state', yticks=range(1, STATES))
    left.grid(False)
    fixed = torch.tensor([run['fixed'] for run in runs]).mean(0)
    right.plot(torch.linspace(0, 1, 11), fixed, 'o-', label='one λ for all states')
    for color, name in (('C1', 'by hand'), ('C2', 'learned')):
        mean = sum(run[f'{name} error'] for run in runs) / len(runs)
        right.axhline(mean, color=color, label=f'one for each, {name}')
    right.set(xlabel='λ', ylabel='error of the values', ylim=(0, None))
    right.legend()
