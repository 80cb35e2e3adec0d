"""Sizes, strides, mixed and tied tensors, chosen by hand and by Hypothesis."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import torchopt
from support.optimizer_cases import FUSED_MAIN_CASES as MAIN_CASES
from support.optimizer_cases import OptimizerCase
from support.trees import assert_trees_close, generator, sample_gradients
from torchopt import pytree
from torchopt_accel.kernels import DTYPES

FUSED = [case for case in MAIN_CASES if case.has_kernel]
SIZES = (0, 1, 3, 1023, 1024, 1025, 4097, 70_001)


def compared(case: OptimizerCase, gradients: Any, **options: Any) -> tuple[Any, Any]:
    """Return two steps and their derivative, by the rule and by the kernels."""
    results = []
    for accelerated in (False, True):
        leaves, structure = pytree.tree_flatten(gradients, none_is_leaf=True)
        # A view keeps the strides.
        inputs = [None if g is None else g.detach().requires_grad_() for g in leaves]
        grads = pytree.tree_unflatten(structure, inputs)
        optimizer = case.make(use_accelerated_op=accelerated, **options)
        state = optimizer.init(grads)
        for _ in range(2):
            updates, state = optimizer.update(grads, state, params=grads, inplace=False)
        outputs = [x for x in pytree.tree_leaves((updates, state)) if x.requires_grad]
        wanted = [x for x in inputs if x is not None]
        derivative = (
            torch.autograd.grad(sum(x.sin().sum() for x in outputs), wanted) if wanted else ()
        )
        results.append((updates, state, derivative))
    return tuple(results)


@pytest.mark.slow
@pytest.mark.parametrize('case', FUSED, ids=str)
@pytest.mark.parametrize('threads', [1, 2])
def test_sizes(case: OptimizerCase, threads: int, device: str) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        gradients = [
            torch.randn(n, generator=generator(n), dtype=torch.float64).to(device) for n in SIZES
        ]
        expected, actual = compared(case, gradients)
    finally:
        torch.set_num_threads(before)
    assert_trees_close(actual, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize('dtype', [torch.float64, torch.float32])
def test_larger_than_the_caches(dtype: torch.dtype, kernels: str, launches: list[str]) -> None:
    # One part is not a whole number of chunks, blocks or vectors; the other is unaligned.
    numbers = torch.linspace(-1, 1, 5_000_003, dtype=dtype, device=kernels)
    case = next(case for case in MAIN_CASES if str(case) == 'adam-defaults')
    expected, actual = compared(
        case, [numbers[:3_000_000], numbers[3_000_001:]], weight_decay=0.05, eps_root=1e-3
    )
    assert launches == ['adam', 'adam', 'adam_backward', 'adam_backward']
    tolerance = 1e-12 if dtype == torch.float64 else 1e-5
    assert_trees_close(actual, expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize('case', MAIN_CASES, ids=str)
def test_layouts(case: OptimizerCase, launches: list[str], kernels: str) -> None:
    base = torch.randn(40, 30, generator=generator(1), dtype=torch.float64).to(kernels)
    gradients = {
        'transposed': base.t(),
        'strided': base[::2, ::3],
        'unaligned': base.flatten()[1:1000],
        'expanded': base[0].expand(5, 30),
        'scalar': base[0, 0],
        'empty': base[:0],
        'absent': None,
        'channels last': base.reshape(2, 3, 10, 20).contiguous(memory_format=torch.channels_last),
    }
    expected, actual = compared(case, gradients)
    assert bool(launches) == case.has_kernel
    assert_trees_close(actual, expected, rtol=1e-12, atol=1e-12)
    assert strides_of(actual[:2]) == strides_of(expected[:2])


def strides_of(tree: Any) -> list[Any]:
    return [leaf.stride() for leaf in pytree.tree_leaves(tree)]


def channels_last(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize('case', MAIN_CASES, ids=str)
@pytest.mark.parametrize('inplace', [False, True])
def test_memory_formats(case: OptimizerCase, inplace: bool, launches: list[str]) -> None:
    """All in one launch, and what is written in place is written where it lies."""
    image = torch.randn(2, 3, 4, 5, generator=generator(2))
    results = []
    for accelerated in (False, True):
        params = [channels_last(image), image.clone(), image[0].permute(2, 0, 1)]
        gradients = [torch.empty_like(p).copy_(p) for p in params]
        optimizer = case.make(use_accelerated_op=accelerated)
        state = optimizer.init(params)
        with torch.no_grad():
            new = optimizer.update(gradients, state, params=params, inplace=inplace)
        assert (new[0][0] is gradients[0]) == inplace
        results.append((new, strides_of(new)))
    assert len(launches) == case.has_kernel
    assert_trees_close(*results, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize('name', ['sgd', 'adam', 'adamw'])
def test_mixed_memory_formats(name: str, launches: list[str]) -> None:
    """A leaf takes the strides of its first state, else of its gradient."""
    image = torch.randn(2, 3, 4, 5, generator=generator(2), dtype=torch.float64)
    results = []
    for accelerated in (False, True):
        formats = [image, channels_last(image)]
        gradients = [x.clone().requires_grad_() for x in formats]
        params = [x.clone() for x in reversed(formats)]
        optimizer = getattr(torchopt, name)(weight_decay=0.1, use_accelerated_op=accelerated)
        updates, state = optimizer.update(
            gradients, optimizer.init(params), params=params, inplace=False
        )
        strides = strides_of((updates, state))
        cotangents = [torch.ones_like(x) for x in formats]
        found = torch.autograd.grad(updates, gradients, cotangents)
        results.append((updates, state, strides, found))
    assert_trees_close(*results, rtol=1e-12, atol=1e-12)
    assert len(launches) == 2


def test_mixed_dtypes_are_grouped(device: str, launches: list[str]) -> None:
    dtypes = (torch.float32, torch.float64, torch.bfloat16)
    gradients = [torch.randn(5, generator=generator(0)).to(device, dtype) for dtype in dtypes]
    gradients += [torch.randn(3, generator=generator(1)).to(device), None]
    (expected, actual) = compared(MAIN_CASES[0], gradients)
    assert len(launches) == 2 * 2 * 3
    assert_trees_close(actual, expected, rtol=1e-2, atol=1e-2)


def test_other_dtypes_take_the_rule(launches: list[str]) -> None:
    class Subclass(torch.Tensor):
        pass

    optimizer = torchopt.sgd(0.5, use_accelerated_op=True)
    for tensor in (torch.ones(3, device='meta'), torch.ones(3).as_subclass(Subclass)):
        updates, _ = optimizer.update([tensor], optimizer.init([tensor]), inplace=False)
        assert updates[0].shape == (3,)
    assert not launches


@pytest.mark.parametrize('inplace', [True, False])
def test_tied_tensors(inplace: bool, device: str) -> None:
    results = []
    for accelerated in (False, True):
        tied = torch.tensor([1.0, 2.0], device=device)
        optimizer = torchopt.sgd(0.5, momentum=0.9, use_accelerated_op=accelerated)
        gradients = [tied, tied, tied[:1]]
        results.append(optimizer.update(gradients, optimizer.init(gradients), inplace=inplace))
    assert_trees_close(*results)


def test_inplace_into_strided_and_expanded(device: str) -> None:
    optimizer = torchopt.sgd(0.5, use_accelerated_op=True)
    matrix = torch.ones(3, 2, device=device)
    optimizer.update([matrix.t()], optimizer.init([matrix.t()]))
    assert torch.equal(matrix, torch.full_like(matrix, -0.5))
    expanded = torch.ones(1, device=device).expand(3)
    with pytest.raises(ValueError, match='expanded'):
        optimizer.update([expanded], optimizer.init([expanded]))


@pytest.mark.parametrize('inplace', [True, False])
@pytest.mark.parametrize('case', MAIN_CASES, ids=str)
def test_lists_and_the_tuples_of_autograd_go_together(
    case: OptimizerCase, inplace: bool, launches: list[str]
) -> None:
    results = []
    for container in (list, tuple):
        optimizer = case.make(use_accelerated_op=True)
        params = [torch.tensor([1.0, 2.0]), torch.tensor([3.0])]
        state = optimizer.init(params)
        for step in range(3):
            gradients = container(sample_gradients(params, step))
            with torch.no_grad():
                updates, state = optimizer.update(gradients, state, params=params, inplace=inplace)
            assert type(updates) is container
        results.append((list(updates), state))
    assert_trees_close(*results)
    assert len(launches) == (6 if case.has_kernel else 0)


@pytest.mark.parametrize('inplace', [True, False])
@pytest.mark.parametrize('name', ['sgd', 'adagrad', 'adam'])
def test_sparse_gradients_take_the_rule(name: str, inplace: bool, launches: list[str]) -> None:
    """Which takes them or says which gradient it does not take."""
    results: list[Any] = []
    for accelerated in (False, True):
        gradients = [torch.ones(2), torch.tensor([[0.0, 0.0], [1.0, 2.0]]).to_sparse(1)]
        optimizer = getattr(torchopt, name)(0.1, use_accelerated_op=accelerated)
        state = optimizer.init([torch.ones(2), torch.ones(2, 2)])
        try:
            updates, state = optimizer.update(gradients, state, inplace=inplace)
        except TypeError as error:
            results.append(str(error))
        else:
            assert updates[1].is_sparse
            results.append((updates[0], updates[1].to_dense(), pytree.tree_leaves(state)))
    if name == 'adam':
        assert 'updates[1] is a sparse gradient' in results[0]
        assert results[0] == results[1]
    else:
        assert_trees_close(*results)
    assert not launches


def test_sparse_cotangents(launches: list[str]) -> None:
    results = []
    for accelerated in (False, True):
        gradient = torch.tensor([[1.0, 2.0], [3.0, 4.0]], dtype=torch.float64, requires_grad=True)
        optimizer = torchopt.adam(0.1, eps_root=1e-3, use_accelerated_op=accelerated)
        (weight,), _ = optimizer.update([gradient], optimizer.init([gradient]), inplace=False)
        # torch can't differentiate the rule with a sparse cotangent; kernels make it dense.
        rows = torch.nn.functional.embedding(torch.tensor([1]), weight, sparse=accelerated)
        results.append(torch.autograd.grad(rows.square().sum(), gradient))
    assert_trees_close(*results)
    assert launches == ['adam', 'adam_backward']


MISFITS = {
    'shape': lambda s: s._replace(mu=[torch.zeros(4)]),
    'dtype': lambda s: s._replace(mu=[torch.zeros(3, dtype=torch.float64)]),
    'structure': lambda s: s._replace(mu=[torch.zeros(3)] * 2),
    'absent': lambda s: s._replace(mu=[None]),
    'steps': lambda s: s._replace(steps=torch.zeros(2, dtype=torch.int64)),
}


@pytest.mark.parametrize('change', MISFITS.values(), ids=MISFITS)
@pytest.mark.parametrize('inplace', [True, False])
def test_misfits_raise_as_the_rule_does(change: Any, inplace: bool) -> None:
    gradients = [torch.ones(3)]
    messages = []
    for accelerated in (False, True):
        optimizer = torchopt.adam(use_accelerated_op=accelerated)
        first, *rest = optimizer.init(gradients)
        state = (change(first), *rest)
        with pytest.raises(ValueError) as caught:
            optimizer.update(gradients, state, inplace=inplace)
        messages.append(str(caught.value))
    assert messages[0] == messages[1]
    assert torch.equal(gradients[0], torch.ones(3))


def test_params_are_needed_for_decay() -> None:
    optimizer = torchopt.adamw(use_accelerated_op=True)
    with pytest.raises(ValueError, match='needs'):
        optimizer.update([torch.ones(3)], optimizer.init([torch.ones(3)]))


@dataclass(frozen=True)
class View:
    """A permuted slice of a bigger tensor."""

    shape: list[int]
    steps: list[int]
    start: int
    order: list[int]

    def on(self, device: str, dtype: torch.dtype = torch.float64) -> torch.Tensor:
        ends = [self.start + n * k for n, k in zip(self.shape, self.steps)]
        base = torch.randn(ends, generator=generator(self.start), dtype=torch.float64)
        slices = [slice(self.start, end, k) for end, k in zip(ends, self.steps)]
        return base.to(device, dtype)[tuple(slices)].permute(self.order)


@st.composite
def views(draw: st.DrawFn) -> View:
    shape = draw(st.lists(st.integers(0, 7), max_size=3))
    steps = [draw(st.integers(1, 3)) for _ in shape]
    return View(shape, steps, draw(st.integers(0, 3)), draw(st.permutations(range(len(shape)))))


RATES = st.floats(0.1, 0.99)
HYPERPARAMETERS = {
    'lr': st.floats(1e-3, 1.0),
    'lr_decay': st.floats(0.0, 1.0),
    'betas': st.tuples(RATES, RATES, RATES),
    'rho': RATES,
    'alpha': RATES,
    'etas': st.tuples(st.floats(0.1, 0.9), st.floats(1.1, 2.0)),
    'step_sizes': st.tuples(st.floats(0.0, 0.1), st.floats(0.1, 1.0)),
    'eps': st.floats(1e-6, 10.0),
    'eps_root': st.floats(0.0, 0.1),
    'weight_decay': st.floats(0.0, 1.0),
    'momentum': RATES,
    'maximize': st.booleans(),
}


@st.composite
def cases_with_numbers(draw: st.DrawFn) -> tuple[OptimizerCase, dict[str, Any]]:
    case = draw(st.sampled_from(FUSED))
    drawn = {name: draw(numbers) for name, numbers in HYPERPARAMETERS.items() if case.has(name)}
    if 'betas' in drawn:
        drawn['betas'] = drawn['betas'][: len(case.value('betas'))]
    return case, drawn


@settings(max_examples=100, deadline=None)
@given(
    drawn=cases_with_numbers(),
    gradients=st.lists(st.one_of(st.none(), views()), min_size=1, max_size=5),
)
def test_anything(
    drawn: tuple[OptimizerCase, dict[str, Any]], gradients: list[View | None], device: str
) -> None:
    case, numbers = drawn
    tensors = [None if view is None else view.on(device) for view in gradients]
    expected, actual = compared(case, tensors, **numbers)
    assert_trees_close(actual, expected, rtol=1e-9, atol=1e-9)


@settings(max_examples=60, deadline=None)
@given(
    case=st.sampled_from(FUSED),
    drawn=st.lists(st.tuples(views(), st.sampled_from(list(DTYPES))), min_size=1, max_size=5),
    lr=st.floats(1e-3, 1.0),
)
def test_any_dtype(
    case: OptimizerCase, drawn: list[tuple[View, torch.dtype]], lr: float, device: str
) -> None:
    """One step and its derivative against the rule for the same numbers in float64."""

    def step(gradients: list[torch.Tensor], accelerated: bool) -> list[Any]:
        inputs = [g.detach().requires_grad_() for g in gradients]
        optimizer = case.make(lr=lr, use_accelerated_op=accelerated)
        # Near moments of zero, small derivatives are differences of large numbers.
        state = pytree.tree_map(
            lambda s: (s + 0.5).detach() if s.is_floating_point() else s, optimizer.init(inputs)
        )
        updates, _ = optimizer.update(inputs, state, params=inputs, inplace=False)
        return [*updates, *torch.autograd.grad(sum(x.double().sum() for x in updates), inputs)]

    narrow = [view.on(device, dtype) for view, dtype in drawn]
    for mine, theirs in zip(step(narrow, True), step([g.double() for g in narrow], False)):
        tolerance = max(1e-12, 16 * torch.finfo(mine.dtype).eps)
        size = max([1e-3, *theirs.abs().flatten().tolist()])
        torch.testing.assert_close(mine.double(), theirs, rtol=tolerance, atol=tolerance * size)
