"""Learns rate, momentum and weight decay of Muon by gradient, through whole trainings.

A network is trained on 200 handwritten digits, of which some have a wrong label. What Muon's
numbers should be is learned by the gradient of the loss on 300 clean digits at the end of the
training, a new network in each round. It begins with the defaults, and so does AdamW, to compare:

    python docs/examples/learn_muon.py
    python docs/examples/learn_muon.py --check    # the gradient beside finite differences

Each step orthogonalizes the weight matrices, by five iterations, and the gradient goes through
them; the biases take Adam's steps.
"""

from __future__ import annotations

import argparse
from typing import Any, NamedTuple

import torch
from noisy_digits import Examples, Split, load
from torch import Tensor
from torch.nn.functional import cross_entropy

import torchopt
from torchopt.unrolling import Recomputed, grad

STEPS, BATCH, WIDTH = 30, 50, 32
Params = dict[str, Tensor]


class Numbers(NamedTuple):
    """What is learned: logarithms of rate and weight decay, the logit of the momentum.

    They make rates and decays positive, and keep the momentum between 0 and 1.
    """

    log_rate: Tensor
    momentum_logit: Tensor
    log_decay: Tensor

    @classmethod
    def begin(cls, rate: float, momentum: float, decay: float) -> Numbers:
        values = torch.tensor([rate, momentum, decay], dtype=torch.float64)
        return cls(values[0].log(), values[1].logit(), values[2].log())

    def values(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return rate, momentum and weight decay."""
        return self.log_rate.exp(), self.momentum_logit.sigmoid(), self.log_decay.exp()


def muon(numbers: Numbers) -> torchopt.GradientTransformation:
    rate, momentum, decay = numbers.values()
    return torchopt.muon(rate, weight_decay=decay, momentum=momentum)


def adamw(numbers: Numbers) -> torchopt.GradientTransformation:
    rate, momentum, decay = numbers.values()
    return torchopt.adamw(rate, betas=(momentum, 0.999), weight_decay=decay)


OPTIMIZERS = {
    'muon': (muon, Numbers.begin(0.001, 0.95, 0.1)),
    'adamw': (adamw, Numbers.begin(0.001, 0.9, 0.01)),
}


class Training:
    """Networks that an optimizer trains, and how good they are."""

    def __init__(self, optimizer: str, dtype: torch.dtype = torch.float32) -> None:
        self.make, self.start = OPTIMIZERS[optimizer]
        self.dtype = dtype
        torch.manual_seed(0)
        data = load(seed=0, noise=0.2, held_out=300, test=500)
        few = Examples(*(part[:200] for part in data.training))
        self.data = Split(few, data.corrupted[:200], data.held_out, data.test)

    def network(self) -> Params:
        """Draw the parameters of two hidden layers."""
        sizes = {'in': (WIDTH, 64), 'hidden': (WIDTH, WIDTH), 'out': (10, WIDTH)}
        params = {}
        for name, (rows, columns) in sizes.items():
            params[f'{name}.weight'] = torch.randn(rows, columns, dtype=self.dtype) / columns**0.5
            params[f'{name}.bias'] = torch.zeros(rows, dtype=self.dtype)
        return params

    def outputs(self, params: Params, images: Tensor) -> Tensor:
        x = images.to(self.dtype)
        for name in ('in', 'hidden', 'out'):
            x = x if name == 'in' else x.tanh()
            x = x @ params[f'{name}.weight'].T + params[f'{name}.bias']
        return x

    def loss(self, params: Params, examples: Examples) -> Tensor:
        return cross_entropy(self.outputs(params, examples.images), examples.labels)

    def trained(self, numbers: Numbers, seed: int, steps: int = STEPS) -> Params:
        """Train a new network; return its parameters, with their graph."""

        def step(carry: Any, batch: Tensor, numbers: Numbers) -> tuple[Any, None]:
            params, state = carry
            few = Examples(*(part[batch] for part in self.data.training))
            gradients = grad(self.loss)(params, few)
            updates, state = self.make(numbers).update(
                gradients, state, params=params, inplace=False
            )
            return (torchopt.apply_updates(params, updates, inplace=False), state), None

        torch.manual_seed(seed)
        params = self.network()
        batches = torch.randint(len(self.data.training.labels), (steps, BATCH))
        carry = params, self.make(numbers).init(params)
        (params, _), _ = torchopt.unroll(step, carry, batches, numbers, backward=Recomputed())
        return params

    def judged(self, numbers: Numbers, seed: int, steps: int = STEPS) -> Tensor:
        """Train a new network; return its loss on the held-out digits."""
        return self.loss(self.trained(numbers, seed, steps), self.data.held_out)

    def tested(self, numbers: Numbers, seeds: range) -> tuple[float, float]:
        """Return the mean loss of trained networks on the test digits, and how many are right."""
        with torch.no_grad():
            networks = [self.trained(numbers, seed) for seed in seeds]
            losses = torch.stack([self.loss(params, self.data.test) for params in networks])
            guesses = [self.outputs(params, self.data.test.images).argmax(1) for params in networks]
        right = torch.stack([guess == self.data.test.labels for guess in guesses])
        return losses.mean().item(), right.double().mean().item()


def learned(training: Training, rounds: int) -> Numbers:
    """Descend the loss of trained networks, a new one in each round."""
    numbers = Numbers(*(number.clone().requires_grad_() for number in training.start))
    outer = torch.optim.Adam(numbers, lr=0.2)
    for seed in range(rounds):
        outer.zero_grad()
        training.judged(numbers, seed).backward()
        outer.step()
    return Numbers(*(number.detach() for number in numbers))


def difference(optimizer: str, steps: int = 8, change: float = 1e-4) -> float:
    """Return the largest relative difference of a derivative from central finite differences."""
    training = Training(optimizer, torch.float64)
    point = Numbers.begin(rate=0.03, momentum=0.9, decay=1.0)  # where each of them matters
    numbers = Numbers(*(number.clone().requires_grad_() for number in point))
    found = torch.stack(torch.autograd.grad(training.judged(numbers, 0, steps), numbers))
    expected = torch.zeros_like(found)
    with torch.no_grad():
        for place, shift in enumerate((change * torch.eye(3, dtype=torch.float64)).unbind()):
            up, down = (
                training.judged(Numbers(*(torch.stack([*point]) + sign * shift)), 0, steps)
                for sign in (1, -1)
            )
            expected[place] = (up - down) / (2 * change)
    return ((found - expected) / expected).abs().max().item()


def show(optimizer: str, rounds: int) -> None:
    """Learn the numbers of an optimizer, and print what new networks reach with them."""
    training = Training(optimizer)
    print(f'{optimizer:8} {"rate":>7} {"momentum":>9} {"decay":>7} {"test loss":>10} {"right":>6}')
    for when, numbers in (('default', training.start), ('learned', learned(training, rounds))):
        rate, momentum, decay = (value.item() for value in numbers.values())
        loss, right = training.tested(numbers, range(1000, 1005))
        print(f'{when:8} {rate:7.4f} {momentum:9.3f} {decay:7.3f} {loss:10.3f} {right:6.0%}')


if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--optimizer', choices=OPTIMIZERS, nargs='*', default=list(OPTIMIZERS))
    parser.add_argument('--rounds', type=int, default=20, help='of the outer loop')
    parser.add_argument('--check', action='store_true', help='compare with finite differences')
    options = parser.parse_args()
    torch.set_num_threads(1)
    for name in options.optimizer:
        if options.check:
            print(f'{name}: relative difference from finite differences {difference(name):.1e}')
        else:
            show(name, options.rounds)
