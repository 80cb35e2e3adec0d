"""Few-shot learning of handwritten digits, as one compiled graph.

Some digits are held out. Initial parameters and a learning rate for every tensor are meta-learned
on the other digits, so that five gradient steps on five images of each class tell held-out digits
apart. The reference is a network that was trained to classify the other digits and is fine-tuned
with the same number of steps. The method is MAML (Finn, Abbeel and Levine, ICML 2017) with learning
rates as in Li, Zhou, Chen and Li, "Meta-SGD", 2017: https://arxiv.org/abs/1707.09835

    python fewshot_digits.py             # compiles the meta-gradient first
    python fewshot_digits.py --eager     # without a compiler, several times slower
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.nn.functional import cross_entropy
from tqdm import tqdm

import torchopt

HELD_OUT, WAYS, SHOTS, QUERIES, INNER_STEPS = 4, 3, 5, 10, 5
device = 'cuda' if torch.cuda.is_available() else 'cpu'
Params = dict[str, Tensor]
Images = Tensor  # (classes, images per class, 64); a batch of tasks has a leading dimension


def load_classes() -> Images:
    """Return the same number of images of every digit: as many as the rarest digit has."""
    digits = load_digits()
    images, labels = torch.tensor(digits.data).float() / 16, torch.tensor(digits.target)
    count = int(labels.bincount().min())
    return torch.stack([images[labels == digit][:count] for digit in range(10)]).to(device)


def with_rotations(images: Images) -> Images:
    """Turn each digit into four classes by rotation."""
    turned = [images.unflatten(-1, (8, 8)).rot90(k, (-2, -1)).flatten(-2) for k in range(4)]
    return torch.cat(turned)


def sample_tasks(images: Images, tasks: int) -> tuple[Images, Images]:
    """Draw classes for every task, and support and query images of each class."""
    classes = torch.rand(tasks, len(images), device=device).argsort()[:, :WAYS, None]
    order = torch.rand(tasks, WAYS, images.shape[1], device=device).argsort()
    drawn = images[classes, order[..., : SHOTS + QUERIES]]
    return drawn[:, :, :SHOTS], drawn[:, :, SHOTS:]


def make_net(classes: int) -> nn.Module:
    return nn.Sequential(
        nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, classes)
    ).to(device)


net = make_net(WAYS)  # only its structure is used


def outputs(params: Params, images: Images) -> tuple[Tensor, Tensor]:
    """Return the scores of all images and their labels, the positions of their classes."""
    labels = torch.arange(len(images), device=device).repeat_interleave(images.shape[1])
    return functional_call(net, params, (images.flatten(0, 1),)), labels


def loss(params: Params, images: Images) -> Tensor:
    return cross_entropy(*outputs(params, images))


def adapt(params: Params, log_rates: Params, support: Images) -> Params:
    optimizer = torchopt.sgd(lr={name: rate.exp() for name, rate in log_rates.items()})
    state = optimizer.init(params)
    for _ in range(INNER_STEPS):
        updates, state = optimizer.update(grad(loss)(params, support), state, inplace=False)
        params = torchopt.apply_updates(params, updates, inplace=False)
    return params


def meta_loss(meta: tuple[Params, Params], support: Images, query: Images) -> Tensor:
    return vmap(lambda s, q: loss(adapt(*meta, s), q))(support, query).mean()


MetaGradient = Callable[[tuple[Params, Params], Images, Images], tuple[Params, Params]]


def meta_learn(
    images: Images, iterations: int, meta_gradient: MetaGradient
) -> tuple[Params, Params]:
    """Learn initial parameters and the logarithms of learning rates from 32 tasks per step."""
    initial = {name: param.detach() for name, param in make_net(WAYS).named_parameters()}
    meta = initial, {name: torch.tensor(-2.0, device=device) for name in initial}
    optimizer = torchopt.adam(lr=3e-3)
    state = optimizer.init(meta)
    for _ in tqdm(range(iterations), desc='meta-learning', leave=False):
        updates, state = optimizer.update(meta_gradient(meta, *sample_tasks(images, 32)), state)
        meta = torchopt.apply_updates(meta, updates)
    return meta


def pretrain(images: Images, steps: int = 500) -> Params:
    """Train a classifier of all classes; return its parameters with a new last layer."""
    model = make_net(len(images))
    optimizer = torchopt.Adam(model.parameters(), lr=3e-3)
    labels = torch.arange(len(images), device=device).repeat_interleave(images.shape[1])
    for _ in tqdm(range(steps), desc='pre-training', leave=False):
        optimizer.zero_grad()
        cross_entropy(model(images.flatten(0, 1)), labels).backward()
        optimizer.step()
    model[-1] = nn.Linear(64, WAYS, device=device)
    return {name: param.detach() for name, param in model.named_parameters()}


def accuracies(meta: tuple[Params, Params], images: Images, tasks: int = 500) -> list[float]:
    """Return the accuracy before and after adaptation, in percent."""

    def right(params: Params, query: Images) -> Tensor:
        scores, labels = outputs(params, query)
        return (scores.argmax(-1) == labels).float().mean()

    support, query = sample_tasks(images, tasks)
    before = vmap(lambda q: right(meta[0], q))(query)
    after = vmap(lambda s, q: right(adapt(*meta, s), q))(support, query)
    return [100 * found.mean().item() for found in (before, after)]


def fine_tuned(params: Params, images: Images) -> tuple[Params, Params]:
    """Return pre-trained parameters with the learning rate that is best on training tasks."""
    candidates = [
        (params, {name: torch.tensor(rate, device=device).log() for name in params})
        for rate in (0.03, 0.1, 0.3, 1.0)
    ]
    return max(candidates, key=lambda candidate: accuracies(candidate, images)[1])


def compare(seed: int, iterations: int, meta_gradient: MetaGradient) -> dict[str, list[float]]:
    torch.manual_seed(seed)
    digits = load_classes()[torch.randperm(10, device=device)]
    test, training = digits[:HELD_OUT], with_rotations(digits[HELD_OUT:])
    pretrained = pretrain(training)
    return {
        'pre-trained': accuracies(fine_tuned(pretrained, training), test),
        'meta-learned': accuracies(meta_learn(training, iterations, meta_gradient), test),
    }


def run(seeds: int, iterations: int, compiled: bool) -> None:
    meta_gradient = torch.compile(grad(meta_loss), fullgraph=True) if compiled else grad(meta_loss)
    results = [compare(seed, iterations, meta_gradient) for seed in tqdm(range(seeds), 'splits')]
    print(f'\nHeld-out digits: {WAYS} ways, {SHOTS} shots, {INNER_STEPS} steps, {seeds} splits')
    print(f'{"parameters":<14}{"before adaptation":>20}{"after":>20}')
    for name in results[0]:
        values = torch.tensor([result[name] for result in results])
        cells = (f'{mean:.1f} ± {std:.1f} %' for mean, std in zip(values.mean(0), values.std(0)))
        print(f'{name:<14}' + ''.join(f'{cell:>20}' for cell in cells))


if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--seeds', type=int, default=5)
    parser.add_argument('--iterations', type=int, default=1000)
    parser.add_argument('--eager', action='store_true', help='do not compile')
    arguments = parser.parse_args()
    torch.set_num_threads(1)  # the network is too small to share among threads
    run(arguments.seeds, arguments.iterations, not arguments.eager)
