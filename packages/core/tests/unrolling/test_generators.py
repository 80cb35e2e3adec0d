"""Numbers that a step draws, and that are not drawn again: found, whatever holds their source."""

from __future__ import annotations

import collections
import dataclasses
import functools
import random
import sys
import types
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import torchopt
from torchopt.unrolling import ModuleStep, Recomputed, Snapshots, Stored, Strategy, Truncated
from torchopt.unrolling.context.reachable import reachable

MODES = [Recomputed(), Recomputed(keep_gradients=True), Snapshots(2)]
every_mode = pytest.mark.parametrize('backward', MODES, ids=str)


def run(step: Any, backward: Strategy, consts: Any = None, **options: Any) -> torch.Tensor:
    k = torch.tensor(0.6, requires_grad=True)
    options = {'length': 3, **options}
    end, _ = torchopt.unroll(step, torch.ones(2), None, (k, consts), backward=backward, **options)
    return torch.autograd.grad(end.sum(), k)[0]


def drawing(holder: Callable[[], torch.Generator]) -> Any:
    return lambda w, x, consts: (w * consts[0] * torch.rand(2, generator=holder()), None)


class Noise(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.source = torch.Generator()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * torch.rand(x.shape, generator=self.source)


class OfTheClass:
    source = torch.Generator()


@dataclasses.dataclass
class Slotted:
    __slots__ = ('source',)
    source: torch.Generator


Named = collections.namedtuple('Named', ['source'])
OBJECT = types.SimpleNamespace(source=torch.Generator())
MODULE = types.ModuleType('a_library_of_the_user')
MODULE.source = torch.Generator()  # type: ignore[attr-defined]


def of_the_module() -> torch.Generator:
    return MODULE.source  # type: ignore[attr-defined,no-any-return]


def of_a_dictionary() -> Any:
    held = {'a': [torch.Generator()]}
    return drawing(lambda: held['a'][0])


def of_a_deque() -> Any:
    held = collections.deque([torch.Generator()])
    return drawing(lambda: held[0])


def of_a_named_tuple() -> Any:
    held = Named(torch.Generator())
    return drawing(lambda: held.source)


def of_a_keyword_default() -> Any:
    held = torch.Generator()

    def step(w: Any, x: Any, consts: Any, *, source: Any = held) -> Any:
        return w * consts[0] * torch.rand(2, generator=source), None

    return step


def of_a_slot() -> Any:
    held = Slotted(torch.Generator())
    return drawing(lambda: held.source)


def of_a_class() -> Any:
    held = OfTheClass()
    return drawing(lambda: held.source)


def of_a_partial() -> Any:
    return drawing(functools.partial(lambda held: held, torch.Generator()))


def of_an_iterator() -> Any:
    def endless(source: torch.Generator) -> Any:
        while True:
            yield torch.rand(2, generator=source)

    numbers = endless(torch.Generator())
    return lambda w, x, consts: (w * consts[0] * next(numbers), None)


def of_a_submodule() -> Any:
    net = nn.Sequential(nn.Identity(), Noise())
    return lambda w, x, consts: (net(w * consts[0]), None)


HELD = [
    (of_a_dictionary, r"held\['a'\]\[0\]"),
    (of_a_deque, r'held\[0\]'),
    (of_a_named_tuple, r'held\.source'),
    (of_a_keyword_default, 'source'),
    (of_a_slot, r'held\.source'),
    (of_a_class, r'held\.source'),
    (of_a_partial, 'holder'),
    (of_an_iterator, 'numbers'),
    (of_a_submodule, r'net\.1\.source'),
    (lambda: drawing(lambda: OBJECT.source), r'OBJECT\.source'),
    (lambda: drawing(lambda: OfTheClass.source), r'OfTheClass\.source'),
    (lambda: drawing(of_the_module), r'MODULE\.source'),
]


@pytest.mark.parametrize('make, name', HELD, ids=lambda value: getattr(value, '__name__', ''))
def test_generators_of_torch(make: Callable[[], Any], name: str) -> None:
    step = make()
    for backward in (*MODES, Truncated(2, Recomputed())):
        options = {'until': lambda w: False} if isinstance(backward, Truncated) else {}
        with pytest.raises(RuntimeError, match=rf'torch\.Generator of its own \({name}\)'):
            run(step, backward, **options)
    run(step, Stored())


@every_mode
def test_in_an_object_of_consts(backward: Strategy) -> None:
    held = types.SimpleNamespace(source=torch.Generator())
    with pytest.raises(RuntimeError, match=r'of its own \(consts\.source\)'):
        run(
            lambda w, x, consts: (w * consts[0] * torch.rand(2, generator=consts[1].source), None),
            backward,
            held,
        )


@every_mode
def test_in_the_module_of_a_module_step(backward: Strategy) -> None:
    net = nn.Sequential(nn.Linear(2, 1), Noise())
    inner = ModuleStep(net, torchopt.sgd(0.1), lambda net, x, k: (net(x) * k).sum())
    k = torch.tensor(0.6, requires_grad=True)
    with pytest.raises(RuntimeError, match=r'torch\.Generator of its own \(.*1\.source\)'):
        torchopt.unroll(inner, inner.init(), torch.ones(3, 4, 2), k, backward=backward)


OTHERS: dict[str, tuple[Any, str]] = {
    'random': (random.random, "Python's random"),
    'numpy.random': (np.random.rand, r'numpy\.random,'),
    'Random': (random.Random(1).random, r'random\.Random of its own'),
    'default_rng': (np.random.default_rng(1).random, r'numpy.*Generator of its own'),
    'RandomState': (np.random.RandomState(1).rand, r'numpy.*RandomState of its own'),
}


@every_mode
@pytest.mark.parametrize('name', OTHERS)
def test_generators_of_python_and_numpy(name: str, backward: Strategy) -> None:
    draw, match = OTHERS[name]
    states = random.getstate(), np.random.get_state()
    try:
        with pytest.raises(RuntimeError, match=f'the step of unroll draws from .*{match}'):
            run(lambda w, x, consts: (w * consts[0] * draw(), None), backward)
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])


@every_mode
def test_a_late_draw(backward: Strategy) -> None:
    source = torch.Generator()

    def step(carry: Any, x: Any, consts: Any) -> Any:
        w, count = carry
        factor = torch.rand((), generator=source) if count == 2 else 1
        return (w * consts[0] * factor, count + 1), None

    k = torch.tensor(0.6, requires_grad=True)
    with pytest.raises(RuntimeError, match='of its own'):
        torchopt.unroll(step, (torch.ones(2), 0), None, (k,), length=4, backward=backward)


@every_mode
def test_draws_that_are_fine(backward: Strategy) -> None:
    """From a seed in the step, from torch's generator by name, and in what is not run again."""

    def step(w: Any, x: Any, consts: Any) -> Any:
        seeded = torch.Generator().manual_seed(7)
        noise = torch.rand(2, generator=seeded) + torch.rand(2, generator=torch.default_generator)
        return w * consts[0] * noise, None

    def until(w: torch.Tensor) -> bool:
        return random.random() > 2 or bool(np.random.rand() > 2)

    def progress(*_: Any) -> None:
        random.random()

    for options in ({}, {'until': until}, {'progress': progress}):
        torch.manual_seed(0)
        found = run(step, backward, **options)
        torch.manual_seed(0)
        torch.testing.assert_close(found, run(step, Stored()))


@every_mode
def test_devices_that_hold_no_input(backward: Strategy, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stands in for a step that draws on a GPU, with all of its inputs on the CPU."""

    class Elsewhere:
        device = torch.device('cuda', 0)

        def __init__(self) -> None:
            self.generator = torch.Generator()

        def get_state(self) -> torch.Tensor:
            return self.generator.get_state()

    elsewhere = Elsewhere()
    monkeypatch.setattr(torch.cuda, 'is_initialized', lambda: True)
    monkeypatch.setattr(torch.cuda, 'default_generators', (elsewhere,))
    # Hidden from the search.
    step = drawing(lambda: sys.modules['torch'].cuda.default_generators[0].generator)
    with pytest.raises(RuntimeError, match=r"torch's generator of cuda:0, where no input is"):
        run(step, backward)


class FromItems(dict[str, Any]):
    __getattr__ = dict.__getitem__


class Refusing:
    def __getattr__(self, name: str) -> Any:
        raise RuntimeError(f'not initialised: {name}')


class Lying:
    @property
    def __class__(self) -> Any:
        raise RuntimeError('no class')

    def __bool__(self) -> bool:
        raise RuntimeError('neither')

    def __iter__(self) -> Any:
        raise RuntimeError('no elements')


def cycle() -> list[Any]:
    elements: list[Any] = []
    elements.append(elements)
    return elements


@every_mode
@pytest.mark.parametrize('make', [lambda: FromItems(a=1), Refusing, Lying, cycle])
def test_objects_that_answer_anything(make: Callable[[], Any], backward: Strategy) -> None:
    captured = make()

    def step(w: Any, x: Any, consts: Any) -> Any:
        assert type(captured) is not None
        return w * consts[0], None

    torch.testing.assert_close(run(step, backward), run(step, Stored()))


def test_the_search_ends() -> None:
    many = [[float(number)] for number in range(100_000)]
    last = torch.Generator()
    many.append([last])  # type: ignore[list-item]
    assert not list(reachable([('many', many)], (torch.Generator,)))
    first = [[last], *many]
    assert [name for name, _ in reachable([('first', first)], (torch.Generator,))] == [
        'first[0][0]'
    ]


def test_a_message_names_three_of_many() -> None:
    net = nn.Sequential(*(nn.Linear(1, 1) for _ in range(75)))
    with pytest.raises(RuntimeError, match=r'net\.\d+\.\w+ \(a tensor .*and 147 more\. ') as info:
        run(lambda w, x, consts: (net(w[:, None])[:, 0] * consts[0], None), Recomputed())
    assert len(str(info.value)) < 600
