"""Sums over ranks where there is one; ``tests/distributed`` has several."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.distributed as dist

import torchopt
from torchopt.distributed import mean_over_ranks, sum_over_ranks

REDUCTIONS = pytest.mark.parametrize('reduce', [sum_over_ranks, mean_over_ranks])


@pytest.fixture
def one_rank() -> Iterator[None]:
    dist.init_process_group('gloo', store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@REDUCTIONS
def test_ranks_are_needed(reduce: Any) -> None:
    with pytest.raises(RuntimeError, match=f'{reduce.__name__} needs ranks to reduce over'):
        reduce(torch.ones(2))


@REDUCTIONS
@pytest.mark.usefixtures('one_rank')
def test_one_rank_reduces_to_itself(reduce: Any) -> None:
    tree = {'a': torch.ones(2, 3), 'b': (None, torch.tensor(2.0, dtype=torch.float64)), 'c': []}
    found = reduce(tree)
    assert found['b'][0] is None
    assert found['c'] == []
    torch.testing.assert_close(found['a'], tree['a'])
    torch.testing.assert_close(found['b'][1], tree['b'][1])
    assert reduce({}) == {}
    assert reduce(None) is None


@REDUCTIONS
@pytest.mark.usefixtures('one_rank')
def test_derivatives(reduce: Any) -> None:
    def cubes(a: torch.Tensor, b: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        found = reduce({'a': a, 'b': b})
        return found['a'] ** 3, found['b'] * found['a'].sum()

    a = torch.randn(2, dtype=torch.float64, requires_grad=True)
    b = torch.randn(3, 1, dtype=torch.float64, requires_grad=True)
    options = {'check_forward_ad': True, 'check_batched_grad': True}
    assert torch.autograd.gradcheck(cubes, (a, b), check_batched_forward_grad=True, **options)
    assert torch.autograd.gradgradcheck(cubes, (a, b), check_fwd_over_rev=True)


@pytest.mark.usefixtures('one_rank')
def test_the_input_is_not_written() -> None:
    leaf = torch.ones(3)
    sum_over_ranks([leaf])[0].mul_(2)
    assert leaf.sum() == 3
    assert leaf._version == 0


@pytest.mark.usefixtures('one_rank')
def test_gradients_in_one_buffer_are_updated_in_place() -> None:
    params = {'a': torch.ones(2, 3), 'b': torch.ones(4)}
    optimizer = torchopt.adam(0.1)
    plain = {name: 2 * leaf for name, leaf in params.items()}
    updates, _ = optimizer.update(mean_over_ranks(plain), optimizer.init(params))
    expected, _ = optimizer.update(plain, optimizer.init(params), inplace=False)
    torch.testing.assert_close(updates, expected)


@pytest.mark.usefixtures('one_rank')
@pytest.mark.parametrize(
    ('leaf', 'reduce', 'message'),
    [
        (torch.ones(2, dtype=torch.bool), sum_over_ranks, 'takes numbers'),
        (1.0, sum_over_ranks, r'takes strided tensors and None, got float 1\.0'),
        (torch.ones(2, 2).to_sparse(), mean_over_ranks, 'takes strided tensors'),
        (torch.ones(2, dtype=torch.int64), mean_over_ranks, 'takes floating-point and complex'),
    ],
)
def test_wrong_leaves_are_named(leaf: Any, reduce: Any, message: str) -> None:
    with pytest.raises(TypeError, match=rf"{message}.* as tree\['x'\]\[0\]"):
        reduce({'x': [leaf]})
