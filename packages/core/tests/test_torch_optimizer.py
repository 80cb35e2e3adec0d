"""Plain optimizers work wherever torch's optimizers work."""

from __future__ import annotations

import copy
import io
import pickle
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import lr_scheduler
from torch.optim.optimizer import register_optimizer_step_post_hook

import torchopt
from support.optimizer_cases import CASES, MAIN_CASES, TORCH_CASES, OptimizerCase
from support.trees import assert_trees_close, assert_trees_equal, copied, sample_gradients

# In torch a mask becomes groups, and no checkpoint contains the mask.
PLAIN_CASES = [case for case in TORCH_CASES if not case.has('mask') or case.value('mask') is None]


with_and_without_kernels = pytest.mark.parametrize(
    'accelerated',
    [
        False,
        pytest.param(
            True,
            marks=pytest.mark.skipif(
                not torchopt.accelerated_op_available('cpu'), reason='needs torchopt-accel'
            ),
        ),
    ],
)


def two_params(case: OptimizerCase | None = None) -> list[torch.Tensor]:
    """Two vectors; two matrices if the optimizer is Muon, since torch's takes nothing else."""
    shape = (-1, 1) if case is not None and case.entry.name == 'muon' else (-1,)
    return [
        torch.tensor(v, dtype=torch.float64).view(shape).requires_grad_()
        for v in ([0.5, -1.0], [2.0])
    ]


def run(
    optimizer: torch.optim.Optimizer, params: Any, steps: range, *, sparse: bool = False
) -> None:
    for step in steps:
        for param, gradient in zip(params, sample_gradients(params, step, sparse=sparse)):
            param.grad = gradient
        optimizer.step()


def saved(state: Any) -> Any:
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


@with_and_without_kernels
@pytest.mark.parametrize('sparse', [False, True], ids=['dense', 'absent'])
@pytest.mark.parametrize('case', PLAIN_CASES, ids=str)
def test_checkpoints_move_from_torch_and_back(
    case: OptimizerCase, sparse: bool, accelerated: bool
) -> None:
    kernels = {'use_accelerated_op': True} if case.entry.fused else {}
    if accelerated and not kernels:
        pytest.skip('this rule has no kernel')
    whole, parts = two_params(case), two_params(case)
    run(case.make_torch(whole), whole, range(9), sparse=sparse)

    first = case.make_torch(parts)
    run(first, parts, range(3), sparse=sparse)
    second = case.make_class(parts, **(kernels if accelerated else {}))
    second.load_state_dict(saved(first.state_dict()))
    run(second, parts, range(3, 6), sparse=sparse)
    third = case.make_torch(parts)
    third.load_state_dict(saved(second.state_dict()))
    run(third, parts, range(6, 9), sparse=sparse)
    assert_trees_close(parts, whole)


@pytest.mark.parametrize('case', PLAIN_CASES, ids=str)
def test_a_checkpoint_before_the_first_step_goes_to_torch(case: OptimizerCase) -> None:
    mine, theirs = two_params(case), two_params(case)
    loaded, reference = case.make_torch(mine), case.make_torch(theirs)
    loaded.load_state_dict(saved(case.make_class(mine).state_dict()))
    run(loaded, mine, range(3))
    run(reference, theirs, range(3))
    assert_trees_close(mine, theirs)


@pytest.mark.parametrize('case', PLAIN_CASES, ids=str)
def test_state_has_torchs_names(case: OptimizerCase) -> None:
    mine, theirs = two_params(case), two_params(case)
    optimizer, reference = case.make_class(mine), case.make_torch(theirs)
    run(optimizer, mine, range(2))
    run(reference, theirs, range(2))
    for p, q in zip(mine, theirs):
        expected = reference.state[q]
        assert {*expected} <= {*optimizer.state[p]}
        for name, value in expected.items():
            torch.testing.assert_close(
                optimizer.state[p][name].to(value.dtype), value, rtol=1e-12, atol=1e-12
            )


SCHEDULERS = {
    'StepLR': lambda o: lr_scheduler.StepLR(o, 2, 0.5),
    'MultiStepLR': lambda o: lr_scheduler.MultiStepLR(o, [1, 3]),
    'ConstantLR': lambda o: lr_scheduler.ConstantLR(o, 0.5, 2),
    'LinearLR': lambda o: lr_scheduler.LinearLR(o, 0.1, total_iters=3),
    'ExponentialLR': lambda o: lr_scheduler.ExponentialLR(o, 0.9),
    'CosineAnnealingLR': lambda o: lr_scheduler.CosineAnnealingLR(o, 4),
    'CosineAnnealingWarmRestarts': lambda o: lr_scheduler.CosineAnnealingWarmRestarts(o, 2),
    'CyclicLR': lambda o: lr_scheduler.CyclicLR(o, 0.01, 0.1, 2, cycle_momentum=False),
    'OneCycleLR': lambda o: lr_scheduler.OneCycleLR(
        o, 0.1, total_steps=8, cycle_momentum='betas' in o.defaults
    ),
    'PolynomialLR': lambda o: lr_scheduler.PolynomialLR(o, 5),
    'LambdaLR': lambda o: lr_scheduler.LambdaLR(o, lambda n: 1 / (1 + n)),
    'MultiplicativeLR': lambda o: lr_scheduler.MultiplicativeLR(o, lambda n: 0.9),
    'SequentialLR': lambda o: lr_scheduler.SequentialLR(
        o, [lr_scheduler.ConstantLR(o, 0.1, 2), lr_scheduler.ExponentialLR(o, 0.9)], [2]
    ),
    'ChainedScheduler': lambda o: lr_scheduler.ChainedScheduler(
        [lr_scheduler.ConstantLR(o, 0.1, 2), lr_scheduler.ExponentialLR(o, 0.9)]
    ),
}


@pytest.mark.parametrize('name', SCHEDULERS)
@pytest.mark.parametrize(
    'case', [case for case in PLAIN_CASES if case.label == 'defaults'], ids=str
)
def test_torchs_schedulers_drive_it(case: OptimizerCase, name: str) -> None:
    mine, theirs = two_params(case), two_params(case)
    for optimizer, params in (
        (case.make_class(mine, lr=0.05), mine),
        (case.make_torch(theirs, lr=0.05), theirs),
    ):
        scheduler = SCHEDULERS[name](optimizer)
        for step in range(6):
            run(optimizer, params, range(step, step + 1))
            scheduler.step()
    assert_trees_close(mine, theirs)


def test_reduce_on_plateau() -> None:
    params = two_params()
    optimizer = torchopt.SGD(params, lr=1.0)
    scheduler = lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.5, patience=0)
    for _ in range(3):
        scheduler.step(1.0)
    before = params[1].item()
    params[1].grad = torch.ones_like(params[1])
    optimizer.step()
    assert params[1].item() == before - 0.25


@with_and_without_kernels
def test_hyperparameters_in_param_groups_are_live(accelerated: bool) -> None:
    mine, theirs = two_params(), two_params()
    optimizer = torchopt.SGD(mine, lr=0.1, use_accelerated_op=accelerated)
    reference = torch.optim.SGD(theirs, lr=0.1)
    changes = ({'lr': 0.2}, {'momentum': 0.9}, {'dampening': 0.2}, {'weight_decay': 0.1})
    for number, change in enumerate(changes):
        for o, params in ((optimizer, mine), (reference, theirs)):
            o.param_groups[0].update(change)
            run(o, params, range(2 * number, 2 * number + 2))
        assert_trees_close(mine, theirs)


def test_a_bad_hyperparameter_in_a_group_changes_nothing() -> None:
    params = two_params()
    optimizer = torchopt.Adam([{'params': params[:1]}, {'params': params[1:]}])
    optimizer.param_groups[1]['lr'] = -1.0
    before = copied(params)
    with pytest.raises(ValueError, match=r'^lr must be at least 0'):
        run(optimizer, params, range(1))
    assert_trees_equal([p.detach() for p in params], [p.detach() for p in before])


def test_groups_and_parameters_that_are_appended_are_stepped() -> None:
    mine, theirs = two_params(), two_params()
    optimizer = torchopt.Adam(mine[:1], lr=0.1)
    run(optimizer, mine[:1], range(2))
    optimizer.param_groups.append({'params': mine[1:], 'lr': 0.2})
    reference = torch.optim.Adam(theirs[:1], lr=0.1)
    run(reference, theirs[:1], range(2))
    reference.add_param_group({'params': theirs[1:], 'lr': 0.2})
    for o, params in ((optimizer, mine), (reference, theirs)):
        run(o, params, range(2, 4))
        extra = torch.tensor([1.0], dtype=torch.float64, requires_grad=True)
        o.param_groups[0]['params'].append(extra)
        extra.grad = torch.ones_like(extra)
        o.step()
        params.append(extra)
    assert_trees_close(mine, theirs)


def test_state_can_be_edited() -> None:
    """Another tensor takes the place of a parameter, as in pruning and densification."""
    params = two_params()
    optimizer = torchopt.Adam(params, lr=0.1)
    run(optimizer, params, range(2))
    state = optimizer.state.pop(params[0])
    state['exp_avg'], state['exp_avg_sq'] = state['exp_avg'][:1], state['exp_avg_sq'][:1]
    kept = params[0].detach()[:1].clone().requires_grad_()
    optimizer.param_groups[0]['params'][0] = kept
    optimizer.state[kept] = state

    kept.grad, params[1].grad = torch.ones_like(kept), None
    optimizer.step()
    whole = two_params()[:1]
    expected = torch.optim.Adam(whole, lr=0.1)
    for step in range(2):
        whole[0].grad = sample_gradients(two_params(), step)[0]
        expected.step()
    whole[0].grad = torch.ones_like(whole[0])
    expected.step()
    torch.testing.assert_close(kept, whole[0][:1])
    assert optimizer.state[kept]['step'].item() == 3


def test_hooks_of_all_optimizers_run() -> None:
    seen = []
    handle = register_optimizer_step_post_hook(lambda optimizer, *_: seen.append(type(optimizer)))
    try:
        torchopt.SGD([nn.Parameter(torch.ones(1))]).step()
    finally:
        handle.remove()
    torchopt.SGD([nn.Parameter(torch.ones(1))]).step()
    assert seen == [torchopt.SGD]


def test_hooks_of_a_subclass_run_once() -> None:
    class Twice(torchopt.SGD):
        def step(self, closure: Any = None) -> Any:
            super().step()
            return super().step(closure)

    weight = nn.Parameter(torch.ones(1))
    weight.grad = torch.ones(1)
    optimizer, seen = Twice([weight], lr=0.25), []
    optimizer.register_step_pre_hook(lambda *_: seen.append('before'))
    optimizer.step()
    assert seen == ['before'] and weight.item() == 0.5


def test_a_profiler_sees_steps() -> None:
    optimizer = torchopt.SGD([nn.Parameter(torch.ones(1))])
    with torch.profiler.profile() as profile:
        optimizer.step()
    assert 'Optimizer.step#SGD.step' in {event.key for event in profile.key_averages()}


def test_hooks_run() -> None:
    params = two_params()
    optimizer = torchopt.SGD(params)
    seen: list[str] = []
    optimizer.register_step_pre_hook(lambda *_: seen.append('before'))
    optimizer.register_step_post_hook(lambda *_: seen.append('after'))
    optimizer.register_state_dict_post_hook(lambda o, state: seen.append(sorted(state)[0]))
    optimizer.register_load_state_dict_post_hook(lambda o: seen.append('loaded'))
    run(optimizer, params, range(1))
    optimizer.load_state_dict(optimizer.state_dict())
    assert seen == ['before', 'after', 'param_groups', 'loaded']


def test_grad_scaler_and_clipping() -> None:
    mine, theirs = two_params(), two_params()
    for make, params in ((torchopt.SGD, mine), (torch.optim.SGD, theirs)):
        optimizer = make(params, lr=0.1)
        scaler = torch.amp.GradScaler('cpu', init_scale=4.0)
        for factor in (1.0, float('inf'), 2.0):
            optimizer.zero_grad()
            loss = sum((p * p).sum() for p in params) * factor
            scaler.scale(loss).backward()
            scaler.unscale_(optimizer)
            nn.utils.clip_grad_norm_(params, 1.0)
            scaler.step(optimizer)
            scaler.update()
    assert_trees_close(mine, theirs)


@pytest.mark.newer_torch
def test_takes_named_parameters() -> None:
    net = nn.Linear(2, 1)
    optimizer = torchopt.Adam(net.named_parameters())
    assert optimizer.param_groups[0]['param_names'] == ['weight', 'bias']
    net.weight.grad = torch.ones(1, 2).to_sparse()
    with pytest.raises(TypeError, match="'weight' has a sparse gradient"):
        optimizer.step()


@pytest.mark.parametrize('copied_by', [copy.deepcopy, lambda o: pickle.loads(pickle.dumps(o))])
@pytest.mark.parametrize('case', [c for c in CASES if c.label == 'defaults'], ids=str)
def test_copies_and_pickles_go_on(case: OptimizerCase, copied_by: Any) -> None:
    whole, params = two_params(case), two_params(case)
    run(case.make_class(whole), whole, range(6))
    optimizer = case.make_class(params)
    run(optimizer, params, range(3))
    other = copied_by(optimizer)
    run(other, other.param_groups[0]['params'], range(3, 6))
    assert_trees_equal(other.param_groups[0]['params'], whole)


def test_a_shallow_copy_has_a_state_of_its_own() -> None:
    params = two_params()
    optimizer = torchopt.Adam(params)
    run(optimizer, params, range(2))
    before = copied(optimizer.state_dict())
    clone = copy.copy(optimizer)
    run(clone, params, range(2, 4))
    assert_trees_equal(optimizer.state_dict(), before)
    # Nor does a step of the original reach its copy.
    before = copied(clone.state_dict())
    run(optimizer, params, range(2, 3))
    assert_trees_equal(clone.state_dict(), before)
    second = copy.copy(clone)
    run(clone, params, range(4, 5))
    assert_trees_equal(second.state_dict(), before)


def test_a_transformation_may_return_a_tuple() -> None:
    params = two_params()
    before = [param.detach().clone() for param in params]
    transformation = torchopt.GradientTransformation(
        lambda params: (), lambda updates, state, **_: (tuple(-g for g in updates), state)
    )
    run(torchopt.Optimizer(params, transformation), params, range(1))
    assert_trees_equal(
        [p.detach() for p in params], [p - g for p, g in zip(before, sample_gradients(params, 0))]
    )


def test_a_copy_loads_a_checkpoint() -> None:
    params = two_params()
    optimizer = torchopt.Adam(params)
    run(optimizer, params, range(2))
    clone, state = copy.copy(optimizer), optimizer.state_dict()
    clone.load_state_dict(state)
    assert_trees_equal(clone.state_dict()['state'], state['state'])


def test_repr_shows_the_hyperparameters() -> None:
    text = repr(torchopt.AdamW(two_params(), lr=0.25))
    assert text.startswith('AdamW (')
    assert 'lr: 0.25' in text
    assert 'weight_decay: 0.01' in text


@with_and_without_kernels
def test_a_tensor_rate_keeps_its_identity(accelerated: bool) -> None:
    params, rate = two_params(), torch.tensor(0.5, requires_grad=True)
    optimizer = torchopt.SGD(params, lr=rate, use_accelerated_op=accelerated)
    state = optimizer.state_dict()
    with torch.no_grad():
        rate.fill_(0.25)
    optimizer.load_state_dict(saved(torchopt.SGD(params, lr=1.0).state_dict()))
    assert optimizer.param_groups[0]['lr'] is rate
    assert rate.item() == 1.0
    params[1].grad = torch.ones_like(params[1])
    optimizer.step()
    assert params[1].item() == 1.0
    assert state['param_groups'][0]['lr'] is rate


def test_tensors_in_a_pair_keep_their_identity() -> None:
    params = two_params()
    betas = torch.tensor(0.5), torch.tensor(0.75)
    optimizer = torchopt.Adam(params, betas=betas)
    optimizer.load_state_dict(saved(torch.optim.Adam(params, betas=(0.9, 0.999)).state_dict()))
    assert all(a is b for a, b in zip(optimizer.param_groups[0]['betas'], betas))
    torch.testing.assert_close(torch.stack(betas), torch.tensor([0.9, 0.999]))


def test_a_tensor_of_another_shape_changes_nothing() -> None:
    params, rate, decay = two_params(), torch.tensor(0.5), torch.tensor(0.25)
    optimizer = torchopt.SGD(params, lr=rate, weight_decay=decay)
    state = torchopt.SGD(params, lr=1.0).state_dict()
    state['param_groups'][0]['weight_decay'] = torch.ones(2)
    with pytest.raises((ValueError, TypeError), match=r'^weight_decay '):
        optimizer.load_state_dict(state)
    assert (rate.item(), decay.item()) == (0.5, 0.25)


def test_a_list_in_a_group_is_live() -> None:
    mine, theirs = two_params(), two_params()
    optimizer = torchopt.Adam(mine, betas=[0.8, 0.9])  # type: ignore[arg-type]
    reference = torch.optim.Adam(theirs, betas=(0.8, 0.9))
    for o, params in ((optimizer, mine), (reference, theirs)):
        run(o, params, range(2))
    optimizer.param_groups[0]['betas'][0] = 0.5
    reference.param_groups[0]['betas'] = (0.5, 0.9)
    for o, params in ((optimizer, mine), (reference, theirs)):
        run(o, params, range(2, 4))
    assert_trees_close(mine, theirs)


@pytest.mark.parametrize('case', MAIN_CASES, ids=str)
def test_a_module_moved_before_the_first_step(case: OptimizerCase) -> None:
    moved, there = nn.Linear(2, 1), nn.Linear(2, 1)
    there.load_state_dict(moved.state_dict())
    optimizer = case.make_class(moved.parameters())
    moved.double()
    reference = case.make_class(there.double().parameters())
    for net, o in ((moved, optimizer), (there, reference)):
        run(o, list(net.parameters()), range(3))
    assert_trees_equal([*moved.parameters()], [*there.parameters()])


SPARSE = {
    'SGD': {'lr': 0.1},
    'Adagrad': {'lr': 0.1, 'lr_decay': 0.1, 'initial_accumulator_value': 0.1},
}


# torch's own Adagrad makes sparse tensors without saying whether to check their invariants.
@pytest.mark.filterwarnings('ignore:Sparse invariant checks:UserWarning')
@with_and_without_kernels
@pytest.mark.parametrize('name', SPARSE)
def test_sparse_gradients_equal_torchs(name: str, accelerated: bool) -> None:
    mine, theirs = nn.Embedding(5, 2, sparse=True), nn.Embedding(5, 2, sparse=True)
    theirs.load_state_dict(mine.state_dict())
    own = {'use_accelerated_op': True} if accelerated else {}
    for net, optimizer in (
        (mine, getattr(torchopt, name)(mine.parameters(), **SPARSE[name], **own)),
        (theirs, getattr(torch.optim, name)(theirs.parameters(), **SPARSE[name])),
    ):
        for words in ([1, 3, 3], [0, 1]):
            optimizer.zero_grad()
            net(torch.tensor(words)).square().sum().backward()
            optimizer.step()
    torch.testing.assert_close(mine.weight, theirs.weight)


@pytest.mark.parametrize(
    'case',
    [c for c in CASES if c.label == 'defaults' and c.entry.torch_name not in SPARSE],
    ids=str,
)
def test_other_rules_refuse_sparse_gradients(case: OptimizerCase) -> None:
    net = nn.Embedding(5, 2, sparse=True)
    optimizer = case.make_class(net.parameters())
    before = net.weight.detach().clone()
    net(torch.tensor([1])).sum().backward()
    with pytest.raises(TypeError, match=r'^params\[0\] has a sparse gradient'):
        optimizer.step()
    assert torch.equal(net.weight, before)


def test_schedules_count_on_after_a_checkpoint() -> None:
    schedule = torchopt.linear_schedule(0.1, 0.0, 6)
    whole, parts = two_params(), two_params()
    run(torchopt.Adam(whole, lr=schedule), whole, range(6))
    first, second = (torchopt.Adam(parts, lr=schedule) for _ in range(2))
    run(first, parts, range(3))
    state = saved(first.state_dict())
    assert 'lr' not in state['param_groups'][0]
    second.load_state_dict(state)
    run(second, parts, range(3, 6))
    assert_trees_equal(parts, whole)


def test_any_transformation_has_a_state_in_torchs_format() -> None:
    impl = torchopt.chain(
        torchopt.clip_grad_norm(1.0),
        torchopt.transform.trace(0.5),
        torchopt.transform.trace(0.9, dampening=0.5),
        torchopt.sgd(torchopt.linear_schedule(0.1, 0.0, 9)),
    )
    whole, parts = two_params(), two_params()
    run(torchopt.Optimizer(whole, impl), whole, range(6))
    first = torchopt.Optimizer(parts, impl)
    run(first, parts, range(3))
    state = saved(first.state_dict())
    assert {*state['state'][0]} == {
        'step',
        'momentum_buffer',
        'momentum_buffer_2',
        'schedule_step',
    }
    second = torchopt.Optimizer(parts, impl)
    second.load_state_dict(state)
    run(second, parts, range(3, 6))
    assert_trees_equal(parts, whole)
