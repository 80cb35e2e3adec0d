"""What may change between two steps of a plain optimizer, and must be seen by the next one."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch

import torchopt
from support.trees import assert_trees_close, generator
from torchopt_accel import in_place
from torchopt_accel.internals import HAS_TABLE, increment_versions

needs_table = pytest.mark.skipif(not HAS_TABLE, reason='this torch does not read tensors at once')


@pytest.fixture(params=['at once', 'one by one'])
def reading(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run a test as with a torch that does not read tensors at once, too."""
    if request.param == 'one by one':
        monkeypatch.setattr(in_place, 'HAS_TABLE', False)


def made(seed: int = 0) -> list[torch.Tensor]:
    source = generator(seed)
    return [torch.randn(shape, generator=source) for shape in ((3,), (2, 3), (4, 2, 3, 5))]


def set_gradients(params: list[torch.Tensor], seed: int) -> None:
    source = generator(seed)
    for param in params:
        param.grad = torch.empty_like(param).copy_(torch.randn(param.shape, generator=source))


def other_data(params: list[torch.Tensor], optimizer: torchopt.Optimizer) -> None:
    params[1].data = torch.ones(2, 3)


def other_shape(params: list[torch.Tensor], optimizer: torchopt.Optimizer) -> None:
    params[0].data = torch.ones(5)
    params[0].grad = torch.ones(5)
    optimizer.state[params[0]] = {}


def other_dtype(params: list[torch.Tensor], optimizer: torchopt.Optimizer) -> None:
    for param in params:
        param.data, param.grad = param.data.double(), None
        optimizer.state[param] = {k: v.double() for k, v in optimizer.state[param].items()}
    set_gradients(params, 7)


def other_order(params: list[torch.Tensor], optimizer: torchopt.Optimizer) -> None:
    params[2].data = params[2].data.contiguous(memory_format=torch.channels_last)


def order_of_gradient(params: list[torch.Tensor], optimizer: torchopt.Optimizer) -> None:
    gradient: Any = params[2].grad
    params[2].grad = gradient.contiguous(memory_format=torch.channels_last)


def negated(params: list[torch.Tensor], optimizer: torchopt.Optimizer) -> None:
    params[0].grad = torch.conj(torch.arange(3) * 1j)[:].imag.clone().detach()
    params[1].grad = torch._neg_view(torch.ones(2, 3))


def negated_param(params: list[torch.Tensor], optimizer: torchopt.Optimizer) -> None:
    params[1].data = torch._neg_view(params[1].data)


def absent(params: list[torch.Tensor], optimizer: torchopt.Optimizer) -> None:
    params[0].grad = None


def all_absent(params: list[torch.Tensor], optimizer: torchopt.Optimizer) -> None:
    for param in params:
        param.grad = None


def frozen(params: list[torch.Tensor], optimizer: torchopt.Optimizer) -> None:
    params[1].requires_grad_(False)


def shared(params: list[torch.Tensor], optimizer: torchopt.Optimizer) -> None:
    params[0].data = params[1].data[0]


def gradient_in_param(params: list[torch.Tensor], optimizer: torchopt.Optimizer) -> None:
    params[1].grad = params[1].detach()


def other_state(params: list[torch.Tensor], optimizer: torchopt.Optimizer) -> None:
    optimizer.state[params[1]]['exp_avg'] = torch.ones(2, 3)


def no_state(params: list[torch.Tensor], optimizer: torchopt.Optimizer) -> None:
    del optimizer.state[params[2]]


def other_count(params: list[torch.Tensor], optimizer: torchopt.Optimizer) -> None:
    optimizer.state[params[0]]['step'] = torch.tensor(10)


def exchanged(params: list[torch.Tensor], optimizer: torchopt.Optimizer) -> None:
    optimizer.param_groups[0]['params'].reverse()


def other_rate(params: list[torch.Tensor], optimizer: torchopt.Optimizer) -> None:
    optimizer.param_groups[0]['lr'] = 0.5


def rate_of_nothing(params: list[torch.Tensor], optimizer: torchopt.Optimizer) -> None:
    optimizer.param_groups[0]['lr'] = 0.0


def rate_and_decay(params: list[torch.Tensor], optimizer: torchopt.Optimizer) -> None:
    optimizer.param_groups[0].update(lr=0.5, weight_decay=0.3)


def rate_and_memory(params: list[torch.Tensor], optimizer: torchopt.Optimizer) -> None:
    other_rate(params, optimizer)
    shared(params, optimizer)


def tensor_rate(params: list[torch.Tensor], optimizer: torchopt.Optimizer) -> None:
    optimizer.param_groups[0]['lr'] = torch.tensor(0.5)


def lent(params: list[torch.Tensor], optimizer: torchopt.Optimizer) -> None:
    optimizer.load_state_dict(optimizer.state_dict())


CHANGES = (
    *(other_data, other_shape, other_dtype, other_order, order_of_gradient, negated),
    *(negated_param, absent, all_absent, frozen, shared, gradient_in_param, other_state),
    *(no_state, other_count, exchanged, other_rate, rate_of_nothing, rate_and_decay),
    *(rate_and_memory, tensor_rate, lent),
)


@pytest.mark.usefixtures('reading')
@pytest.mark.parametrize('change', CHANGES, ids=lambda change: change.__name__)
def test_what_changes_between_steps(change: Callable[..., None], launches: list[str]) -> None:
    results = []
    for accelerated in (False, True):
        params = [x.requires_grad_() for x in made()]
        optimizer = torchopt.AdamW(params, lr=0.1, use_accelerated_op=accelerated)
        for step in range(4):
            set_gradients(params, step)
            if step == 2:
                change(params, optimizer)
            optimizer.step()
        results.append((params, optimizer.state_dict()['state']))
    assert len(launches) == 4 - (change is all_absent)
    assert_trees_close(*results, rtol=1e-5, atol=1e-6)


@needs_table
def test_one_call_is_enough_for_what_is_usual(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also with a parameter that has no gradient, other strides, and a schedule."""
    monkeypatch.delattr(in_place, 'read_step')
    params = [x.requires_grad_() for x in (*made(), torch.ones(2, 3).t(), torch.ones(1))]
    optimizer = torchopt.Adam(params, lr=lambda count: 0.1, use_accelerated_op=True)
    for step in range(3):
        set_gradients(params[:-1], step)
        optimizer.step()
    assert params[-1] == 1 and params[0][0] != made()[0][0]


def test_schedulers_and_bad_rates(launches: list[str]) -> None:
    """The rate of every step counts, and a bad one raises as it does at construction."""
    results = []
    for accelerated in (False, True):
        params = [x.requires_grad_() for x in made()]
        optimizer = torchopt.Adam(params, lr=0.1, use_accelerated_op=accelerated)
        scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)
        for step in range(4):
            set_gradients(params, step)
            optimizer.step()
            scheduler.step()
        optimizer.param_groups[0]['lr'] = 0.1  # the rate of the construction
        optimizer.step()
        for bad in (-1.0, float('nan'), 'fast'):
            optimizer.param_groups[0]['lr'] = bad
            with pytest.raises((ValueError, TypeError), match='lr'):
                optimizer.step()
        optimizer.param_groups[0]['lr'] = 0.1
        results.append((params, optimizer.state_dict()['state']))
    assert len(launches) == 5
    assert_trees_close(*results, rtol=1e-5, atol=1e-6)


@pytest.mark.usefixtures('reading')
def test_groups_that_share_a_transformation(launches: list[str]) -> None:
    """All groups are read before the first is written: each needs addresses of its own."""
    results = []
    for accelerated in (False, True):
        params = [torch.full((4,), float(i), requires_grad=True) for i in range(3)]
        groups = [{'params': [param]} for param in params]
        impl = torchopt.adam(0.1, use_accelerated_op=accelerated)
        optimizer = torchopt.Optimizer(groups, impl)
        for step in range(2):
            set_gradients(params, step)
            optimizer.step()
        results.append(params)
    assert_trees_close(*results, rtol=1e-6)
    assert len(launches) == 6


@pytest.mark.usefixtures('reading')
def test_mixed_dtypes_take_a_launch_each(launches: list[str]) -> None:
    results = []
    for accelerated in (False, True):
        dtypes = (torch.float32, torch.float64, torch.float32)
        params = [torch.ones(3, dtype=dtype, requires_grad=True) for dtype in dtypes]
        optimizer = torchopt.Adam(params, lr=0.1, use_accelerated_op=accelerated)
        for step in range(3):
            set_gradients(params, step)
            params[step].grad = None
            optimizer.step()
        results.append((params, [int(optimizer.state[param]['step']) for param in params]))
    assert_trees_close(*results, rtol=1e-6)
    assert len(launches) == 5


@pytest.mark.usefixtures('reading')
def test_no_tensor_is_kept_alive() -> None:
    """A step must not hold gradients that are set to None, nor a state that is moved away."""
    params = [x.requires_grad_() for x in made()]
    optimizer = torchopt.Adam(params, use_accelerated_op=True)
    set_gradients(params, 0)
    optimizer.step()
    kept = [weakref.ref(param.grad) for param in params]
    kept += [weakref.ref(optimizer.state[param]['exp_avg']) for param in params]
    optimizer.zero_grad()
    for param in params:
        optimizer.state[param]['exp_avg'] = torch.zeros_like(param)
    gc.collect()
    assert not any(reference() is not None for reference in kept)


@pytest.mark.usefixtures('reading')
def test_autograd_notices_what_a_step_writes() -> None:
    param = torch.ones(3, requires_grad=True)
    optimizer = torchopt.SGD([param], momentum=0.9, use_accelerated_op=True)
    set_gradients([param], 0)
    loss = param.square().sum()
    optimizer.step()
    with pytest.raises(RuntimeError, match='modified by an inplace operation'):
        loss.backward()
    buffer = optimizer.state[param]['momentum_buffer']
    before = buffer._version, optimizer.state[param]['step']._version
    optimizer.step()
    assert (buffer._version, optimizer.state[param]['step']._version) > before


def test_inference_tensors_have_no_versions() -> None:
    with torch.inference_mode():
        inference = torch.ones(2)
    plain = torch.ones(2)
    increment_versions([inference, plain])
    assert plain._version >= 1
