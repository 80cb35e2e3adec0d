"""What the driver asks of a GPU: launches, devices, and errors that it passes on."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from emulation.cases import draw
from emulation.compare import compare
from emulation.library import Library, build
from emulation.translate import translate


@pytest.fixture(scope='module')
def library(tmp_path_factory: pytest.TempPathFactory) -> Library:
    return Library(build(tmp_path_factory.mktemp('emulation') / 'built', ['adam', 'sgd']))


@pytest.mark.parametrize(
    ('rule', 'direction', 'tensors', 'launches'),
    [
        # Adam has 11 roles backward, SGD 3 forward and 5 backward.
        ('adam', 'backward', 291, 1),
        ('adam', 'backward', 292, 2),
        ('sgd', 'forward', 679, 1),
        ('sgd', 'forward', 680, 2),
        ('sgd', 'backward', 4092, 9),
    ],
)
def test_one_launch_for_what_arguments_hold(
    library: Library, rule: str, direction: str, tensors: int, launches: int
) -> None:
    case = replace(
        draw(rule, torch.float64, direction, (1,) * tensors, 0),
        lr='each',
        lr_grad=direction == 'backward',
        special=False,
        inplace=False,
    )
    outcome = compare(case, library)
    assert not outcome.mistakes
    assert outcome.counts.launches == launches + case.lr_grad


def test_more_learning_rates_than_one_launch_takes(library: Library) -> None:
    case = draw('sgd', torch.float64, 'backward', (1,) * 4093, 0)
    outcome = compare(replace(case, lr='each', lr_grad=True, special=False), library)
    assert not outcome.mistakes
    assert outcome.counts.launches == 9 + 2


def test_obstacles_are_told_and_forgotten(library: Library) -> None:
    assert library.obstacle(0) == ''
    assert library.obstacle(7) == 'torchopt_accel: device: invalid device ordinal'
    # An error that stays would be reported by the next launch.
    case = draw('adam', torch.float32, 'forward', (5, 70), 0)
    assert not compare(case, library).mistakes


@pytest.mark.parametrize(
    ('cuda', 'cpp'),
    [
        ('f<<<n, 2, 0, s>>>(x, y);', 'emulation::launch(f, n, 2, 0, s)(x, y);'),
        (
            '__shared__ double sums[k / 32];',
            'auto& sums = emulation::shared<double[k / 32]>(__FILE__, __LINE__, alignof(double));',
        ),
        (
            '__shared__ alignas(T) unsigned char room[sizeof(T)];',
            'auto& room = emulation::shared<unsigned char[sizeof(T)]>'
            '(__FILE__, __LINE__, alignof(T));',
        ),
        ('f(const __grid_constant__ A<I + 1> a, int n)', 'f(const A<I + 1>& a, int n)'),
    ],
)
def test_translation(cuda: str, cpp: str) -> None:
    assert translate(cuda) == cpp


@pytest.mark.parametrize('cuda', ['f<T><<<1, 2>>>(x)', '__shared__ int one;'])
def test_what_cannot_be_translated_is_an_error(cuda: str) -> None:
    with pytest.raises(ValueError, match='in line 2'):
        translate('\n' + cuda)
