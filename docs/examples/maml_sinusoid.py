"""Model-agnostic meta-learning (MAML) of sinusoids, with the functional API.

Learns initial parameters from which one gradient step on ten points fits an unseen sinusoid. The
setting follows Finn, Abbeel and Levine, "Model-Agnostic Meta-Learning for Fast Adaptation of Deep
Networks", ICML 2017, section 5.1: https://arxiv.org/abs/1703.03400

    python maml_sinusoid.py                      # 50,000 iterations, a few minutes
    python maml_sinusoid.py --iterations 2000    # a short run
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from tqdm import tqdm

import torchopt

SHOTS = 10
Params = dict[str, Tensor]
Points = tuple[Tensor, Tensor]


def make_model() -> nn.Module:
    return nn.Sequential(
        nn.Linear(1, 40), nn.ReLU(), nn.Linear(40, 40), nn.ReLU(), nn.Linear(40, 1)
    )


model = make_model()  # only its structure is used: parameters are arguments everywhere
inner_optimizer = torchopt.sgd(lr=0.01)
outer_optimizer = torchopt.adam(lr=1e-3)


def sample_tasks(tasks: int, query_points: int) -> tuple[Points, Points]:
    """Draw sinusoids, and support and query points of each."""
    amplitude = torch.empty(tasks, 1, 1).uniform_(0.1, 5.0)
    phase = torch.empty(tasks, 1, 1).uniform_(0.0, math.pi)
    x = torch.empty(tasks, SHOTS + query_points, 1).uniform_(-5.0, 5.0)
    y = amplitude * torch.sin(x - phase)
    return (x[:, :SHOTS], y[:, :SHOTS]), (x[:, SHOTS:], y[:, SHOTS:])


def loss(params: Params, points: Points) -> Tensor:
    """Return the mean squared error on the points of one task."""
    x, y = points
    return (functional_call(model, params, (x,)) - y).square().mean()


def adapt(params: Params, support: Points, steps: int = 1) -> Params:
    """Fit one task by gradient descent, which ``inplace=False`` makes differentiable."""
    state = inner_optimizer.init(params)
    for _ in range(steps):
        gradients = grad(loss)(params, support)
        updates, state = inner_optimizer.update(gradients, state, params=params, inplace=False)
        params = torchopt.apply_updates(params, updates, inplace=False)
    return params


def adapted_losses(params: Params, support: Points, query: Points, steps: int = 1) -> Tensor:
    """Return every task's error on its query points after adaptation to its support points."""
    return vmap(lambda s, q: loss(adapt(params, s, steps), q))(support, query)


def meta_loss(params: Params, support: Points, query: Points) -> Tensor:
    return adapted_losses(params, support, query).mean()


def train(initial: Params, iterations: int, compiled: bool = False) -> Params:
    """Meta-learn initial parameters, with 25 tasks per iteration."""
    meta_gradient = torch.compile(grad(meta_loss)) if compiled else grad(meta_loss)
    params, state = initial, outer_optimizer.init(initial)
    for _ in tqdm(range(iterations), desc='MAML', unit='it'):
        gradients = meta_gradient(params, *sample_tasks(tasks=25, query_points=SHOTS))
        updates, state = outer_optimizer.update(gradients, state, params=params, inplace=False)
        params = torchopt.apply_updates(params, updates, inplace=False)
    return params


def print_table(initial: Params, learned: Params, tasks: int = 1000) -> None:
    support, query = sample_tasks(tasks, query_points=100)
    print(f'\nMAML: mean squared error of {tasks} test tasks, {SHOTS} shots, 95 % interval')
    print(f'{"inner steps":<11}{"random parameters":>22}{"meta-learned":>22}')
    for steps in (0, 1, 5, 10):
        print(f'{steps:<11}', end='')
        for params in (initial, learned):
            losses = adapted_losses(params, support, query, steps)
            print(f'{losses.mean():>14.3f} ± {1.96 * losses.std() / math.sqrt(tasks):.3f}', end='')
        print()


def save_plot(initial: Params, learned: Params, path: Path) -> None:
    """Plot how both sets of parameters adapt to one task."""
    x = torch.linspace(-5, 5, 200).unsqueeze(-1)
    support_x = torch.empty(SHOTS, 1).uniform_(-5, 5)
    support = support_x, 3 * torch.sin(support_x - 1)
    figure, panels = plt.subplots(1, 2, figsize=(12, 4), sharey=True, layout='constrained')
    titles = ('From meta-learned parameters', 'From random parameters')
    for panel, params, title in zip(panels, (learned, initial), titles):
        panel.set(title=title, xlabel='x', ylabel='y')
        panel.plot(x, 3 * torch.sin(x - 1), color='0.75', linewidth=5, label='task: 3 sin(x - 1)')
        for steps, style in ((0, ':'), (1, '--'), (10, '-')):
            fit = functional_call(model, adapt(params, support, steps), (x,))
            panel.plot(x, fit, style, linewidth=2, label=f'inner steps: {steps}')
        panel.plot(*support, 'k^', label=f'{SHOTS} support points')
    figure.legend(*panels[0].get_legend_handles_labels(), loc='outside right upper')
    figure.savefig(path, dpi=150)
    print(f'plot: {path.resolve()}')


def run(iterations: int, output: Path, compiled: bool = False) -> None:
    torch.manual_seed(0)
    initial = {name: param.detach() for name, param in make_model().named_parameters()}
    learned = train(initial, iterations, compiled)
    print_table(initial, learned)
    output.mkdir(parents=True, exist_ok=True)
    save_plot(initial, learned, output / 'maml_sinusoid.png')


if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--iterations', type=int, default=50_000)
    parser.add_argument('--compile', action='store_true', help='compile the meta-gradient')
    parser.add_argument('--output', type=Path, default=Path('demo-output'), help='for the plot')
    arguments = parser.parse_args()
    torch.set_num_threads(1)  # the network is too small to share among threads
    run(arguments.iterations, arguments.output, arguments.compile)
