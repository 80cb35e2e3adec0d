"""Learning to learn by gradient descent by gradient descent (Andrychowicz et al., NeurIPS 2016)."""

import torch
from torch import nn

import report
import torchopt
from torchopt.pytree import tree_leaves, tree_map
from torchopt.unrolling import Recomputed, grad

SETTINGS = {'steps': 100, 'window': 20, 'rounds': 250, 'batch': 32, 'hidden': 20, 'compile': True}
SMALL = {'steps': 20, 'window': 10, 'rounds': 25, 'batch': 16, 'hidden': 16, 'compile': False}
SEEDS, TESTS = 3, 500
PAPER = {}
RATES, MOMENTA = torch.logspace(-2.5, -1.3, 9), torch.tensor([0.5, 0.8, 0.9, 0.95, 0.98])
RIVALS = {
    'SGD': (lambda hyper: torchopt.sgd(*hyper), torch.logspace(-2.8, -1.6, 13)[:, None]),
    'momentum': (lambda hyper: torchopt.sgd(*hyper), torch.cartesian_prod(RATES, MOMENTA)),
    'Adam': (lambda hyper: torchopt.adam(*hyper), torch.logspace(-1.4, 0.1, 13)[:, None]),
}
ROWS = [(f'mean loss of all steps, {name}', name) for name in ('LSTM', *RIVALS)]
ROWS += [(f'loss after the last step, {name}', f'{name} last') for name in ('LSTM', *RIVALS)]


def lstm(weights):
    """Make an optimizer of two LSTM layers, which see the gradient of one coordinate."""

    def init(params):
        zeros = params.new_zeros(params.numel(), weights[1][1].shape[1])
        return [(zeros, zeros), (zeros, zeros)]

    def update(gradient, state, **_):
        first = torch.lstm_cell(gradient.reshape(-1, 1), state[0], *weights[0])
        second = torch.lstm_cell(first[0], state[1], *weights[1])
        return 0.1 * nn.functional.linear(second[0], *weights[2]).view_as(gradient), [first, second]

    return torchopt.base.GradientTransformation(init, update)


def step(carry, _, consts):
    """Take a step of the optimizer ``make(hyper)``; return the mean loss after it, too."""
    (params, state), (make, hyper, (matrix, target)) = carry, consts

    def loss(params):
        return (matrix @ params - target).square().sum()

    updates, state = make(hyper).update(grad(loss)(params), state, params=params, inplace=False)
    params = torchopt.apply_updates(params, updates, inplace=False)
    return (params, state), loss(params) / len(params)


def train(steps, window, rounds, batch, hidden, compile):
    """Learn the weights of the LSTM on windows of each run: truncated backpropagation."""
    modules = nn.LSTMCell(1, hidden), nn.LSTMCell(hidden, hidden), nn.Linear(hidden, 1)
    weights = [[*module.parameters()] for module in modules]
    outer = torchopt.Adam(tree_leaves(weights))
    options = {'length': window, 'backward': Recomputed(compile=compile)}
    for number in range(rounds):
        outer.param_groups[0]['lr'] = 5e-3 * (1 - number / rounds)
        problem, params = torch.randn(batch, 10, 11).split([10, 1], 2), torch.zeros(batch, 10, 1)
        carry = params, lstm(weights).init(params)
        for _ in range(steps // window):
            carry, path = torchopt.unroll(step, carry, None, (lstm, weights, problem), **options)
            outer.zero_grad()
            path.mean().backward()
            outer.step()
            carry = tree_map(torch.Tensor.detach, carry)
    return weights


def run(seed, steps, **settings):
    torch.manual_seed(seed)
    weights, result = train(steps, **settings), {}
    problem, start = torch.randn(TESTS, 10, 11).split([10, 1], 2), torch.zeros(TESTS, 10, 1)

    def losses(hyper, make):
        carry, consts = (start, make(hyper).init(start)), (make, hyper, problem)
        return torchopt.unroll(step, carry, None, consts, length=steps)[1].detach()

    paths = {'LSTM': losses(weights, lstm)[None]}
    for name, (make, grid) in RIVALS.items():
        paths[name] = torch.vmap(losses, (0, None))(grid, make).nan_to_num(torch.inf)
    for name, found in paths.items():  # the best of each rival is chosen on the test itself
        best = found[found.mean(1).argmin()]
        result |= {name: best.mean().item(), f'{name} last': found[:, -1].min().item()}
        result[f'{name} path'] = best.tolist()
    return result


def draw(runs, figure):
    axes = figure.subplots()
    for name in ('LSTM', *RIVALS):
        paths = [run[f'{name} path'] for run in runs]
        report.band(axes, range(1, len(paths[0]) + 1), paths, name)
    axes.set(xlabel='step', ylabel='loss', yscale='log')
    axes.legend()
