"""Few-shot digits: Conv4 learns from one image each to tell digits apart that it has never seen.

MAML (Finn, Abbeel and Levine, ICML 2017) with a learned rate for every tensor, as one graph.
"""

import functools

import torch
from digit_tasks import WAYS, conv4, load_classes, pretrain, sample
from torch.func import functional_call, grad, vmap
from torch.nn.functional import cross_entropy

import torchopt

SETTINGS = {'iterations': 400, 'tasks': 16, 'shots': 1, 'test_tasks': 300, 'compiled': True}
SMALL = {'iterations': 12, 'tasks': 4, 'shots': 1, 'test_tasks': 20, 'compiled': False}
SEEDS = 5
INNER_STEPS, STEPS = 3, (0, 1, 2, 3, 5, 10)
METHODS = 'random parameters', 'pretrained', 'meta-learned'
ROWS = [(f'accuracy after {n} steps, {name}', f'{name} {n}') for n in (3, 10) for name in METHODS]
PAPER = {}

net = conv4()  # only its structure is used


def loss(params, images):
    """Return the cross entropy, and the share of images that are recognized."""
    labels = torch.arange(WAYS).repeat_interleave(images.shape[1])
    scores = functional_call(net, params, (images.flatten(0, 1),))
    return cross_entropy(scores, labels), (scores.argmax(-1) == labels).float().mean()


def adapt(meta, support, steps):
    """Take gradient steps on one task, with a rate for every tensor."""
    params, log_rates = meta
    optimizer = torchopt.sgd(lr={name: rate.exp() for name, rate in log_rates.items()})
    state = optimizer.init(params)
    for _ in range(steps):
        gradient, _ = grad(loss, has_aux=True)(params, support)
        updates, state = optimizer.update(gradient, state, inplace=False)
        params = torchopt.apply_updates(params, updates, inplace=False)
    return params


def over_tasks(meta, support, query, steps):
    """Return the loss and the accuracy on query images, the means of all tasks."""
    results = vmap(lambda s, q: loss(adapt(meta, s, steps), q))(support, query)
    return tuple(result.mean() for result in results)


meta_gradient = grad(over_tasks, has_aux=True)
compiled_meta_gradient = functools.cache(lambda: torch.compile(meta_gradient, fullgraph=True))


def meta_learn(meta, draw_tasks, iterations, compiled):
    gradient_of = compiled_meta_gradient() if compiled else meta_gradient
    optimizer = torchopt.adam(lr=3e-3)
    state = optimizer.init(meta)
    for _ in range(iterations):
        gradient, _ = gradient_of(meta, *draw_tasks(), INNER_STEPS)
        updates, state = optimizer.update(gradient, state, inplace=False)
        meta = torchopt.apply_updates(meta, updates, inplace=False)
    return meta


def run(seed, iterations, tasks, shots, test_tasks, compiled):
    torch.manual_seed(seed)
    held_out, training = load_classes(seed)
    validation, test = (sample(of, test_tasks, shots, 10) for of in (training, held_out))
    first = conv4().state_dict()
    rates = [{name: torch.tensor(rate).log() for name in first} for rate in (0.03, 0.1, 0.3, 1.0)]

    def fine_tuned(params):
        candidates = [(params, log_rates) for log_rates in rates]
        return max(candidates, key=lambda meta: over_tasks(meta, *validation, INNER_STEPS)[1])

    learned = meta_learn(
        (first, rates[1]), lambda: sample(training, tasks, shots, 10), iterations, compiled
    )
    found = {}
    rivals = fine_tuned(first), fine_tuned(pretrain(training, iterations))
    for name, meta in zip(METHODS, (*rivals, learned)):
        found |= {f'{name} {n}': 100 * over_tasks(meta, *test, n)[1].item() for n in STEPS}
    return found


def draw(runs, figure):
    axes = figure.subplots()
    for name in METHODS:
        found = torch.tensor([[run[f'{name} {n}'] for n in STEPS] for run in runs])
        axes.plot(STEPS, found.mean(0), 'o-', label=name)
        axes.fill_between(STEPS, found.amin(0), found.amax(0), alpha=0.2)
    axes.set(xlabel='gradient steps on one image of each digit', ylabel='accuracy, percent')
    axes.legend()
