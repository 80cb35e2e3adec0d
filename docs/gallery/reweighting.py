"""Learning to reweight examples: which labels of a badly labelled training set to trust.

Ren, Zeng, Yang and Urtasun, "Learning to Reweight Examples for Robust Deep Learning", ICML 2018.
"""

import mosaic
import torch
from noisy_digits import Examples, load
from torch.nn import Linear, ReLU, Sequential
from torch.nn.functional import cross_entropy, normalize
from tqdm import tqdm

import report
import torchopt

SETTINGS = {'noise': 0.4, 'clean': 50, 'steps': 2400}
SMALL = {'noise': 0.4, 'clean': 50, 'steps': 160}
SEEDS = 10
ROWS = [
    ('test accuracy in %, trained on all labels', 'all'),
    ('trained on all labels, a quarter of the steps', 'all, stopped'),
    ('trained on the clean examples alone', 'clean'),
    ('trained on all labels, reweighted', 'reweighted'),
    ('trained on the right labels alone', 'right'),
    ('weight of the wrong labels, in % of all weight', 'wrong part'),
    ('correlation over digits: clean examples and weight', 'by digit'),
]
PAPER = {ROWS[0][0]: '67.97 ± 0.62', ROWS[3][0]: '86.92 ± 0.19'}


def weigh(net, images, labels, clean):
    """Weight the examples of a batch by how much a step on them would help the clean ones."""
    start = torchopt.extract_state_dict(net)
    weights = torch.zeros(len(labels), requires_grad=True)
    losses = cross_entropy(net(images), labels, reduction='none')
    torchopt.MetaSGD(net, lr=0.1).step((weights * losses).sum())
    (slopes,) = torch.autograd.grad(cross_entropy(net(clean.images), clean.labels), weights)
    torchopt.recover_state_dict(net, start)
    return normalize(-slopes.clamp(max=0), p=1, dim=0)


def train(examples, test, steps, clean=None):
    """Return the test accuracy in %, and the examples of every batch with their weights."""
    net, history = Sequential(Linear(64, 100), ReLU(), Linear(100, 10)), []
    rate = torchopt.schedule.linear_schedule(0.1, 0.0, steps, 0)
    optimizer = torchopt.SGD(net.parameters(), lr=rate, momentum=0.9)
    for _ in tqdm(range(steps), 'training', leave=False):
        chosen = torch.randperm(len(examples.labels))[:100]
        images, labels = (part[chosen] for part in examples)
        equal = torch.ones(len(chosen)) / len(chosen)
        weights = weigh(net, images, labels, clean) if clean else equal
        history.append((chosen, weights))
        optimizer.zero_grad()
        (weights * cross_entropy(net(images), labels, reduction='none')).sum().backward()
        optimizer.step()
    right = net(test.images).argmax(-1) == test.labels
    return 100 * right.float().mean().item(), *map(torch.stack, zip(*history))


def run(seed, noise, clean, steps):
    torch.manual_seed(seed)
    training, wrong, trusted, test = load(seed, noise, clean)
    accuracy, chosen, weights = train(training, test, steps, trusted)
    wrong_parts = 100 * (weights * wrong[chosen]).sum(1)
    totals = torch.zeros(len(wrong)).index_add(0, chosen.flatten(), 100 * weights.flatten())
    means = totals / chosen.flatten().bincount(minlength=len(wrong))  # 1 if all are equal
    order, counts = means.argsort().tolist(), trusted.labels.bincount(minlength=10)
    of_digit = [means[~wrong & (training.labels == digit)].mean() for digit in range(10)]
    mistakes = [i for i in order if not wrong[i]][:8] + [i for i in order if wrong[i]][:-9:-1]
    return {
        'all': train(training, test, steps)[0],
        'all, stopped': train(training, test, steps // 4)[0],
        'clean': train(trusted, test, steps)[0],
        'reweighted': accuracy,
        'right': train(Examples(*(part[~wrong] for part in training)), test, steps)[0],
        'wrong part': wrong_parts.mean().item(),
        'by digit': torch.corrcoef(torch.stack([counts, torch.stack(of_digit)]))[0, 1].item(),
        'wrong part in time': [part.mean().item() for part in wrong_parts.chunk(20)],
        'weights': [(100 * means[group]).round().tolist() for group in (~wrong, wrong)],
        'mistakes': (16 * training.images[mistakes]).tolist(),
        'their labels': training.labels[mistakes].tolist(),
    }


def draw(runs, figure):
    panels = figure.subplot_mosaic([['weights', 'time'], 2 * ['mistakes']], height_ratios=(3, 2))
    groups = [[w / 100 for run in runs for w in run['weights'][of]] for of in (0, 1)]
    panels['weights'].hist(groups, 30, range=(0, 3), density=True, label=['right', 'wrong'])
    panels['weights'].set(xlabel='weight, against equal weights', ylabel='density of either group')
    panels['weights'].legend(title='label')
    parts, places = [run['wrong part in time'] for run in runs], [0.025 + i / 20 for i in range(20)]
    report.band(panels['time'], places, parts, 'reweighted')
    panels['time'].axhline(100 * SETTINGS['noise'], color='C1', label='equal weights')
    panels['time'].set(xlabel='part of the training', ylabel='weight of wrong labels in %', ylim=0)
    panels['time'].legend()
    images = torch.tensor(runs[0]['mistakes']).unflatten(0, (2, 8))
    rows = ['right label,\nlittle weight', 'wrong label,\nmuch weight']
    mosaic.show(panels['mistakes'], images, rows, [f'“{x}”' for x in runs[0]['their labels']])
    figure.set_size_inches(9, 5)
