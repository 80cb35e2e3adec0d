"""Where the tensors of a step lie: read at once where torch offers it, one by one elsewhere."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

import torchopt
from torchopt_accel import reading

needs_exchange = pytest.mark.skipif(
    not hasattr(torch.Tensor, '__dlpack_c_exchange_api__'),
    reason='this torch does not read tensors at once',
)
A, B = torch.randn(2, 3), torch.randn(4)
NEGATIVE = torch.conj(torch.zeros(2, 3, dtype=torch.complex64)).imag


@needs_exchange
def test_both_ways_find_the_same() -> None:
    empty, scalar = torch.zeros(0, 3), torch.zeros(())
    part = torch.randn(3, 3)[1:]
    grads = [A, B, empty, scalar, part]
    roles = [grads, [], [torch.nn.Parameter(g.clone()) for g in grads], [None, B, None, None, A]]
    roles[3] = [None, torch.randn(4), None, torch.ones(()), None]
    found = reading.read_at_once(roles, grads)
    assert found == reading.read_apart(roles, grads)[1]
    assert found is not None
    addresses, strides = found
    assert addresses[0][0] == A.data_ptr() and addresses[1] == [] and addresses[3][0] == 0
    assert strides == ()


@needs_exchange
def test_both_ways_find_the_same_strides() -> None:
    image = torch.randn(2, 3, 4, 5).contiguous(memory_format=torch.channels_last)
    thin = torch.randn(2, 1, 4).permute(2, 1, 0)
    grads = [image, A, thin, A.t()]
    thick = torch.empty_strided((4, 1, 2), (1, 99, 4)).copy_(thin)
    roles = [grads, [torch.empty_like(image), A.clone(), thick, None]]
    found = reading.read_at_once(roles, grads)
    assert found == reading.read_apart(roles, grads)[1]
    assert found is not None and found[1] == [image.stride(), (), thin.stride(), (1, 3)]


@needs_exchange
def test_sizes_of_one_do_not_matter_to_the_order_of_elements() -> None:
    strange = torch.randn(6).as_strided((2, 1, 3), (3, 77, 1))
    assert strange.is_contiguous()
    assert reading.read_at_once([[strange]], [strange]) == ([[strange.data_ptr()]], ())


@needs_exchange
@pytest.mark.parametrize(
    'role',
    [
        [A],
        [A, B, B],
        [B, A],
        [A, B.double()],
        [A.t().contiguous().t(), B],
        [A[:1].expand(2, 3), B],
        [NEGATIVE, B],
        [A.to_sparse(), B],
        [A, B.to('meta')],
        [A, 'a string'],
        [A, [B]],
    ],
    ids=[
        *('fewer', 'more', 'shape', 'dtype', 'strides', 'expanded', 'negative'),
        *('sparse', 'device', 'string', 'list'),
    ],
)
def test_what_is_not_alike_and_plain_is_read_one_by_one(role: Any) -> None:
    assert reading.read_at_once([[A, B], role], [A, B]) is None


@pytest.mark.parametrize('factory', [torchopt.sgd, torchopt.adam, torchopt.adamw])
def test_a_torch_that_does_not_read_at_once(
    factory: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def run() -> list[torch.Tensor]:
        params = [torch.ones(3), torch.ones(2, 2).t()]
        grads = [torch.full((3,), 2.0, requires_grad=True), torch.eye(2).requires_grad_()]
        optimizer = factory(lr=0.1, use_accelerated_op=True)
        updates, _ = optimizer.update(grads, optimizer.init(params), params=params)
        plain = [torch.ones(3, requires_grad=True)]
        plain[0].grad = torch.ones(3)
        torchopt.Optimizer(plain, optimizer).step()
        total = sum((u * u).sum() for u in updates)
        return [*updates, *torch.autograd.grad(total, grads), *plain]

    expected = run()
    monkeypatch.setattr(reading, 'read_at_once', lambda roles, first: None)
    for new, old in zip(run(), expected):
        assert torch.equal(new, old)
