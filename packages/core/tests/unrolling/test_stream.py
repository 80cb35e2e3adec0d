"""Data by number: the same results as stacked data, and mistakes that raise."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
import torch

import torchopt
from support.unrolls import DTYPE, Problem, assert_equal, problem
from torchopt.unrolling import (
    Disk,
    ForwardMode,
    Recomputed,
    Snapshots,
    Stored,
    Strategy,
    Stream,
    Truncated,
    grad,
)

LENGTH = 6
MODES = [
    Stored(),
    Recomputed(),
    Recomputed(keep_gradients=True),
    Recomputed(keep_gradients=True, order='forward-over-reverse'),
    Snapshots(2),
    Snapshots(),
    Truncated(4),
    Truncated(4, Snapshots(1)),
    ForwardMode(limit=300),
]
every_mode = pytest.mark.parametrize('backward', MODES, ids=str)


def streamed(example: Problem) -> tuple[Problem, list[int]]:
    """The same problem with its data by number, and the list of the numbers asked for."""
    rows, asked = example.xs['x'].detach(), []

    def batch(number: int) -> Any:
        asked.append(number)
        return {'x': rows[number], 'nothing': None}

    del example.wanted[2]
    return example._replace(xs=Stream(batch, LENGTH)), asked


@every_mode
def test_the_same_gradient(backward: Strategy) -> None:
    example = problem(length=LENGTH)
    expected = example.gradients(backward)
    del expected[2]
    by_number, asked = streamed(example)
    assert_equal(by_number.gradients(backward), expected)
    assert set(asked) == set(range(LENGTH))


@every_mode
def test_where_the_end_is_not_known(backward: Strategy) -> None:
    example = problem(length=LENGTH)

    def until(carry: Any) -> bool:
        return carry[2] == 5

    expected = example.gradients(backward, until=until)
    del expected[2]
    by_number, _ = streamed(example)
    endless = by_number._replace(xs=Stream(by_number.xs.fn))
    assert_equal(endless.gradients(backward, until=until), expected)


@pytest.mark.parametrize('backward', [Recomputed(), Snapshots(2)], ids=str)
def test_disk(backward: Any, tmp_path: Path) -> None:
    example = problem(length=LENGTH)
    expected = example.gradients(Stored())
    del expected[2]
    by_number, _ = streamed(example)
    with_disk = type(backward)(storage=Disk(tmp_path))
    # The list that the function fills would make another function of it.
    rows = example.xs['x'].detach()
    by_number = by_number._replace(
        xs=Stream(lambda number: {'x': rows[number], 'nothing': None}, LENGTH)
    )
    end = by_number.run(with_disk)
    doubled = by_number._replace(
        xs=Stream(lambda number: {'x': rows[number] * 2, 'nothing': None}, LENGTH)
    )
    del end
    with pytest.raises(ValueError, match=r'belongs to another run.*Stream'):
        doubled.run(with_disk)
    assert_equal(by_number.gradients(with_disk), expected)


@pytest.mark.compile
@pytest.mark.parametrize('backward', [Recomputed(compile='eager'), Snapshots(2, compile='eager')])
def test_a_compiled_step(backward: Strategy) -> None:
    example = problem(length=LENGTH, counter=torch.tensor(0))
    expected = example.gradients(Stored())
    del expected[2]
    by_number, _ = streamed(example)
    assert_equal(by_number.gradients(backward), expected)


def step(w: torch.Tensor, x: torch.Tensor, k: torch.Tensor) -> Any:
    return w - 0.1 * grad(lambda w: (w * x * k).sin().sum())(w), None


def plain_step(w: torch.Tensor, x: torch.Tensor, k: torch.Tensor) -> Any:
    return w - 0.1 * k * (w * x).cos() * x, w.sum()


DATA = torch.linspace(-1, 1, 12, dtype=DTYPE).reshape(6, 2)


def rows(number: int) -> torch.Tensor:
    return DATA[number]


@pytest.mark.compile
def test_the_whole_loop_compiled() -> None:
    def outer(k: torch.Tensor) -> torch.Tensor:
        end, _ = torchopt.unroll(plain_step, torch.ones(2, dtype=DTYPE), Stream(rows, 6), k)
        return end.sum()

    k = torch.tensor(0.7, dtype=DTYPE)
    compiled = torch.compile(torch.func.grad(outer), fullgraph=True, backend='aot_eager')
    torch.testing.assert_close(compiled(k), torch.func.grad(outer)(k))


@pytest.mark.parametrize('backward', MODES, ids=str)
def test_under_vmap(backward: Strategy) -> None:
    """The data are the same for all examples."""
    k = torch.linspace(0.5, 0.9, 3, dtype=DTYPE, requires_grad=True)

    def ends(xs: Any, backward: Strategy) -> torch.Tensor:
        return torch.vmap(
            lambda k: torchopt.unroll(
                plain_step, torch.ones(2, dtype=DTYPE), xs, k, backward=backward
            )[0]
        )(k)

    expected = torch.autograd.grad(ends(DATA, backward).square().sum(), k)
    found = torch.autograd.grad(ends(Stream(rows, 6), backward).square().sum(), k)
    assert_equal(list(found), list(expected))


def test_a_second_derivative() -> None:
    def second(xs: Any) -> list[torch.Tensor]:
        k = torch.tensor(0.7, dtype=DTYPE, requires_grad=True)
        end, _ = torchopt.unroll(
            plain_step, torch.ones(2, dtype=DTYPE), xs, k, backward=Recomputed()
        )
        (first,) = torch.autograd.grad(end.sum(), k, create_graph=True)
        return list(torch.autograd.grad(first, k))

    assert_equal(second(Stream(rows, 6)), second(DATA))


def run(fn: Any, backward: Strategy, number: int | None = 6, **options: Any) -> torch.Tensor:
    k = torch.tensor(0.7, dtype=DTYPE, requires_grad=True)
    start = torch.ones(2, dtype=DTYPE)
    end, _ = torchopt.unroll(plain_step, start, Stream(fn, number), k, backward=backward, **options)
    return torch.autograd.grad(end.sum(), k)[0]


def test_no_step_asks_for_no_data() -> None:
    end, ys = torchopt.unroll(plain_step, torch.ones(2), Stream(lambda number: 1 / 0, 0))
    assert ys is None and end.tolist() == [1, 1]


def test_lengths() -> None:
    for options in ({'length': 6}, {'until': lambda w: False, 'length': 6}):
        assert run(rows, Stored(), None, **options) == run(rows, Stored())
    with pytest.raises(ValueError, match=r'must agree on the number of steps, got \[5, 6\]'):
        run(rows, Stored(), 6, length=5)
    with pytest.raises(ValueError, match='needs xs, length or until'):
        run(rows, Stored(), None)
    for length in (-1, 2.0, True):
        with pytest.raises(ValueError, match='length must be an integer'):
            Stream(rows, length)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match='Stream takes a function of a number, got a tensor'):
        Stream(DATA, 6)  # type: ignore[arg-type]


# The likeliest mistakes.


@every_mode
def test_a_batch_that_learns(backward: Strategy) -> None:
    scale = torch.tensor(1.0, dtype=DTYPE, requires_grad=True)
    with pytest.raises(TypeError, match='requires grad, for step 0, and its gradient'):
        run(lambda number: DATA[number] * scale, backward)
    with pytest.raises(TypeError, match='requires grad, for step 3'):
        run(lambda number: DATA[number] * (scale if number == 3 else 1), backward)


@every_mode
def test_an_iterator_that_goes_on(backward: Strategy) -> None:
    """Right where every step is run once; where one is run again, it raises."""
    iterator = iter(torch.cat([DATA, DATA + 1, DATA + 2]))
    if isinstance(backward, (Stored, ForwardMode)) or backward == Truncated(4):
        assert_equal([run(lambda number: next(iterator), backward)], [run(rows, backward)])
    else:
        with pytest.raises(RuntimeError, match=r'returns another batch for step \d than before'):
            run(lambda number: next(iterator), backward)


def test_the_first_batch_is_compared_as_a_whole() -> None:
    first, calls = torch.zeros(100_000), 0

    def fn(number: int) -> torch.Tensor:
        nonlocal calls
        calls += 1
        data = first.clone()
        data[-1] = calls
        return data

    k = torch.ones((), requires_grad=True)
    end, _ = torchopt.unroll(
        lambda c, x, k: (c * k + x.sum(), None),
        torch.ones(()),
        Stream(fn, 1),
        k,
        backward=Recomputed(),
    )
    assert calls == 1
    with pytest.raises(RuntimeError, match='returns another batch for step 0 than before'):
        end.backward()


def test_data_that_change_later() -> None:
    """Beyond the first batch."""
    count = 0

    def fn(number: int) -> torch.Tensor:
        nonlocal count
        count += 1
        return DATA[number] + (count > 7) * 0.1

    with pytest.raises(RuntimeError, match='returns another batch for step 4 than before'):
        run(fn, Recomputed())


def test_data_that_are_written_to_between_the_passes() -> None:
    data = DATA.clone()
    k = torch.tensor(0.7, dtype=DTYPE, requires_grad=True)
    for create_graph in (False, True):
        end, _ = torchopt.unroll(
            plain_step,
            torch.ones(2, dtype=DTYPE),
            Stream(lambda number: data[number], 6),
            k,
            backward=Recomputed(),
        )
        data[5] = 0
        with pytest.raises(RuntimeError, match=r'xs: data, a tensor .* was written to'):
            torch.autograd.grad(end.sum(), k, create_graph=create_graph)


@every_mode
def test_random_numbers(backward: Strategy) -> None:
    def seeded(number: int) -> torch.Tensor:
        return torch.randn(2, generator=torch.Generator().manual_seed(number), dtype=DTYPE)

    stacked = torch.stack([seeded(number) for number in range(6)])
    assert_equal([run(seeded, backward)], [run(lambda number: stacked[number], backward)])
    with pytest.raises(RuntimeError, match="fn of Stream draws from torch's own generators"):
        run(lambda number: DATA[number] if number == 0 else torch.randn(2, dtype=DTYPE), backward)


def test_random_numbers_of_others() -> None:
    generator = torch.Generator().manual_seed(0)
    order = random.Random(0)
    for fn in (
        lambda number: DATA[0] + (number > 0) * torch.rand(2, generator=generator, dtype=DTYPE),
        lambda number: DATA[0] + (number > 0) * order.random(),
        lambda number: DATA[0] + (number > 0) * random.random(),
    ):
        with pytest.raises(RuntimeError, match='draws from'):
            run(fn, Snapshots(1))


@every_mode
def test_a_last_batch_that_is_smaller(backward: Strategy) -> None:
    with pytest.raises(ValueError, match='returns another kind of batch for step 5'):
        run(lambda number: DATA[number][: 1 if number == 5 else 2], backward)
    with pytest.raises(TypeError, match=r'must return tensors, got float 1\.0 for step 0'):
        run(lambda number: {'x': DATA[number], 'weight': 1.0}, backward)
