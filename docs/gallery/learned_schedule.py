"""A learned schedule for AdamW: learning rate and weight decay, through all 1,000 steps."""

from functools import cache

import torch
from hyperparameters import HELD_OUT, IMAGES, LABELS, TEST
from torch.nn.functional import cross_entropy, interpolate

import report
import torchopt
from torchopt.unrolling import Recomputed, grad

SETTINGS = {'steps': 1000, 'rounds': 12, 'networks': 2, 'compile': True}
SMALL = {'steps': 10, 'rounds': 8, 'networks': 2, 'compile': False}
SEEDS = 3
PAPER = {}
ROWS = [
    ('test loss, learned schedule', 'learned'),
    ('test loss, best of 15 cosine schedules', 'cosine'),
    ('test loss, best of 15 constant pairs', 'constant'),
]
POINTS, BATCH = 21, 4
PAIRS = [(rate, decay) for rate in (1e-3, 2e-3, 5e-3, 1e-2, 2e-2) for decay in (0.01, 0.1, 1.0)]


def loss(params, rows):
    hidden = (IMAGES[rows] @ params['hidden'] + params['hidden bias']).tanh()
    return cross_entropy(hidden @ params['out'] + params['out bias'], LABELS[rows])


def step(carry, x, _):
    """Take a step of AdamW with this step's rate and decay."""
    (params, state), (rate, decay, rows) = carry, x
    gradients = grad(loss)(params, rows)
    optimizer = torchopt.adamw(rate, weight_decay=decay)
    updates, state = optimizer.update(gradients, state, params=params, inplace=False)
    return (torchopt.apply_updates(params, updates, inplace=False), state), None


def final_loss(schedule, seed, rows, compile):
    """Train a new network with rates and decays, of shape (2, steps); return its loss."""
    random = torch.Generator().manual_seed(seed)
    params = {
        'hidden': torch.randn(64, 128, generator=random) / 8,
        'hidden bias': torch.zeros(128),
        'out': torch.randn(128, 10, generator=random) / 12,
        'out bias': torch.zeros(10),
    }
    batches = torch.randint(1000, (schedule.shape[1], BATCH), generator=random)
    carry = params, torchopt.adamw().init(params)
    backward = Recomputed(compile=compile)  # one step is compiled, for any number of steps
    (params, _), _ = torchopt.unroll(step, carry, (*schedule, batches), backward=backward)
    return loss(params, rows)


def mean_loss(schedule, seeds, rows, compile):
    return sum(final_loss(schedule, seed, rows, compile).item() for seed in seeds) / len(seeds)


@cache
def tuned(name, steps, networks, compile):
    """Return the schedule of this shape that is best on held-out digits; all seeds share it."""
    shape = torch.ones(2, steps)
    if name == 'cosine':
        shape[0] = (1 + torch.linspace(0, torch.pi, steps).cos()) / 2
    seeds = range(10_000, 10_000 + networks)
    schedules = [torch.tensor(pair)[:, None] * shape for pair in PAIRS]
    return min(schedules, key=lambda schedule: mean_loss(schedule, seeds, HELD_OUT, compile))


def run(seed, steps, rounds, networks, compile):
    found = {name: tuned(name, steps, networks, compile) for name in ('constant', 'cosine')}
    points, outer = found['constant'][:, :1].log().expand(-1, POINTS), torchopt.adam(0.1)
    state = outer.init(points)
    for number in range(seed * rounds, (seed + 1) * rounds):
        points = points.detach().requires_grad_()
        schedule = interpolate(points[None], steps, mode='linear', align_corners=True)[0].exp()
        held_out = final_loss(schedule, number, HELD_OUT, compile)
        (gradient,) = torch.autograd.grad(held_out, points)
        updates, state = outer.update(gradient, state, inplace=False)
        points = torchopt.apply_updates(points, updates, inplace=False)
    found['learned'] = schedule.detach()
    seeds = range(20_000 + seed * networks, 20_000 + (seed + 1) * networks)
    result = {name: mean_loss(found[name], seeds, TEST, compile) for name in found}
    return result | {f'{name} curves': found[name][:, :: steps // 10].tolist() for name in found}


def draw(runs, figure):
    for part, axes in enumerate(figure.subplots(1, 2)):
        for _, name in ROWS:
            curves = [run[f'{name} curves'][part] for run in runs]
            report.band(axes, torch.linspace(0, 1, len(curves[0])), curves, name)
        what = ('learning rate', 'weight decay')[part]
        axes.set(xlabel='part of the training', ylabel=what, yscale='log', ylim=(1e-4, None))
    axes.legend()
