"""The operators by themselves: torch's own checks, and errors before a pointer is read."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from support.trees import generator
from torchopt_accel import ops
from torchopt_accel.launch import RULES, STATES

HYPER = [0.1, 1.0, 0.1, 0.0, 0.7, 0.8, 1e-2, 1e-2, 0.0]


def arguments(rule: str, lr: bool, device: str) -> tuple[Any, ...]:
    source = generator(0)
    shapes = [(3,), (2, 3), (), (0,)]

    def tensors() -> list[torch.Tensor]:
        return [(torch.rand(shape, generator=source) + 0.1).to(device) for shape in shapes]

    states = [tensor for _ in range(STATES[rule]) for tensor in tensors()]
    steps = torch.tensor([3, 5, 7, 9], device=device)
    rate = torch.tensor(0.1, device=device) if lr else None
    return tensors(), tensors(), states, steps, [0, 1, 2, 3], rate, HYPER


def operator(rule: str, kind: str) -> Any:
    return getattr(torch.ops.torchopt, f'{rule}_{kind}').default


@pytest.mark.slow
@pytest.mark.parametrize('rule', RULES)
@pytest.mark.parametrize('lr', [False, True])
def test_opcheck(rule: str, lr: bool, device: str) -> None:
    given = arguments(rule, lr, device)
    torch.library.opcheck(operator(rule, 'forward'), given)
    torch.library.opcheck(operator(rule, 'forward_'), given)
    torch.library.opcheck(operator(rule, 'step_'), given)
    count = len(given[0]) * (1 + STATES[rule])
    cotangents: list[torch.Tensor | None] = [*(torch.ones_like(x) for x in (*given[0], *given[2]))]
    cotangents[0] = cotangents[count - 1] = None
    wanted = [True] * (2 + STATES[rule]) + [lr]
    torch.library.opcheck(operator(rule, 'backward'), (cotangents, *given, wanted))


def adam_arguments(**changes: Any) -> list[Any]:
    named = {
        'grads': [torch.ones(3), torch.ones(2)],
        'params': [],
        'states': [torch.ones(3), torch.ones(2), torch.ones(3), torch.ones(2)],
        'steps': torch.tensor([1, 1]),
        'positions': [0, 1],
        'lr': None,
        'hyper': HYPER,
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
    'too few positions': {'positions': [0]},
    'a position out of range': {'positions': [0, 2]},
    'a negative position': {'positions': [-1, 0]},
    'too many rates': {'lr': torch.ones(3)},
    'an integer rate': {'lr': torch.tensor(1)},
}


@pytest.mark.parametrize('changes', BAD.values(), ids=BAD)
@pytest.mark.parametrize('kind', ['FORWARD', 'FORWARD_INPLACE', 'STEP_INPLACE', 'BACKWARD'])
def test_mismatch_raises(changes: dict[str, Any], kind: str) -> None:
    given = adam_arguments(**changes)
    if kind == 'BACKWARD':
        given = [[None] * 3 * len(given[0]), *given, [True, False, True, True, False]]
    with pytest.raises(ValueError):
        getattr(ops, kind)['adam'](*given)


def test_backward_checks_cotangents() -> None:
    wanted = [True, False, True, True, False]
    with pytest.raises(ValueError, match='5 tensors do not make 3 roles'):
        ops.BACKWARD['adam']([None] * 5, *adam_arguments(), wanted)
    with pytest.raises(ValueError, match='3 tensors do not go with 2'):
        ops.BACKWARD['adam']([None] * 9, *adam_arguments(), wanted)
    with pytest.raises(ValueError, match='differ in shape'):
        ops.BACKWARD['adam']([torch.ones(4)] + [None] * 5, *adam_arguments(), wanted)
    with pytest.raises(ValueError, match='float64'):
        ops.BACKWARD['adam']([torch.ones(3).double()] + [None] * 5, *adam_arguments(), wanted)
    with pytest.raises(ValueError, match='lr is not given'):
        ops.BACKWARD['adam']([None] * 6, *adam_arguments(), [True] * 5)


def test_inplace_refuses_shared_memory() -> None:
    whole = torch.ones(5)
    with pytest.raises(ValueError, match='share memory'):
        ops.FORWARD_INPLACE['adam'](*adam_arguments(grads=[whole[:3], whole[2:4]]))
    with pytest.raises(ValueError, match='contiguous'):
        ops.FORWARD_INPLACE['adam'](*adam_arguments(grads=[torch.ones(6)[::2], torch.ones(2)]))
    # Tensors beside each other in one buffer are right.
    ops.FORWARD_INPLACE['adam'](*adam_arguments(grads=[whole[:3], whole[3:]]))


def test_step_refuses_what_it_cannot_write() -> None:
    def step(**changes: Any) -> None:
        given = {'params': [torch.ones(3), torch.ones(2)], **changes}
        ops.STEP_INPLACE['adam'](*adam_arguments(**given))

    whole = torch.ones(5)
    with pytest.raises(ValueError, match='share memory'):
        step(params=[whole[:3], whole[2:4]])
    with pytest.raises(ValueError, match='share memory'):
        step(params=[whole[:3], whole[3:]], grads=[whole[:3], torch.ones(2)])
    with pytest.raises(ValueError, match='contiguous'):
        step(params=[torch.ones(6)[::2], torch.ones(2)])
    with pytest.raises(ValueError, match='with params'):
        step(params=[])
    step()


def test_empty_list() -> None:
    given = adam_arguments(grads=[], states=[], positions=[])
    assert ops.FORWARD['adam'](*given) == []
    assert ops.BACKWARD['adam']([], *given, [True] * 5) == []


def test_modes_see_the_operators() -> None:
    class Names(TorchDispatchMode):
        def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None):
            seen.append(str(function))
            return function(*args, **(kwargs or {}))

    seen: list[str] = []
    with Names():
        ops.FORWARD['adam'](*adam_arguments())
    assert 'torchopt.adam_forward.default' in seen
