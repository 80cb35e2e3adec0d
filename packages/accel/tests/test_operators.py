"""The operators by themselves: torch's own checks, and errors before a pointer is read."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

import torchopt
from support.trees import generator
from torchopt_accel import kernel_table, kernels
from torchopt_accel.kernels import RULES, arranged

HYPER = {
    'lr': 0.1,
    'sign': 1.0,
    'coupled_decay': 0.1,
    'decoupled_decay': 0.0,
    'beta1': 0.7,
    'beta2': 0.8,
    'beta3': 0.9,
    'eps': 1e-2,
    'eps_root': 1e-2,
    'lr_decay': 0.1,
    'rho': 0.7,
    'alpha': 0.8,
    'momentum': 0.7,
    'momentum_decay': 0.1,
    'dampening': 0.1,
    'nesterov': 1.0,
    'smaller': 0.5,
    'larger': 1.2,
    'lowest': 0.2,
    'highest': 1.0,
}


def hyper_of(rule: str) -> tuple[float, ...]:
    return arranged(rule, **{name: HYPER[name] for name in RULES[rule].hyper})


def arguments(rule: str, lr: bool, device: str) -> tuple[Any, ...]:
    source = generator(0)
    shapes = [(3,), (2, 3), (), (0,), (2, 4, 3)]

    def tensors() -> list[torch.Tensor]:
        made = [(torch.rand(shape, generator=source) + 0.1).to(device) for shape in shapes]
        return [*made[:-1], made[-1].transpose(0, 2)]

    states = [tensor for _ in range(RULES[rule].states) for tensor in tensors()]
    steps = torch.tensor([3, 5, 7, 9, 2], device=device)
    rate = torch.tensor(0.1, device=device) if lr else None
    numbers = torch.tensor([0.9, 0.8, 0.7, 0.6, 0.5], dtype=torch.float64, device=device)
    positions = [0, 1, 2, 3, 4]
    return tensors(), tensors(), states, steps, numbers, positions, rate, hyper_of(rule)


def operator(rule: str, kind: str) -> Any:
    return getattr(torch.ops.torchopt, f'{rule}_{kind}').default


# The operators of two rules differ in the number of states.
@pytest.mark.newer_torch
@pytest.mark.slow
@pytest.mark.parametrize('rule', {rule.states: name for name, rule in RULES.items()}.values())
@pytest.mark.parametrize('lr', [False, True])
def test_opcheck(rule: str, lr: bool, device: str) -> None:
    given = arguments(rule, lr, device)
    torch.library.opcheck(operator(rule, 'forward'), given)
    torch.library.opcheck(operator(rule, 'forward_'), given)
    torch.library.opcheck(operator(rule, 'step_'), given)
    count = len(given[0]) * (1 + RULES[rule].states)
    cotangents: list[torch.Tensor | None] = [*(torch.ones_like(x) for x in (*given[0], *given[2]))]
    cotangents[0] = None
    # A cotangent need not have the strides of its result.
    cotangents[count - 1] = torch.ones_like(given[0][-1].contiguous())
    wanted = [True] * (2 + RULES[rule].states) + [lr]
    torch.library.opcheck(operator(rule, 'backward'), (cotangents, *given, wanted))


def adam_arguments(**changes: Any) -> list[Any]:
    named = {
        'grads': [torch.ones(3), torch.ones(2)],
        'params': [],
        'states': [torch.ones(3), torch.ones(2), torch.ones(3), torch.ones(2)],
        'steps': torch.tensor([1, 1]),
        'numbers': None,
        'positions': [0, 1],
        'lr': None,
        'hyper': hyper_of('adam'),
    }
    return list({**named, **changes}.values())


BAD = {
    'too few states': {'states': [torch.ones(3)] * 3},
    'another shape': {'states': [torch.ones(3), torch.ones(3)] * 2},
    'another dtype': {'states': [torch.ones(3), torch.ones(2, dtype=torch.float64)] * 2},
    'mixed dtypes': {'grads': [torch.ones(3), torch.ones(2, dtype=torch.float64)]},
    'too few params': {'params': [torch.ones(3)]},
    'integers': {
        'grads': [torch.ones(3, dtype=torch.int64)] * 2,
        'states': [torch.ones(3, dtype=torch.int64)] * 4,
    },
    'another dtype of steps': {'steps': torch.tensor([1.0, 1.0])},
    'another dtype of numbers': {'numbers': torch.tensor([1.0, 1.0])},
    'too few numbers for the positions': {'numbers': torch.ones(1, dtype=torch.float64)},
    'too few positions': {'positions': [0]},
    'a position out of range': {'positions': [0, 2]},
    'a negative position': {'positions': [-1, 0]},
    'too many rates': {'lr': torch.ones(3)},
    'an integer rate': {'lr': torch.tensor(1)},
    'too few numbers': {'hyper': hyper_of('adam')[:-1]},
    'too many numbers': {'hyper': (*hyper_of('adam'), 0.0)},
}


@pytest.mark.parametrize('changes', BAD.values(), ids=BAD)
@pytest.mark.parametrize('kind', ['forward', 'forward_', 'step_', 'backward'])
def test_mismatch_raises(changes: dict[str, Any], kind: str) -> None:
    given = adam_arguments(**changes)
    if kind == 'backward':
        given = [[None] * 3 * len(given[0]), *given, [True, False, True, True, False]]
    with pytest.raises(ValueError):
        operator('adam', kind)(*given)


def test_backward_checks_cotangents() -> None:
    wanted = [True, False, True, True, False]
    with pytest.raises(ValueError, match='5 tensors do not make 3 roles'):
        operator('adam', 'backward')([None] * 5, *adam_arguments(), wanted)
    with pytest.raises(ValueError, match='3 tensors do not go with 2'):
        operator('adam', 'backward')([None] * 9, *adam_arguments(), wanted)
    with pytest.raises(ValueError, match='differ in shape'):
        operator('adam', 'backward')([torch.ones(4)] + [None] * 5, *adam_arguments(), wanted)
    with pytest.raises(ValueError, match='float64'):
        operator('adam', 'backward')(
            [torch.ones(3).double()] + [None] * 5, *adam_arguments(), wanted
        )
    with pytest.raises(ValueError, match='lr is not given'):
        operator('adam', 'backward')([None] * 6, *adam_arguments(), [True] * 5)


def test_misfits_are_named_without_their_neighbours() -> None:
    many = [torch.ones(2)] * 100
    given = {'grads': many, 'positions': [0] * 100}
    states = many + many[1:] + [torch.ones(7)]
    with pytest.raises(ValueError) as caught:
        operator('adam', 'forward')(*adam_arguments(states=states, **given))
    assert 'leaf 99: a tensor of shape (7,)' in str(caught.value)
    assert len(str(caught.value)) < 250
    mixed = [*many[1:], torch.ones(2, dtype=torch.float64)]
    with pytest.raises(ValueError, match=r'gradients of one step differ.*float64.*float32'):
        operator('sgd', 'forward')(mixed, [], [], None, None, [0] * 100, None, hyper_of('sgd'))


def test_scalars_are_waited_for_on_their_way_to_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """A copy from a GPU that does not block would be read before it has arrived."""
    # As if the learning rate were on a GPU.
    monkeypatch.setattr(kernels, 'forward_at_once', lambda *given: None)

    class Copies(TorchFunctionMode):
        def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None):
            options = kwargs or {}
            if function is torch.Tensor.to and options.get('non_blocking') is not None:
                seen.append((args[1], options['non_blocking']))
            return function(*args, **options)

    seen: list[Any] = []
    optimizer = torchopt.adam(torch.tensor(0.1), use_accelerated_op=True)
    gradients = [torch.ones(3)]
    state = optimizer.init(gradients)
    with Copies():
        optimizer.update(gradients, state, inplace=False)
    # The learning rate and the step counts.
    assert seen == [(torch.device('cpu'), False)] * 2


def test_inplace_refuses_shared_memory() -> None:
    whole = torch.ones(5)
    with pytest.raises(ValueError, match='share memory'):
        operator('adam', 'forward_')(*adam_arguments(grads=[whole[:3], whole[2:4]]))
    with pytest.raises(ValueError, match='only dense tensors'):
        operator('adam', 'forward_')(*adam_arguments(grads=[torch.ones(6)[::2], torch.ones(2)]))
    # Neighbours in one buffer do not share memory.
    operator('adam', 'forward_')(*adam_arguments(grads=[whole[:3], whole[3:]]))


def test_step_refuses_what_it_cannot_write() -> None:
    def step(**changes: Any) -> None:
        given = {'params': [torch.ones(3), torch.ones(2)], **changes}
        operator('adam', 'step_')(*adam_arguments(**given))

    whole = torch.ones(5)
    with pytest.raises(ValueError, match='share memory'):
        step(params=[whole[:3], whole[2:4]])
    with pytest.raises(ValueError, match='share memory'):
        step(params=[whole[:3], whole[3:]], grads=[whole[:3], torch.ones(2)])
    with pytest.raises(ValueError, match='only dense tensors'):
        step(params=[torch.ones(6)[::2], torch.ones(2)])
    with pytest.raises(ValueError, match='with params'):
        step(params=[])
    step()


def test_empty_list() -> None:
    given = adam_arguments(grads=[], states=[], positions=[])
    assert operator('adam', 'forward')(*given) == []
    assert operator('adam', 'backward')([], *given, [True] * 5) == []


def test_modes_see_the_operators() -> None:
    class Names(TorchDispatchMode):
        def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None):
            seen.append(str(function))
            return function(*args, **(kwargs or {}))

    seen: list[str] = []
    optimizer = torchopt.adam(use_accelerated_op=True)
    param = torch.ones(3, requires_grad=True)
    state = optimizer.init([param])
    plain = torchopt.Adam([param], use_accelerated_op=True)
    gradient = param.cos()
    param.grad = torch.ones(3)
    with Names():
        updates, state = optimizer.update([gradient], state, inplace=False)
        updates[0].sum().backward(inputs=[param])
        optimizer.update([torch.ones(3)], optimizer.init([param]))
        plain.step()
    for kind in ('forward', 'backward', 'forward_', 'step_'):
        assert f'torchopt.adam_{kind}.default' in seen


class TestHyperparameters:
    """Hyperparameters are passed by name; only the C++ declaration has an order."""

    def test_arranged(self) -> None:
        common = ('lr', 'sign', 'coupled_decay', 'decoupled_decay')
        assert all(rule.hyper[:4] == common for rule in RULES.values())
        assert RULES['adagrad'].hyper[4:] == ('eps', 'lr_decay')
        assert RULES['sgd'].hyper == common
        shuffled = dict(reversed([(name, HYPER[name]) for name in RULES['adam'].hyper]))
        assert arranged('adam', **shuffled) == (0.1, 1.0, 0.1, 0.0, 0.7, 0.8, 1e-2, 1e-2)

    def test_missing_or_misspelt(self) -> None:
        numbers = {name: HYPER[name] for name in RULES['adam'].hyper if name != 'eps'}
        with pytest.raises(TypeError, match='missing: eps; unknown: none'):
            arranged('adam', **numbers)
        with pytest.raises(TypeError, match='missing: eps; unknown: epsilon'):
            arranged('adam', **numbers, epsilon=1e-8)

    def test_an_optimizer_that_misspells_one(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(
            kernel_table.KERNELS,
            'sgd',
            lambda arguments: kernel_table.Kernel('sgd', {'momentun': 0.9}),
        )
        with pytest.raises(TypeError, match='unknown: momentun'):
            torchopt.sgd(use_accelerated_op=True)


RULE = """
#include "cpu/chunk.h"
#include "step.h"

namespace torchopt {
namespace TORCHOPT_ISA {

template <class T>
struct Sample {
  static constexpr int kStates = STATES;
  TORCHOPT_HYPERPARAMETERS(NUMBERS);
  Sample(const Hyper&, int64_t) {}
  void forward(T, const T*, T&, T*) const {}
  void vjp(T, const T*, T, const T*, T&, T&, T*) const {}
};

template struct Step<Sample, float>;

}  // namespace TORCHOPT_ISA
}  // namespace torchopt
"""
SOURCES = Path(__file__).parents[1] / 'csrc'
COMPILER = shutil.which('c++')


@pytest.mark.skipif(not COMPILER or not SOURCES.exists(), reason='needs a C++ compiler and csrc')
@pytest.mark.parametrize(
    ('states', 'numbers', 'message'),
    [(4, 1, ''), (5, 1, 'more states than kMaxStates'), (1, 20, 'more hyperparameters than kMax')],
)
def test_rules_that_outgrow_the_arrays_do_not_compile(
    states: int, numbers: int, message: str
) -> None:
    source = RULE.replace('STATES', str(states))
    source = source.replace('NUMBERS', ', '.join(f'x{i}' for i in range(numbers)))
    finished = subprocess.run(
        [str(COMPILER), '-std=c++17', '-fsyntax-only', '-I', str(SOURCES), '-x', 'c++', '-'],
        input=source,
        capture_output=True,
        text=True,
    )
    assert (finished.returncode == 0) == (not message), finished.stderr
    assert message in finished.stderr
