"""Few-shot classes with Conv4: one step on one image each tells new two-digit numbers apart.

MAML (Finn, Abbeel and Levine, ICML 2017) with a learned rate for every tensor, as one graph.
"""

import time

import torch
from number_tasks import WAYS, conv4, load, pretrain, sample
from torch.func import functional_call, grad, vmap
from torch.nn.functional import cross_entropy, pad

import report
import torchopt

SETTINGS = {'iterations': 500, 'tasks': 8, 'test_tasks': 100, 'compiled': True}
SMALL = {'iterations': 10, 'tasks': 4, 'test_tasks': 8, 'compiled': False}
SEEDS = 5
SHOTS, QUERIES, STEPS = 1, 5, (0, 1, 2, 3, 5)
METHODS = 'random parameters', 'pretrained', 'meta-learned'
ROWS = [(f'percent right at step {n}, {name}', f'{name} {n}') for n in (1, 5) for name in METHODS]
ROWS += [(f'milliseconds of a meta-gradient, {how}', how) for how in ('eager', 'compiled')]
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


def over_tasks(meta, support, query, steps=1):
    """Return the loss and the accuracy on query images, the means of all tasks."""
    results = vmap(lambda s, q: loss(adapt(meta, s, steps), q))(support, query)
    return tuple(result.mean() for result in results)


def meta_learn(meta, source, iterations, tasks, meta_gradient):
    optimizer = torchopt.adam(lr=3e-3)
    state = optimizer.init(meta)
    for _ in range(iterations):
        gradient, _ = meta_gradient(meta, *sample(source, tasks, SHOTS, QUERIES))
        updates, state = optimizer.update(gradient, state, inplace=False)
        meta = torchopt.apply_updates(meta, updates, inplace=False)
    return meta


def run(seed, iterations, tasks, test_tasks, compiled):
    torch.manual_seed(seed)
    training, held_out = load(seed)
    validation, test = (sample(of, test_tasks, SHOTS, QUERIES) for of in (training, held_out))
    rates = [dict.fromkeys(net.state_dict(), torch.tensor(r).log()) for r in (0.03, 0.1, 0.3)]

    def fine_tuned(params):
        """Return parameters with the best rate for one step on training numbers."""
        return max([(params, rate) for rate in rates], key=lambda m: over_tasks(m, *validation)[1])

    eager, first = grad(over_tasks, has_aux=True), (conv4().state_dict(), rates[1])
    used, result = torch.compile(eager, fullgraph=True) if compiled else eager, {}
    for name, meta_gradient, count in (('eager', eager, 5), ('compiled', used, iterations)):
        meta_learn(first, training, 2, tasks, meta_gradient)  # compiles
        start = time.process_time()
        learned = meta_learn(first, training, count, tasks, meta_gradient)
        result[name] = 1000 * (time.process_time() - start) / count
    images = pad(test[0][0].squeeze(), (1, 1), value=0.5)  # of one task, for the picture
    result['task'] = images.transpose(0, 1).flatten(1).tolist()
    rivals = fine_tuned(first[0]), fine_tuned(pretrain(training, iterations))
    for name, meta in zip(METHODS, (*rivals, learned)):
        result |= {f'{name} {n}': 100 * over_tasks(meta, *test, n)[1].item() for n in STEPS}
    return result


def draw(runs, figure):
    task, axes = figure.subplots(2, 1, height_ratios=(1, 4))
    task.imshow(runs[0]['task'], cmap='gray')
    task.set(xticks=[], yticks=[], title='all that a task shows: one image of each of five numbers')
    for name in METHODS:
        report.band(axes, STEPS, [[run[f'{name} {n}'] for n in STEPS] for run in runs], name)
    axes.set(xlabel='gradient steps on one image of each number', ylabel='accuracy, percent')
    axes.legend()
