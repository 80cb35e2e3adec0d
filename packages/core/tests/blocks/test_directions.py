"""What is peculiar to clip_by_value, clip_by_block_rms, ema, orthogonalize and the trust ratio."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import torchopt
from support.trees import generator
from torchopt import transform as t

INF, NAN = float('inf'), float('nan')


def vector(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def applied(block: torchopt.GradientTransformation, updates: Any, **keywords: Any) -> Any:
    return block.update(updates, block.init(updates), inplace=False, **keywords)[0]


def test_clip_by_value() -> None:
    update = vector(-3.0, -0.5, 0.0, 0.5, INF, -INF, NAN)
    for bound in (1.0, torch.tensor(1.0)):
        found = applied(t.clip_by_value(bound), update)
        assert torch.equal(found.nan_to_num(9.0), vector(-1.0, -0.5, 0.0, 0.5, 1.0, -1.0, 9.0))


def test_clip_by_value_has_no_derivative_beyond_the_bound() -> None:
    update, bound = vector(-3.0, 0.5, 2.0).requires_grad_(), torch.tensor(1.0, requires_grad=True)
    found = applied(t.clip_by_value(bound), update)
    by_update, by_bound = torch.autograd.grad(found, (update, bound), vector(1.0, 10.0, 100.0))
    assert by_update.tolist() == [0.0, 10.0, 0.0]
    assert by_bound.item() == 99.0


def test_clip_by_block_rms() -> None:
    updates = [vector(3.0, -4.0, 0.0, 0.0), vector(0.1, -0.2), vector()]
    found = applied(t.clip_by_block_rms(1.0), updates)
    assert found[0].square().mean().sqrt().item() == pytest.approx(1.0)
    torch.testing.assert_close(found[0], updates[0] / 2.5)
    assert torch.equal(found[1], updates[1])
    assert found[2].shape == (0,)


def test_numbers_out_of_range() -> None:
    for make, message in (
        (lambda: t.clip_by_value(-1.0), 'max_delta must be at least 0'),
        (lambda: t.clip_by_block_rms(0.0), 'threshold must be greater than 0'),
        (lambda: t.ema(1.0), 'decay must be at least 0 and less than 1'),
        (lambda: t.scale_by_trust_ratio(0.0), 'trust_coefficient must be greater than 0'),
        (lambda: t.scale_by_trust_ratio(eps=-1.0), 'eps must be at least 0'),
        (lambda: t.orthogonalize(ns_steps=-1), 'ns_steps must be at least 0'),
        (lambda: t.orthogonalize(eps=NAN), 'eps must be at least 0'),
    ):
        with pytest.raises(ValueError, match=message):
            make()


@pytest.mark.parametrize('debias', [True, False])
def test_ema_of_a_constant(debias: bool) -> None:
    block = t.ema(0.9, debias)
    state = block.init(vector(1.0))
    for step in range(1, 4):
        update, state = block.update(vector(2.0), state, inplace=False)
        assert update.item() == pytest.approx(2.0 if debias else 2 * (1 - 0.9**step))
    assert update.data_ptr() != state.mean.data_ptr()


def test_trust_ratio() -> None:
    params = {'a': vector(3.0, 4.0), 'zero': vector(0.0, 0.0), 'still': vector(1.0)}
    updates = {'a': vector(0.0, 2.0), 'zero': vector(1.0, 2.0), 'still': vector(0.0)}
    found = applied(t.scale_by_trust_ratio(0.5, eps=0.5), updates, params=params)
    assert found['a'].tolist() == [0.0, 2.0]  # 0.5 * 5 / (2 + 0.5) = 1
    assert found['zero'].tolist() == [1.0, 2.0]
    assert found['still'].tolist() == [0.0]


@pytest.mark.parametrize('shape', [(3, 5), (5, 3), (4, 4), (2, 3, 4)])
def test_orthogonalized_matrices_keep_their_singular_vectors(shape: tuple[int, ...]) -> None:
    matrix = torch.randn(shape, generator=generator(3), dtype=torch.float64)
    found = applied(t.orthogonalize(ns_steps=8), [matrix, matrix.mT.contiguous()])
    left, singular, right = torch.linalg.svd(matrix, full_matrices=False)
    values = left.mT @ found[0] @ right.mT
    diagonal = values.diagonal(dim1=-2, dim2=-1)
    torch.testing.assert_close(values, torch.diag_embed(diagonal))
    assert diagonal.min() > 0.6
    assert diagonal.max() < 1.3
    torch.testing.assert_close(found[1], found[0].mT)
    assert singular.max() > 1.5


def test_only_matrices_are_orthogonalized() -> None:
    with pytest.raises(ValueError, match=r"updates\['b'\] has shape \(2,\), and is not a matrix"):
        applied(t.orthogonalize(), {'w': torch.ones(2, 2), 'b': torch.ones(2)})


def test_the_factor_of_a_shape() -> None:
    tall, wide = torch.ones(9, 4), torch.ones(4, 9)
    assert applied(t.scale_by_shape(), [tall, wide])[0][0, 0] == 1.5
    assert applied(t.scale_by_shape(), [tall, wide])[1][0, 0] == 1.0
    found = applied(t.scale_by_shape('match_rms_adamw'), [tall, wide])
    assert [leaf[0, 0].item() for leaf in found] == pytest.approx([0.6, 0.6])
    with pytest.raises(ValueError, match="must be 'original', 'match_rms_adamw' or None"):
        t.scale_by_shape('spectral')
