"""The plain optimizer and its classes."""

from __future__ import annotations

import inspect
import io
import pickle
from typing import Any

import pytest
import torch
from torch import nn

import torchopt
from support.optimizer_cases import CASES, MAIN_CASES, OptimizerCase
from support.trees import assert_trees_equal, copied, sample_gradients
from torchopt.registry import OPTIMIZERS, OptimizerEntry


def two_params() -> list[torch.Tensor]:
    return [torch.tensor(v, dtype=torch.float64, requires_grad=True) for v in ([0.5, -1.0], [2.0])]


def run(optimizer: torchopt.Optimizer, params: list[torch.Tensor], steps: range) -> None:
    for step in steps:
        for param, gradient in zip(params, sample_gradients(params, step)):
            param.grad = gradient
        optimizer.step()


@pytest.mark.parametrize('entry', OPTIMIZERS, ids=lambda entry: entry.name)
def test_class_has_the_arguments_of_the_factory(entry: OptimizerEntry) -> None:
    plain = getattr(torchopt, entry.class_name)
    own, *options = inspect.signature(plain).parameters.values()
    assert own.name == 'params'
    assert options == list(inspect.signature(entry.factory).parameters.values())
    assert issubclass(plain, torchopt.Optimizer)


@pytest.mark.parametrize(
    'entry', [entry for entry in OPTIMIZERS if entry.torch_name], ids=lambda entry: entry.name
)
def test_class_is_found_under_torchs_name_too(entry: OptimizerEntry) -> None:
    assert entry.torch_name is not None
    assert getattr(torchopt, entry.torch_name) is getattr(torchopt, entry.class_name)


@pytest.mark.parametrize('entry', OPTIMIZERS, ids=lambda entry: entry.name)
def test_class_can_be_pickled_and_subclassed_and_has_a_docstring(entry: OptimizerEntry) -> None:
    plain = getattr(torchopt, entry.class_name)
    assert pickle.loads(pickle.dumps(plain)) is plain
    assert entry.name in plain.__doc__
    assert plain.__init__.__qualname__ == f'{entry.class_name}.__init__'

    class Own(plain):  # type: ignore[misc, valid-type]
        """An optimizer with its own learning rate."""

        def __init__(self, params: Any) -> None:
            super().__init__(params, lr=0.25)

    mine, theirs = two_params(), two_params()
    run(Own(mine), mine, range(2))
    run(plain(theirs, lr=0.25), theirs, range(2))
    assert_trees_equal(mine, theirs)
    assert Own.__doc__ == 'An optimizer with its own learning rate.'


@pytest.mark.parametrize('case', CASES, ids=str)
def test_class_equals_the_optimizer_of_its_transformation(case: OptimizerCase) -> None:
    mine, theirs = two_params(), two_params()
    run(case.make_class(mine), mine, range(5))
    run(torchopt.Optimizer(theirs, case.make()), theirs, range(5))
    assert_trees_equal(mine, theirs)


@pytest.mark.parametrize('case', CASES, ids=str)
def test_saved_and_resumed_equals_uninterrupted(case: OptimizerCase) -> None:
    whole, part = two_params(), two_params()
    run(case.make_class(whole), whole, range(6))
    first = case.make_class(part)
    run(first, part, range(3))
    file = io.BytesIO()
    torch.save(first.state_dict(), file)
    file.seek(0)
    second = case.make_class(part)
    second.load_state_dict(torch.load(file, weights_only=True))
    run(second, part, range(3, 6))
    assert_trees_equal(part, whole)


def test_state_dict_is_not_changed_by_later_steps() -> None:
    params = two_params()
    optimizer = torchopt.Adam(params)
    run(optimizer, params, range(2))
    state = optimizer.state_dict()
    before = copied(state)
    run(optimizer, params, range(2, 4))
    assert_trees_equal(state, before)


def test_a_state_that_does_not_fit_is_refused() -> None:
    params = two_params()
    optimizer = torchopt.Adam(params)
    before = copied(optimizer.state_dict())
    other, wide = torchopt.SGD(params, momentum=0.9), [params[0], torch.ones(3, requires_grad=True)]
    run(other, params, range(1))
    wider = torchopt.Adam(wide)
    run(wider, wide, range(1))
    with pytest.raises(ValueError, match=r'^the state of params\[0\] has momentum_buffer; this'):
        optimizer.load_state_dict(other.state_dict())
    with pytest.raises(
        ValueError, match=r'^exp_avg of params\[1\] does not fit: .* \(1,\), .* \(3,\)'
    ):
        optimizer.load_state_dict(wider.state_dict())
    with pytest.raises(ValueError, match="doesn't match the size of optimizer's group"):
        optimizer.load_state_dict(torchopt.Adam(params[:1]).state_dict())
    with pytest.raises(ValueError, match=r'^lr must be at least 0'):
        bad = optimizer.state_dict()
        bad['param_groups'][0]['lr'] = -1.0
        optimizer.load_state_dict(bad)
    with pytest.raises(TypeError, match=r"with the keys 'state' and 'param_groups'.*got tuple"):
        optimizer.load_state_dict(())
    assert_trees_equal(optimizer.state_dict(), before)


def test_step_keeps_gradients_and_calls_the_closure() -> None:
    weight = torch.ones(2, requires_grad=True)
    optimizer = torchopt.SGD([weight], lr=0.5)

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = weight.square().sum()
        loss.backward()
        return loss

    with torch.no_grad():
        loss = optimizer.step(closure)
    assert loss.item() == 2.0
    assert weight.tolist() == [0.0, 0.0]
    assert weight.grad.tolist() == [2.0, 2.0]
    assert optimizer.step() is None


def test_a_loss_is_not_a_closure() -> None:
    weight = torch.ones(2, requires_grad=True)
    with pytest.raises(TypeError, match=r'takes a function .* got a tensor .* meta-optimizer'):
        torchopt.SGD([weight]).step(weight.sum())  # type: ignore[arg-type]


def test_zero_grad() -> None:
    params = two_params()
    optimizer = torchopt.SGD(params)
    params[0].grad = torch.ones_like(params[0])
    gradient = params[0].grad
    optimizer.zero_grad(set_to_none=False)
    assert params[0].grad is gradient
    assert gradient.tolist() == [0.0, 0.0]
    assert params[1].grad is None
    optimizer.zero_grad()
    assert params[0].grad is None


def test_a_frozen_parameter_is_left_alone() -> None:
    params = two_params()
    for param in params:
        param.grad = torch.ones_like(param)
    params[0].requires_grad_(False)
    torchopt.SGD(params, lr=0.5).step()
    assert [p.tolist() for p in params] == [[0.5, -1.0], [1.5]]


def test_takes_the_parameters_of_a_module() -> None:
    net = nn.Linear(2, 1)
    before = copied(list(net.parameters()))
    optimizer = torchopt.Adam(net.parameters(), lr=1.0)
    net(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    for param, old in zip(net.parameters(), before):
        torch.testing.assert_close(param, old - 1.0)


@pytest.mark.parametrize('case', MAIN_CASES, ids=str)
def test_groups_have_hyperparameters_of_their_own(case: OptimizerCase) -> None:
    """Two groups behave like two optimizers."""
    mine, theirs = two_params(), two_params()
    optimizer = case.make_class([{'params': mine[0]}, {'params': [mine[1]], 'lr': 0.5}])
    assert optimizer.param_groups[1]['lr'] == 0.5
    run(optimizer, mine, range(4))
    alone = [case.make_class(theirs[:1]), case.make_class(theirs[1:], lr=0.5)]
    for step in range(4):
        for param, gradient, single in zip(theirs, sample_gradients(theirs, step), alone):
            param.grad = gradient
            single.step()
    assert_trees_equal(mine, theirs)


def test_a_group_is_added_with_a_state_of_its_own() -> None:
    params = two_params()
    optimizer = torchopt.Adam(params[:1], lr=0.1)
    run(optimizer, params[:1], range(2))
    optimizer.add_param_group({'params': params[1:], 'lr': 0.2})
    run(optimizer, params, range(1))
    state = optimizer.state_dict()['state']
    assert [state[position]['step'].item() for position in (0, 1)] == [3, 1]


WEIGHT = torch.ones(2, requires_grad=True)


@pytest.mark.parametrize(
    ('params', 'error', 'message'),
    [
        ([], ValueError, '^params is empty'),
        (WEIGHT, TypeError, 'must be an iterable of tensors or of dictionaries, got a Tensor'),
        ({'params': [WEIGHT]}, TypeError, 'must be an iterable .* got a dict'),
        ([WEIGHT, WEIGHT], ValueError, r'^params\[1\] is in a parameter group already'),
        ([{'params': WEIGHT}, {'params': WEIGHT}], ValueError, r'^params\[0\] is in a parameter'),
        ([WEIGHT, None], TypeError, r'^params\[1\] must be a tensor, got None'),
        ([[WEIGHT]], TypeError, r'^params\[0\] must be a tensor, got \[tensor'),
        ([WEIGHT, {'params': WEIGHT}], TypeError, r"^params\[1\] must be a tensor, got {'params'"),
        (
            [{'params': [WEIGHT]}, WEIGHT],
            TypeError,
            "^a group is a dictionary with the key 'params'",
        ),
        ([{'lr': 0.1}], TypeError, "^a group is a dictionary with the key 'params'"),
        ([torch.ones(1, dtype=torch.int64)], TypeError, r'^params\[0\] must be a floating-point'),
        ([WEIGHT * 2], ValueError, r'^params\[0\] is not a leaf'),
        (
            [{'params': [WEIGHT], 'rate': 1}],
            TypeError,
            "^sgd has no hyperparameter 'rate'; it has lr",
        ),
        ([{'params': [WEIGHT], 'lr': -1.0}], ValueError, '^lr must be at least 0'),
    ],
)
def test_bad_parameters(params: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        torchopt.SGD(params)


def test_a_bad_group_changes_nothing() -> None:
    params = two_params()
    optimizer = torchopt.SGD(params[:1])
    with pytest.raises(TypeError, match='no hyperparameter'):
        optimizer.add_param_group({'params': params[1:], 'rate': 1.0})
    with pytest.raises(ValueError, match='in a parameter group already'):
        optimizer.add_param_group({'params': params})
    assert len(optimizer.param_groups) == 1


def test_groups_of_a_transformation_have_no_hyperparameters() -> None:
    with pytest.raises(
        TypeError, match='a group can have its own lr only in the class of one rule'
    ):
        torchopt.Optimizer([{'params': [WEIGHT], 'lr': 0.1}], torchopt.sgd())


def test_takes_a_transformation() -> None:
    with pytest.raises(TypeError, match='impl must be a gradient transformation such as'):
        torchopt.Optimizer([WEIGHT], torchopt.sgd)


def test_a_step_that_raises_changes_no_group() -> None:
    params = two_params()
    optimizer = torchopt.SGD(
        [{'params': params[:1]}, {'params': params[1:], 'lr': [torch.ones(7, 1)]}], lr=0.1
    )
    before = copied(params)
    with pytest.raises(ValueError, match=r'lr\[0\] does not fit'):
        run(optimizer, params, range(1))
    assert_trees_equal([p.detach() for p in params], [p.detach() for p in before])


def test_a_tensor_that_cannot_be_written_changes_no_group() -> None:
    params = [torch.ones(2, requires_grad=True), torch.ones(1).expand(3).requires_grad_()]
    optimizer = torchopt.Adam([{'params': params[:1]}, {'params': params[1:]}])
    state = copied(optimizer.state_dict())
    for param in params:
        param.grad = torch.ones(param.shape)
    with pytest.raises(ValueError, match='cannot write into an expanded tensor'):
        optimizer.step()
    assert [p.tolist() for p in params] == [[1.0] * 2, [1.0] * 3]
    assert_trees_equal(optimizer.state_dict(), state)


@pytest.mark.parametrize(
    ('answer', 'message'),
    [
        (lambda updates: updates[:1], 'differ in structure'),
        (lambda updates: dict(enumerate(updates)), 'differ in structure'),
        (lambda updates: [updates[0], updates[1][:1]], 'update 1 does not fit its parameter'),
        (lambda updates: [updates[0], updates[1].double()], 'update 1 does not fit its parameter'),
        (lambda updates: [updates[0], 'a string'], 'update 1 does not fit its parameter'),
        (lambda updates: [None, updates[1][:1]], 'update 1 does not fit its parameter'),
    ],
    ids=['fewer', 'dictionary', 'shape', 'dtype', 'string', 'after None'],
)
def test_a_transformation_with_updates_that_do_not_fit(answer: Any, message: str) -> None:
    impl = torchopt.GradientTransformation(
        lambda params: (), lambda updates, state, **_: (answer(updates), state)
    )
    params = [torch.ones(2, requires_grad=True), torch.ones(3, requires_grad=True)]
    for param in params:
        param.grad = torch.ones_like(param)
    with pytest.raises(ValueError, match=message):
        torchopt.Optimizer(params, impl).step()
    assert all(param.eq(1).all() for param in params)


def test_a_parameter_whose_elements_share_memory_is_not_written() -> None:
    params = [torch.ones(1, requires_grad=True), torch.ones(1).expand(3).requires_grad_()]
    for param in params:
        param.grad = torch.ones(param.shape)
    with pytest.raises(ValueError, match='cannot write into an expanded tensor'):
        torchopt.SGD(params, lr=0.1).step()
    assert params[0].item() == 1
