"""A functional state from a trained optimizer."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import torchopt

Params = dict[str, torch.Tensor]


def trained_adam(params: Any, make: Any = torch.optim.Adam, **options: Any) -> Any:
    optimizer = make(torchopt.pytree.tree_leaves(params), lr=0.1, **options)
    for _ in range(3):
        take_step(optimizer, params)
    return optimizer


def take_step(optimizer: Any, params: Any) -> None:
    optimizer.zero_grad()
    loss_of(params).backward()
    optimizer.step()


def loss_of(params: Any) -> torch.Tensor:
    leaves: list[torch.Tensor] = torchopt.pytree.tree_leaves(params)
    return torch.stack([(leaf - 2).pow(4).sum() for leaf in leaves]).sum()


def tensor() -> torch.Tensor:
    return torch.ones(2, dtype=torch.float64, requires_grad=True)


def trees() -> list[Any]:
    return [
        {'b': tensor(), 'a': {'x': tensor()}},
        [tensor(), tensor()],
        (tensor(), None),
        tensor(),
    ]


@pytest.mark.parametrize('make', [torch.optim.Adam, torchopt.Adam])
@pytest.mark.parametrize('params', trees(), ids=['dict', 'list', 'tuple', 'tensor'])
def test_updates_go_on_for_every_tree(params: Any, make: Any) -> None:
    params = torchopt.module_clone(params, by='deepcopy')
    optimizer = trained_adam(params, make)
    impl = torchopt.adam(lr=0.1)
    state = torchopt.state_from_torch(impl, params, optimizer)
    structure = torchopt.pytree.tree_structure(impl.init(params), none_is_leaf=True)
    assert torchopt.pytree.tree_structure(state, none_is_leaf=True) == structure
    gradients = torchopt.pytree.tree_unflatten(
        torchopt.pytree.tree_structure(params),
        torch.autograd.grad(loss_of(params), torchopt.pytree.tree_leaves(params)),
    )
    updates, _ = impl.update(gradients, state, params=params, inplace=False)
    new: Any = torchopt.apply_updates(params, updates, inplace=False)
    take_step(optimizer, params)
    for one, other in zip(
        torchopt.pytree.tree_leaves(params), torchopt.pytree.tree_leaves(new), strict=True
    ):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=0)


def test_the_state_of_a_chain_with_masks_schedules_and_clipping() -> None:
    params: Params = {'w': tensor(), 'frozen': torch.ones(1), 'b': tensor()}
    optimizer = torch.optim.AdamW([params['w'], params['b']], lr=0.1)
    optimizer.zero_grad()
    (params['w'].sum() + params['b'].sum()).backward()
    optimizer.step()
    impl = torchopt.chain(
        torchopt.clip_grad_norm(1.0),
        torchopt.adamw(lr=lambda count: 0.1, mask={'w': True, 'frozen': True, 'b': False}),
    )
    state: Any = torchopt.state_from_torch(impl, params, optimizer)
    adam = next(member for member in state if hasattr(member, 'mu'))
    assert torch.equal(adam.mu['w'], optimizer.state[params['w']]['exp_avg'])
    assert torch.equal(adam.mu['frozen'], torch.zeros(1))
    # Leaves are counted in the order of the sorted names.
    assert adam.steps.tolist() == [1, 0, 1]


def test_the_count_of_a_schedule_comes_from_a_plain_optimizer() -> None:
    params = {'frozen': torch.ones(1), 'w': tensor()}

    def schedule(count: torch.Tensor) -> Any:
        return 0.1 / (1 + count)

    optimizer = torchopt.SGD([params['w']], lr=schedule)
    for _ in range(3):
        take_step(optimizer, params['w'])
    impl = torchopt.sgd(lr=schedule)
    state = torchopt.state_from_torch(impl, params, optimizer)
    (steps,) = torchopt.pytree.tree_leaves(state)
    assert steps.item() == 3


def test_first_moments_may_require_grad() -> None:
    params = {'w': tensor()}
    optimizer = trained_adam(params)
    impl = torchopt.adam(lr=0.1, moment_requires_grad=True)
    state: Any = torchopt.state_from_torch(impl, params, optimizer)
    moment = state[0].mu['w']
    assert moment.requires_grad
    updates, _ = impl.update({'w': tensor()}, state, inplace=False)
    assert torch.autograd.grad(updates['w'].sum(), moment)[0].abs().sum() > 0


def test_the_state_of_another_rule_is_refused() -> None:
    params = {'w': tensor()}
    optimizer = trained_adam(params, amsgrad=True)
    with pytest.raises(ValueError, match=r"params\['w'\] has max_exp_avg_sq; the transf"):
        torchopt.state_from_torch(torchopt.adam(), params, optimizer)
    with pytest.raises(ValueError, match='the transformation keeps step: take'):
        torchopt.state_from_torch(torchopt.sgd(lr=0.1), params, optimizer)


def test_a_tensor_that_the_optimizer_does_not_hold_is_refused() -> None:
    params = {'w': tensor()}
    optimizer = trained_adam(params)
    with pytest.raises(ValueError, match=r"params\['w'\] is not a parameter of the optimizer"):
        torchopt.state_from_torch(torchopt.adam(), {'w': tensor()}, optimizer)
    with pytest.raises(TypeError, match=r'must be a torch\.optim\.Optimizer, got dict'):
        torchopt.state_from_torch(torchopt.adam(), params, optimizer.state_dict())
