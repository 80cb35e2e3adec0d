"""LOLA: two players who foresee each other's learning come to cooperate.

Foerster et al., "Learning with Opponent-Learning Awareness", AAMAS 2018.
"""

import torch
from torch.func import grad, vmap

import report
import torchopt

SETTINGS = {'pairs': 50, 'updates': 200, 'rate': 1.0, 'foreseen_rate': 1.0}
SMALL = {**SETTINGS, 'pairs': 20, 'updates': 40}
SEEDS = 5
DISCOUNT = 0.96
REWARDS = torch.tensor([-1.0, -3.0, 0.0, -2.0])  # of CC, CD, DC and DD: one's own action is first
STATES = ['first\nmove', 'CC', 'CD', 'DC', 'DD']
TIT_FOR_TAT = torch.tensor([True, True, False, True, False])


def value(own, other):
    """Return a player's discounted rewards, from both players' logits to cooperate in a state."""
    p, q = own.sigmoid(), other.sigmoid()[[0, 1, 3, 2, 4]]  # the other player calls CD what is DC
    outcomes = torch.stack([p * q, p * (1 - q), (1 - p) * q, (1 - p) * (1 - q)], dim=-1)
    visits = torch.linalg.solve(torch.eye(4) - DISCOUNT * outcomes[1:].T, outcomes[0])
    return visits @ REWARDS


def after_its_step(other, own, rate):
    """Return the other player's logits after its next step, which depends on ``own``."""
    optimizer = torchopt.sgd(lr=rate, maximize=True)
    gradient = grad(value)(other, own)
    updates, _ = optimizer.update(gradient, optimizer.init(other), inplace=False)
    return torchopt.apply_updates(other, updates, inplace=False)


def lola(own, other, rate):
    """Add what the other's step will change, to first order as in the paper."""
    step = after_its_step(other, own, rate) - other
    return value(own, other) + step @ grad(value, argnums=1)(own, other).detach()


PLAYERS = {
    'naive learners': lambda own, other, rate: value(own, other),
    'LOLA': lola,
    'LOLA, exact step': lambda own, other, rate: value(own, after_its_step(other, own, rate)),
}


ROWS = [
    *((f'reward of a step: {name}', f'{name}: reward') for name in PLAYERS),
    *((f'standard deviation over pairs: {name}', f'{name}: deviation') for name in PLAYERS),
    *((f'share of tit-for-tat: {name}', f'{name}: tit-for-tat') for name in PLAYERS),
]
PAPER = dict(zip((label for label, _ in ROWS), ('−1.98', '−1.06', '–', '0.14', '0.19')))


def run(seed, pairs, updates, rate, foreseen_rate):
    first, result = torch.randn(2, pairs, 5, generator=torch.Generator().manual_seed(seed)), {}
    for name, goal in PLAYERS.items():
        logits, rewards = first, []
        ascent = vmap(vmap(grad(goal), (0, 0, None)), (0, 0, None))
        for _ in range(updates):
            logits = logits + rate * ascent(logits, logits.flip(0), foreseen_rate)
            rewards.append((1 - DISCOUNT) * vmap(vmap(value))(logits, logits.flip(0)))
        chances = logits.sigmoid().flatten(0, 1)
        result |= {
            f'{name}: curve': [reward.mean().item() for reward in rewards],
            f'{name}: reward': rewards[-1].mean().item(),
            f'{name}: deviation': rewards[-1].std().item(),
            f'{name}: tit-for-tat': ((chances > 0.5) == TIT_FOR_TAT).all(-1).float().mean().item(),
            f'{name}: cooperates': (100 * chances).round().int().tolist(),  # percent
        }
    return result


def draw(runs, figure):
    curves, policies = figure.subplots(1, 2)
    spread = torch.linspace(-0.08, 0.08, len(runs[0]['LOLA: cooperates']))[:, None]
    for number, name in enumerate(PLAYERS):
        found = [run[f'{name}: curve'] for run in runs]
        report.band(curves, range(len(found[0])), found, name)
        places = torch.arange(5) + 0.25 * (number - 1) + spread
        chances = torch.tensor(runs[0][f'{name}: cooperates'])
        policies.scatter(places.flatten(), chances.flatten(), s=5, alpha=0.5)
    curves.set(xlabel='updates', ylabel='reward of a step', title='What players earn')
    curves.legend()
    policies.set_xticks(range(5), STATES)
    policies.set(ylabel='chance to cooperate, percent', title='What they have become')
