"""Hyperparameters through a whole run (Maclaurin et al., ICML 2015): 900 of them at a time."""

import math
from itertools import pairwise

import torch
from sklearn.datasets import load_digits
from torch.nn.functional import cross_entropy

import report
import torchopt
from torchopt.pytree import tree_leaves
from torchopt.unrolling import Recomputed, grad

SETTINGS = {'steps': 100, 'rounds': 12, 'networks': 4, 'tests': 10}
SMALL = {'steps': 12, 'rounds': 6, 'networks': 2, 'tests': 4}
SEEDS = 3
PAPER = {}
ROWS = [
    ('test loss, learned rates and momentum', 'learned'),
    ('test loss, best of 16 constant pairs', 'constant'),
]
SIZES, BATCH = (64, 50, 50, 50, 10), 50
PAIRS = [(rate, momentum) for rate in (0.03, 0.1, 0.3, 1.0) for momentum in (0.5, 0.8, 0.9, 0.95)]
digits = load_digits()
order = torch.randperm(len(digits.target), generator=torch.Generator().manual_seed(0))
IMAGES = torch.tensor(digits.data, dtype=torch.float32)[order] / 16
LABELS = torch.tensor(digits.target)[order]
HELD_OUT, TEST = torch.arange(1000, 1400), torch.arange(1400, len(order))


def sample(networks, steps):
    """Return the initial parameters of some networks, and the batches of their training."""
    params = {}
    for layer, (inputs, outputs) in enumerate(pairwise(SIZES), start=1):
        params[f'weight {layer}'] = torch.randn(networks, inputs, outputs) / math.sqrt(inputs)
        params[f'bias {layer}'] = torch.zeros(networks, outputs)
    return params, torch.randint(1000, (networks, steps, BATCH))


def loss(params, rows):
    hidden = IMAGES[rows]
    for layer in range(1, len(SIZES)):
        hidden = hidden.tanh() if layer > 1 else hidden
        hidden = hidden @ params[f'weight {layer}'] + params[f'bias {layer}']
    return cross_entropy(hidden, LABELS[rows])


def step(carry, x, _):
    """Take a step of SGD with this step's own momentum, and own rate for each tensor."""
    (params, state), (log_rates, logit, rows) = carry, x
    rates = {name: log_rate.exp() for name, log_rate in log_rates.items()}
    gradients = grad(loss)(params, rows)
    updates, state = torchopt.sgd(rates, logit.sigmoid()).update(gradients, state, inplace=False)
    return (torchopt.apply_updates(params, updates, inplace=False), state), None


def final_loss(hyper, networks, rows):
    """Train networks; return their mean loss on ``rows`` in the end."""

    def of_one(params, batches):
        carry = params, torchopt.sgd(1.0, momentum=0.5).init(params)
        (params, _), _ = torchopt.unroll(step, carry, (*hyper, batches), backward=Recomputed())
        return loss(params, rows)

    return torch.vmap(of_one)(*networks).mean()


def run(seed, steps, rounds, networks, tests):
    torch.manual_seed(seed)
    tuning, testing = sample(tests, steps), sample(tests, steps)
    constants = torch.tensor(PAIRS)[..., None].expand(-1, -1, steps)
    pairs = [({name: rate.log() for name in tuning[0]}, m.logit()) for rate, m in constants]
    best = min(pairs, key=lambda pair: final_loss(pair, tuning, HELD_OUT).item())
    # Where training is fastest, gradients through all of it explode now and then: begin below.
    hyper = {name: rate - math.log(3) for name, rate in best[0].items()}, best[1].clone()
    outer = torchopt.Adam([leaf.requires_grad_() for leaf in tree_leaves(hyper)], lr=0.08)
    for _ in range(rounds):
        outer.zero_grad()
        final_loss(hyper, sample(networks, steps), HELD_OUT).backward()
        outer.step()
    rates = {name: log_rate.exp().tolist() for name, log_rate in hyper[0].items()}
    return {
        'learned': final_loss(hyper, testing, TEST).item(),
        'constant': final_loss(best, testing, TEST).item(),
        'schedules': {**rates, 'momentum': hyper[1].sigmoid().tolist()},
    }


def draw(runs, figure):
    left, right = figure.subplots(1, 2)
    for name in runs[0]['schedules']:
        curves = [run['schedules'][name] for run in runs]
        if not name.startswith('bias'):
            axes = right if name == 'momentum' else left
            report.band(axes, range(1, len(curves[0]) + 1), curves, name)
    left.set(xlabel='step', ylabel='learning rate', yscale='log')
    right.set(xlabel='step', ylabel='momentum')
    left.legend()
