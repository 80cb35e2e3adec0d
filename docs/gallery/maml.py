"""MAML and Meta-SGD: parameters from which one step, on ten points, fits a new sinusoid.

Finn, Abbeel and Levine, "Model-Agnostic Meta-Learning for Fast Adaptation of Deep Networks", ICML
2017, and Li, Zhou, Chen and Li, "Meta-SGD: Learning to Learn Quickly for Few-Shot Learning", 2017.
"""

import torch
from torch.func import functional_call, grad, vmap
from torch.nn import Linear, ReLU, Sequential

import report
import torchopt

SETTINGS = {'iterations': 10_000, 'tasks': 10, 'test_tasks': 1000, 'compiled': True}
SMALL = {'iterations': 40, 'tasks': 10, 'test_tasks': 100, 'compiled': False}
SEEDS = 5
SHOTS, STEPS = 10, (0, 1, 2, 3, 5, 10)
# Inner steps while it learns, least and greatest inner rate at first, rate at which they change:
METHODS = {'pretrained': (0, 0.02, 0.02, 0.0), 'MAML': (1, 0.01, 0.01, 0.0)}
METHODS['Meta-SGD'] = (1, 0.005, 0.1, 1e-3)
ROWS = [(f'squared error after one step, {name}', f'{name} 1') for name in METHODS]
PAPER = dict(zip((label for label, _ in ROWS), ('–', '0.77 ± 0.11', '0.53 ± 0.09')))
X = torch.linspace(-5, 5, 101)[:, None]
SHOWN = 3 * torch.sin(X + 1)  # in the picture; the right half is known
SHOWN_POINTS = X[50:100:5], SHOWN[50:100:5]
# Parameters are arguments everywhere: the network is only their structure.
net = Sequential(Linear(1, 40), ReLU(), Linear(40, 40), ReLU(), Linear(40, 1))


def sample(tasks, queries):
    """Return support and query points of sinusoids, each (x, y) shaped (tasks, points, 1)."""
    low, high = torch.tensor([[0.1, 0.8, 0.0], [5.0, 1.2, torch.pi]])[..., None, None, None]
    amplitude, frequency, phase = low + (high - low) * torch.rand(3, tasks, 1, 1)
    x = 10 * torch.rand(tasks, SHOTS + queries, 1) - 5
    y = amplitude * torch.sin(frequency * x + phase)
    return (x[:, :SHOTS], y[:, :SHOTS]), (x[:, SHOTS:], y[:, SHOTS:])


def loss(params, points):
    return (functional_call(net, params, points[0]) - points[1]).square().mean()


def adapt(meta, support, steps):
    """Take gradient steps on one task, with a rate for every parameter."""
    params, rates = meta
    optimizer = torchopt.sgd(lr=rates)
    state = optimizer.init(params)
    for _ in range(steps):
        updates, state = optimizer.update(grad(loss)(params, support), state, inplace=False)
        params = torchopt.apply_updates(params, updates, inplace=False)
    return params


def error(meta, support, query, steps):
    """Return the mean error on all tasks' query points, after steps on their support points."""
    return vmap(lambda s, q: loss(adapt(meta, s, steps), q))(support, query).mean()


def meta_step(meta, state, support, query, steps, rate_of_rates):
    """Differentiate through the inner steps; take a step of Adam on parameters and rates."""
    outer = (dict.fromkeys(meta[0], rate) for rate in (torch.tensor(1e-3), rate_of_rates))
    gradient = grad(error)(meta, support, query, steps)
    updates, state = torchopt.adam(lr=tuple(outer)).update(gradient, state, inplace=False)
    return torchopt.apply_updates(meta, updates, inplace=False), state


def run(seed, iterations, tasks, test_tasks, compiled):
    torch.manual_seed(seed)
    step = torch.compile(meta_step, fullgraph=True) if compiled else meta_step
    for layer in net[::2]:
        layer.reset_parameters()
    initial, test, result = net.state_dict(), sample(test_tasks, 100), {}
    for name, (steps, low, high, rate) in METHODS.items():
        meta = initial, {k: low + (high - low) * torch.rand_like(v) for k, v in initial.items()}
        state = torchopt.adam().init(meta)
        for _ in range(iterations):
            meta, state = step(meta, state, *sample(tasks, SHOTS), steps, torch.tensor(rate))
        for n in STEPS:  # rates that are learned for one step may diverge after more
            result[f'{name} {n}'] = error(meta, *test, n).nan_to_num(1e3).clamp(max=1e3).item()
        for n in (0, 1):
            fit = functional_call(net, adapt(meta, SHOWN_POINTS, n), X)
            result[f'{name}, fit {n}'] = fit.flatten().tolist()
    return result


def draw(runs, figure):
    errors, *fits = figure.subplots(2, 2).flat
    for axes, name in zip(fits, METHODS):
        report.band(errors, STEPS, [[run[f'{name} {n}'] for n in STEPS] for run in runs], name)
        axes.plot(X, SHOWN, linewidth=6, alpha=0.3, label='to be learned')
        axes.plot(X, runs[0][f'{name}, fit 0'], ':', label='before')
        axes.plot(X, runs[0][f'{name}, fit 1'], label='after one step')
        axes.plot(*SHOWN_POINTS, 'o', label='on these points')
        axes.set_title(name)
    errors.set(xlabel='gradient steps', ylabel='squared error', yscale='log', ylim=(0.1, 10))
    errors.legend()
    figure.legend(*axes.get_legend_handles_labels(), loc='outside lower center', ncols=4)
    figure.set_size_inches(8, 6)
