"""Sums and means over ranks: what they return, and their derivatives in every mode."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.distributed._functional_collectives as functional
from torch.nn.parallel import DistributedDataParallel

import torchopt
from distributed.problem import (
    DTYPE,
    LENGTH,
    assert_same,
    first_carry,
    gradients_in_one_process,
    loss_of_rank,
    losses_in_one_process,
    moved,
    outer_loss,
    share,
    shares,
)
from distributed.sharded import ROWS, XS, Net, by_meta_optimizer, by_module_step, loss
from support.trees import generator
from torchopt import unrolling
from torchopt.distributed import average_gradients, mean_over_ranks, sum_over_ranks
from torchopt.unrolling import ForwardMode, ModuleStep, Recomputed, Snapshots, Stored, Truncated

STORED = Stored()
REVERSE = (
    Stored(),
    Recomputed(),
    Recomputed(keep_gradients=True),
    Recomputed(keep_gradients=True, order='forward-over-reverse'),
    Snapshots(),
    Snapshots(2),
)


def _values() -> list[torch.Tensor]:
    """The value of every rank."""
    return [
        torch.randn(2, 3, generator=generator(rank), dtype=DTYPE)
        for rank in range(dist.get_world_size())
    ]


def _own() -> torch.Tensor:
    return _values()[dist.get_rank()].requires_grad_()


def check_a_tree_is_one_collective() -> None:
    calls, reduce = [], dist.all_reduce
    tree = {
        'a': _own().detach(),
        'absent': None,
        'b': [torch.ones(()), torch.ones(2, 2).t(), torch.ones(4, dtype=torch.int64)],
        'c': torch.ones(0, 3, dtype=DTYPE),
        'z': torch.tensor([1 + 2j]),
    }
    try:
        dist.all_reduce = lambda *args, **options: (calls.append(args), reduce(*args, **options))
        found = sum_over_ranks(tree)
    finally:
        dist.all_reduce = reduce
    assert len(calls) == 4, 'one for each dtype'
    world = dist.get_world_size()
    assert found['absent'] is None
    assert_same(found['a'], sum(_values()))
    assert_same(found['b'], [world * leaf for leaf in tree['b']])
    assert found['b'][2].dtype == torch.int64
    assert_same(found['z'], world * tree['z'])
    assert found['c'].shape == (0, 3)
    assert_same(mean_over_ranks({'a': tree['a'], 'n': None})['a'], sum(_values()) / world)


def check_a_part_of_the_ranks() -> None:
    rank, world = dist.get_rank(), dist.get_world_size()
    groups = [dist.new_group([first, first + 1]) for first in range(0, world, 2)]
    mine = groups[rank // 2]
    pair = _values()[rank // 2 * 2 : rank // 2 * 2 + 2]
    assert_same(sum_over_ranks(_own().detach(), mine), sum(pair))
    own = _own()
    (found,) = torch.autograd.grad(mean_over_ranks(own, mine).pow(3).sum() * (rank + 1), own)
    weight = sum(1 + rank // 2 * 2 + i for i in range(2))
    assert_same(found, weight * 3 * (sum(pair) / 2).square() / 2)
    if world > 2 and rank // 2 != 0:
        with pytest.raises(RuntimeError, match='not in the group'):
            sum_over_ranks(own, groups[0])


def check_derivatives_of_one_sum() -> None:
    """Of the sum over ranks of (r + 1) times a loss, each by the rank's own value."""
    world, rank = dist.get_world_size(), dist.get_rank()
    total, weight = sum(_values()), world * (world + 1) / 2
    own = _own().detach()

    def loss(x: torch.Tensor) -> torch.Tensor:
        return (rank + 1) * sum_over_ranks(x).pow(3).sum()

    first = weight * 3 * total.square()
    assert_same(torch.func.grad(loss)(own), first)
    # Every rank adds up the elements of its own first derivative.
    second = torch.func.grad(lambda x: torch.func.grad(loss)(x).sum())
    assert_same(second(own), world * weight * 6 * total)
    third = torch.func.grad(lambda x: second(x).sum())
    assert_same(third(own), torch.full_like(total, world**2 * weight * 6))

    x = _own()
    (g,) = torch.autograd.grad(loss(x), x, create_graph=True)
    (h,) = torch.autograd.grad(g.sum(), x, create_graph=True)
    assert_same((g.detach(), h.detach()), (first, world * weight * 6 * total))

    # Tangents are the ranks' own: here each rank's value itself.
    _, tangent = torch.func.jvp(loss, (own,), (own,))
    assert_same(tangent, (rank + 1) * (3 * total.square() * total).sum())
    _, along = torch.func.jvp(torch.func.grad(loss), (own,), (own,))
    assert_same(along, weight * 6 * total * total)
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(own, own)
        found = torch.autograd.forward_ad.unpack_dual(sum_over_ranks(dual)).tangent
    assert_same(found, total)


def check_vmap() -> None:
    total = sum(_values())
    batch = torch.stack([_own().detach(), 2 * _own().detach()], dim=1)
    both = torch.stack([total, 2 * total])
    one = torch.ones(2, dtype=DTYPE)
    mapped = torch.vmap(lambda x: sum_over_ranks({'x': x, 'one': one}), 1)(batch)
    assert_same(mapped['x'], both)
    assert_same(mapped['one'], dist.get_world_size() * one.expand(2, 2))
    cube = torch.func.grad(lambda x: mean_over_ranks(x).pow(3).sum())
    assert_same(torch.vmap(cube, 1)(batch), 3 * (both / dist.get_world_size()).square())
    jacobian = torch.func.jacfwd(sum_over_ranks)(_own().detach())
    # Every rank moves its element together with all other ranks.
    eye = torch.eye(6, dtype=DTYPE).view(2, 3, 2, 3)
    assert_same(jacobian, dist.get_world_size() * eye)
    assert_same(torch.func.jacrev(sum_over_ranks)(_own().detach()), dist.get_world_size() * eye)
    own = _own()
    (found,) = torch.autograd.grad(
        sum_over_ranks(own), own, torch.stack([total, 2 * total]), is_grads_batched=True
    )
    assert_same(found, dist.get_world_size() * both)


def check_reverse_modes() -> None:
    expected = gradients_in_one_process()
    for backward in REVERSE:
        own = share(dist.get_rank())
        found = torch.autograd.grad(loss_of_rank(own, backward), own.wanted())
        assert_same(list(found), expected)


def check_a_sum_in_the_inner_loss() -> None:
    """A statistic of all ranks, as in a synchronised BatchNorm, whose gradient crosses ranks."""

    def inner(params: Any, x: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        hidden = x @ params['w'] + params['b']
        hidden = hidden - mean_over_ranks(hidden.mean(0))
        return (torch.tanh(hidden).sum(-1).square() * weights).mean()

    def crossing(carry: Any, x: torch.Tensor, consts: Any) -> Any:
        gradients = unrolling.grad(inner)(carry[0], x, consts['weights'])
        return moved(carry, gradients, consts['lr']), None

    everything = shares()
    carries = [first_carry(one.start) for one in everything]
    for number in range(LENGTH):
        # Every rank moves along the derivative of the sum of all inner losses by its own copy.
        leaves = [[carry[0]['w'], carry[0]['b']] for carry in carries]
        hidden = [one.x[number] @ w + b for one, (w, b) in zip(everything, leaves)]
        mean = sum(h.mean(0) for h in hidden) / len(hidden)
        losses = [
            (torch.tanh(h - mean).sum(-1).square() * one.weights).mean()
            for h, one in zip(hidden, everything)
        ]
        found = torch.autograd.grad(
            sum(losses), [leaf for pair in leaves for leaf in pair], create_graph=True
        )
        carries = [
            moved(carry, {'w': found[2 * rank], 'b': found[2 * rank + 1]}, one.lr)
            for rank, (carry, one) in enumerate(zip(carries, everything))
        ]
    total = sum(outer_loss(params, one.held_out) for (params, _), one in zip(carries, everything))
    wanted = everything[dist.get_rank()].wanted()
    copies = [one.lr for one in everything]
    expected = torch.autograd.grad(total, [*wanted, *copies])
    for backward in REVERSE:
        own = share(dist.get_rank())
        found = torch.autograd.grad(loss_of_rank(own, backward, crossing), own.wanted())
        assert_same(found, expected[: len(wanted)])
    own = share(dist.get_rank())
    for tensor in own.wanted():
        tensor.requires_grad_(tensor is own.lr)
    (found,) = torch.autograd.grad(loss_of_rank(own, ForwardMode(), crossing), own.lr)
    assert_same(sum_over_ranks(found), torch.stack(expected[len(wanted) :]).sum())


def check_truncated() -> None:
    for inner in (Stored(), Recomputed()):
        own = share(dist.get_rank())
        loss = loss_of_rank(own, Truncated(2, inner))
        found = torch.autograd.grad(loss, own.wanted(), allow_unused=True)
        found = [torch.zeros_like(x) if g is None else g for x, g in zip(own.wanted(), found)]
        assert_same(found, gradients_in_one_process(2))


def check_second_meta_derivatives() -> None:
    everything = shares()

    def penalty(losses: Any, wanted: list[torch.Tensor]) -> torch.Tensor:
        first = torch.autograd.grad(losses, wanted, create_graph=True)
        return torch.stack([gradient.square().sum() for gradient in first]).sum()

    total = torch.stack(losses_in_one_process(everything)).sum()
    all_penalties = penalty(total, [x for one in everything for x in one.wanted()])
    expected = torch.autograd.grad(all_penalties, everything[dist.get_rank()].wanted())
    for backward in (Stored(), Recomputed()):
        own = share(dist.get_rank())
        found = torch.autograd.grad(
            penalty(loss_of_rank(own, backward), own.wanted()), own.wanted()
        )
        assert_same(list(found), list(expected))


def check_forward_mode() -> None:
    """Each rank finds another part, and the mean over ranks is the same as in reverse mode."""
    everything = shares()
    by_copies = torch.autograd.grad(
        torch.stack(losses_in_one_process(everything)).sum(), [one.lr for one in everything]
    )
    expected = torch.stack(by_copies).mean()
    own = share(dist.get_rank())
    for tensor in own.wanted():
        tensor.requires_grad_(tensor is own.lr)
    for backward in (ForwardMode(), Recomputed()):
        (found,) = torch.autograd.grad(loss_of_rank(own, backward), own.lr)
        assert_same(mean_over_ranks(found), expected)


def check_forward_mode_needs_the_same_meta_parameters() -> None:
    own = share(dist.get_rank())
    for tensor in own.wanted():
        tensor.requires_grad_(tensor is own.weights)
    with pytest.raises(RuntimeError, match='same meta-parameters'):
        loss_of_rank(own, ForwardMode())


def check_transforms_around_unroll() -> None:
    own = share(dist.get_rank())
    expected = gradients_in_one_process()

    def loss(weights: torch.Tensor, backward: Any = STORED) -> torch.Tensor:
        return loss_of_rank(own._replace(weights=weights), backward)

    weights = own.weights.detach()
    assert_same(torch.func.grad(loss)(weights), expected[-1])
    both = torch.stack([weights, 0.5 * weights])
    one_by_one = torch.stack([torch.func.grad(loss)(row) for row in both])
    assert_same(torch.vmap(torch.func.grad(loss))(both), one_by_one)
    for backward in REVERSE[:3]:
        rows = both.clone().requires_grad_()
        mapped = torch.vmap(lambda row, backward=backward: loss(row, backward))(rows)
        (found,) = torch.autograd.grad(mapped.sum(), rows)
        assert_same(found, one_by_one)


def check_wrong_leaves_are_refused() -> None:
    for tree, message in (
        ({'flags': torch.ones(2, dtype=torch.bool)}, r"numbers .* as tree\['flags'\]"),
        ([1.0], r'strided tensors and None, got float 1\.0 as tree\[0\]'),
        (torch.ones(2, 2).to_sparse(), 'strided tensors'),
    ):
        with pytest.raises(TypeError, match=message):
            sum_over_ranks(tree)
    with pytest.raises(TypeError, match='floating-point and complex'):
        mean_over_ranks(torch.ones(2, dtype=torch.int64))


def check_what_torch_itself_gets_wrong() -> None:
    """If this fails, torch has mended its functional collectives: then reconsider ours."""
    own, total = _own().detach(), sum(_values())

    def torchs(x: torch.Tensor) -> torch.Tensor:
        return functional.wait_tensor(functional.all_reduce(x, 'sum', dist.group.WORLD))

    assert_same(torchs(own), total)
    _, tangent = torch.func.jvp(torchs, (own,), (own,))
    assert not tangent.any(), 'the tangent is silently 0'
    # Under vmap nobody waits for the collective, so that a part of the sum is missing mostly.
    large = torch.ones(2, 2**18, dtype=DTYPE)
    right = [torch.vmap(torchs)(large).eq(dist.get_world_size()).all() for _ in range(5)]
    dist.barrier()
    assert not all(right)


def check_modules_whose_gradients_are_averaged() -> None:
    """Rows of one batch over ranks, for ``ModuleStep`` and ``MetaAdam``."""
    ranks = dist.get_world_size()
    own = slice(dist.get_rank() * ROWS // ranks, (dist.get_rank() + 1) * ROWS // ranks)

    def loss_of_own_rows(net: Any, x: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        return loss(net, x[own], weights[own])

    expected = by_module_step(Net(), Stored())
    averaged = {'before': average_gradients()}
    for backward in (Stored(), Recomputed(), Snapshots(2)):
        found = by_module_step(Net(), backward, loss_of_own_rows, **averaged)
        # The mean of the losses of all ranks, by copies and by the weights of own rows.
        assert_same(list(mean_over_ranks(found)), expected)
    found = by_meta_optimizer(Net(), loss_of_own_rows, **averaged)
    assert_same(list(mean_over_ranks(found)), expected)


def check_ddp_inside_of_a_step_is_refused() -> None:
    wrapped = DistributedDataParallel(Net())
    with pytest.raises(RuntimeError, match=r'MetaAdam cannot .* averages over ranks what backward'):
        torchopt.MetaAdam(wrapped, 0.1)
    with pytest.raises(RuntimeError, match=r'ModuleStep cannot .*average_gradients\(\)'):
        ModuleStep(wrapped, torchopt.adam(), loss)
    with pytest.raises(RuntimeError, match=r'unroll cannot .* DistributedDataParallel'):
        torchopt.unroll(lambda w, *_: (wrapped(w), None), XS[0], length=1)
    torchopt.Adam(wrapped.parameters(), lr=0.1)
    ModuleStep(wrapped.module, torchopt.adam(), loss)
