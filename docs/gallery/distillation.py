"""Dataset distillation: ten images that train a network.

Wang, Zhu, Torralba and Efros, "Dataset Distillation", 2018, https://arxiv.org/abs/1811.10959
"""

import mosaic
import torch
from noisy_digits import load
from torch.func import functional_call, grad, stack_module_state, vmap
from torch.nn import Linear, ReLU, Sequential
from torch.nn.functional import cross_entropy
from tqdm import tqdm

import report
import torchopt

SETTINGS = {'rounds': 200, 'steps': 5, 'networks': 8}
SMALL = {'rounds': 30, 'steps': 3, 'networks': 2}
SEEDS = 5
ROWS = [
    ('test accuracy in %, a known network before training', 'untrained'),
    ('a known network, trained on ten images made for it', 'known network'),
    ('new networks, trained on ten images made for any', 'new networks'),
    ('new networks, trained on the mean image of every digit', 'mean images'),
]
PAPER = dict(zip([label for label, _ in ROWS], ('12.9', '93.8')))
DIGITS = torch.arange(10)


def make_net():
    return Sequential(Linear(64, 64), ReLU(), Linear(64, 10))


net = make_net()  # only its structure is used


def new_networks(number):
    """Return the initial parameters of some networks, stacked."""
    params = stack_module_state([make_net() for _ in range(number)])[0]
    return {name: param.detach() for name, param in params.items()}


def train(params, images, log_rates):
    """Take some steps on ten images, each with a learning rate of its own."""
    for log_rate in log_rates:
        optimizer = torchopt.sgd(lr=0.3 * torch.exp(log_rate / 5))
        gradients = grad(lambda p: cross_entropy(functional_call(net, p, images), DIGITS))(params)
        updates, _ = optimizer.update(gradients, optimizer.init(params), inplace=False)
        params = torchopt.apply_updates(params, updates, inplace=False)
    return params


def evaluate(data, networks, images, labels):
    """Train networks on the data; return mean loss and accuracy in % on examples."""
    scores = vmap(lambda params: functional_call(net, train(params, *data), images))(networks)
    right = scores.argmax(-1) == labels
    return cross_entropy(scores.movedim(-1, 1), labels.expand_as(right)), 100 * right.float().mean()


def distill(data, with_images, start, examples, rounds):
    """Learn rates, and images if asked, for networks from ``start``; return them at every round."""
    optimizer = torchopt.adam(lr=torchopt.schedule.linear_schedule(0.1, 0.0, rounds, 0))
    state, history = optimizer.init(data), [data]
    for _ in tqdm(range(rounds), 'distilling', leave=False):
        batch = torch.randint(len(examples.labels), (500,))
        drawn = start(), *(part[batch] for part in examples)
        (images, log_rates), _ = grad(evaluate, has_aux=True)(data, *drawn)
        updates, state = optimizer.update((with_images * images, log_rates), state, inplace=False)
        history.append(data := torchopt.apply_updates(data, updates, inplace=False))
    return history


def run(seed, rounds, steps, networks):
    torch.manual_seed(seed)
    (training, _, _, test), known = load(seed, noise=0.0, held_out=0), new_networks(1)
    means = torch.stack([training.images[training.labels == digit].mean(0) for digit in DIGITS])
    noise, frames = torch.randn(10, 64) / 2, [0, *(rounds // part for part in (40, 20, 10, 4, 1))]
    new = lambda: new_networks(networks), new_networks(50)
    ways = (noise, lambda: known, known), (noise, *new), (means, *new)
    result = {'rounds': frames, 'untrained': evaluate((means, []), known, *test)[1].item()}
    for (_, name), (images, start, tested) in zip(ROWS[1:], ways):
        history = distill((images, torch.zeros(steps)), images is noise, start, training, rounds)
        found = [history[frame] for frame in frames]
        if name == 'new networks':
            result['film'] = [(100 * data[0]).round().int().tolist() for data in found]
        result[f'{name}, all'] = [evaluate(data, tested, *test)[1].item() for data in found]
        result[name] = result[f'{name}, all'][-1]
    return result


def draw(runs, figure):
    (film, curves), rounds = figure.subplots(1, 2, width_ratios=(3, 2)), runs[0]['rounds']
    mosaic.show(film, torch.tensor(runs[0]['film']) / 100, [f'round {n}' for n in rounds])
    for _, name in ROWS[1:]:
        report.band(curves, rounds, [run[f'{name}, all'] for run in runs], name)
    curves.set(xlabel='round', ylabel='test accuracy in %', xscale='symlog')
    curves.set_xticks(rounds, rounds)
    curves.legend()
    figure.set_size_inches(9, 4)
