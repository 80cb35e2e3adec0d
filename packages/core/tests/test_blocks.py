"""masked, clip_grad_norm, nan_to_num, hooks, weight decay and apply_updates."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

import torchopt
from support.optimizer_cases import MAIN_CASES, OptimizerCase
from support.trees import (
    assert_trees_close,
    assert_trees_equal,
    copied,
    sample_gradients,
    sample_params,
)
from torchopt import pytree
from torchopt.base import EmptyState
from torchopt.transform import add_decayed_weights, masked, scale

INF, NAN = float('inf'), float('nan')


def apply(transformation: torchopt.GradientTransformation, updates: Any, **keywords: Any) -> Any:
    state = transformation.init(keywords.get('params', updates))
    return transformation.update(updates, state, inplace=False, **keywords)[0]


class TestMasked:
    def test_only_where_the_mask_is_true(self) -> None:
        updates = {'a': torch.ones(2), 'b': torch.ones(2), 'c': None}
        mask = {'a': True, 'b': False, 'c': True}
        found = apply(masked(scale(3.0), mask), updates)
        assert_trees_equal(found, {'a': 3 * torch.ones(2), 'b': torch.ones(2), 'c': None})

    def test_a_prefix_is_enough(self) -> None:
        updates = {'a': [torch.ones(1), torch.ones(1)], 'b': {'c': torch.ones(1)}}
        found = apply(masked(scale(3.0), {'a': True, 'b': False}), updates)
        assert_trees_equal(
            found, {'a': [3 * torch.ones(1), 3 * torch.ones(1)], 'b': {'c': torch.ones(1)}}
        )

    @pytest.mark.parametrize('flag', [True, False])
    def test_a_bare_tensor(self, flag: bool) -> None:
        decay = add_decayed_weights(0.5, mask=flag)
        found = apply(decay, torch.ones(2), params=torch.full((2,), 4.0))
        assert found.tolist() == ([3.0, 3.0] if flag else [1.0, 1.0])

    def test_a_function_sees_the_parameters(self) -> None:
        decay = add_decayed_weights(0.5, mask=lambda tree: {'w': bool(tree['w'][0] > 3)})
        params = {'w': torch.full((1,), 4.0)}
        assert apply(decay, {'w': torch.ones(1)}, params=params)['w'].item() == 3.0

    def test_a_function_sees_the_updates_without_parameters(self) -> None:
        by_size = masked(scale(3.0), lambda tree: pytree.tree_map(lambda x: x.dim() == 2, tree))
        found = apply(by_size, [torch.ones(1, 1), torch.ones(1)])
        assert_trees_equal(found, [3 * torch.ones(1, 1), torch.ones(1)])

    @pytest.mark.parametrize('case', MAIN_CASES, ids=str)
    def test_any_optimizer(self, case: OptimizerCase) -> None:
        params, gradients = sample_params(), sample_gradients(sample_params(), 0)
        mask = {'layers': True, 'scale': False, 'empty': False}
        optimizer = case.make()
        found = apply(masked(optimizer, mask), gradients, params=params)
        alone = apply(
            optimizer, {'layers': gradients['layers']}, params={'layers': params['layers']}
        )
        assert_trees_close(found['layers'], alone['layers'])
        assert found['scale'] is gradients['scale']

    def test_a_state_only_of_what_is_chosen(self) -> None:
        state = masked(torchopt.adam(), {'a': True, 'b': False}).init(
            {'a': torch.ones(2), 'b': torch.ones(3)}
        )
        assert state[0].mu['b'] is None
        assert state[0].mu['a'].shape == (2,)

    def test_another_structure(self) -> None:
        with pytest.raises(ValueError, match='the mask does not fit'):
            masked(scale(1.0), {'v': True}).init({'w': torch.ones(1)})

    @pytest.mark.parametrize('flag', [1, 'yes', torch.tensor(True)])
    def test_only_bools(self, flag: Any) -> None:
        with pytest.raises(TypeError, match='a mask has bools at its leaves, got'):
            masked(scale(1.0), {'w': flag}).init({'w': torch.ones(1)})


class TestClipGradNorm:
    @pytest.mark.parametrize('inplace', [True, False])
    @pytest.mark.parametrize('norm_type', [0.5, 1.0, 2.0, 3.0, INF])
    @pytest.mark.parametrize('max_norm', [0.0, 0.7, 100.0])
    def test_equals_torch(self, max_norm: float, norm_type: float, inplace: bool) -> None:
        params = [p.requires_grad_() for p in pytree.tree_leaves(sample_params())]
        gradients = sample_gradients(params, 0)
        for param, gradient in zip(params, gradients):
            param.grad = gradient.clone()
        # torch has no norm of order infinity for empty tensors.
        torch.nn.utils.clip_grad_norm_([p for p in params if p.numel()], max_norm, norm_type)
        clipped, _ = torchopt.clip_grad_norm(max_norm, norm_type).update(
            gradients, EmptyState(), inplace=inplace
        )
        assert_trees_close(clipped, [p.grad for p in params])

    def test_absent_gradients_do_not_count(self) -> None:
        found = apply(torchopt.clip_grad_norm(1.0), [None, torch.tensor([3.0, 4.0])])
        assert found[0] is None
        torch.testing.assert_close(found[1], torch.tensor([0.6, 0.8]))
        assert apply(torchopt.clip_grad_norm(1.0), {'a': None}) == {'a': None}

    @pytest.mark.parametrize('norm_type', [1.0, 2.0, 3.0])
    @pytest.mark.parametrize('factor', [1.0, 0.01], ids=['clipped', 'kept'])
    def test_gradcheck(self, factor: float, norm_type: float) -> None:
        a = (torch.tensor([0.5, -1.5], dtype=torch.float64) * factor).requires_grad_()
        b = (torch.tensor(0.8, dtype=torch.float64) * factor).requires_grad_()
        bound = torch.tensor(1.0, dtype=torch.float64, requires_grad=True)

        def clip(a: torch.Tensor, b: torch.Tensor, bound: torch.Tensor) -> Any:
            return tuple(apply(torchopt.clip_grad_norm(bound, norm_type), [a, b]))

        assert torch.autograd.gradcheck(
            clip, (a, b, bound), check_forward_ad=True, check_batched_grad=True
        )
        assert torch.autograd.gradgradcheck(clip, (a, b, bound))

    @pytest.mark.parametrize('norm_type', [1.0, 2.0, 3.0, INF])
    @pytest.mark.parametrize('rest', [0.0, 5.0])
    def test_zero_gradients_have_a_derivative(self, rest: float, norm_type: float) -> None:
        """All of them, where nothing is clipped, and one tensor of zeros beside another."""
        zeros = torch.zeros(2, dtype=torch.float64, requires_grad=True)
        other = torch.full((1,), rest, dtype=torch.float64)
        found = apply(torchopt.clip_grad_norm(1.0, norm_type), [zeros, other])
        (derivative,) = torch.autograd.grad(found[0].sum(), zeros, create_graph=True)
        factor = min(1.0, 1.0 / (rest + 1e-6))
        torch.testing.assert_close(derivative, torch.full_like(zeros, factor))
        if derivative.requires_grad:
            (second,) = torch.autograd.grad(derivative.sum(), zeros)
            assert second.isfinite().all()

    def test_second_derivative_beside_a_dead_layer(self) -> None:
        """The gradient of one tensor is 0; the norm of all is smooth there all the same."""

        def clip(v: torch.Tensor) -> torch.Tensor:
            return torch.cat(apply(torchopt.clip_grad_norm(0.5), [v[:2], v[2:]]))

        def one_tensor(v: torch.Tensor) -> torch.Tensor:
            return v * (0.5 / (v.norm() + 1e-6))

        v = torch.tensor([0.0, 0.0, 1.0, 2.0], dtype=torch.float64)
        found, expected = (torch.func.jacfwd(torch.func.jacrev(fn))(v) for fn in (clip, one_tensor))
        torch.testing.assert_close(found, expected)

    @pytest.mark.parametrize('norm_type', [1.0, 2.0, 3.0, INF])
    @pytest.mark.parametrize('size', [1e-25, 1e-38, 1e30])
    def test_squares_neither_underflow_nor_overflow(self, size: float, norm_type: float) -> None:
        gradient = torch.tensor([size, -2 * size], requires_grad=True)
        (found,) = apply(torchopt.clip_grad_norm(1.0, norm_type), [gradient])
        norm = torch.linalg.vector_norm(torch.tensor([1.0, 2.0]), norm_type) * size
        torch.testing.assert_close(found, gradient / max(norm.item(), 1.0))
        (derivative,) = torch.autograd.grad(found.sum(), gradient)
        assert derivative.isfinite().all()

    @pytest.mark.parametrize('value', [NAN, INF])
    def test_not_finite(self, value: float) -> None:
        gradients = [torch.tensor([value, 1.0])]
        before = copied(gradients)
        with pytest.raises(RuntimeError, match=r'the norm of order 2.0 .* not finite'):
            torchopt.clip_grad_norm(1.0, error_if_nonfinite=True).update(gradients, EmptyState())
        assert_trees_equal(gradients, before)
        found = apply(torchopt.clip_grad_norm(1.0), gradients)
        assert not found[0].isfinite().all()

    @pytest.mark.parametrize(
        ('arguments', 'message'),
        [((-1.0,), 'max_norm'), ((1.0, 0.0), 'norm_type'), ((1.0, -2.0), 'norm_type')],
    )
    def test_arguments_out_of_range(self, arguments: tuple[float, ...], message: str) -> None:
        with pytest.raises(ValueError, match=message):
            torchopt.clip_grad_norm(*arguments)


class TestNanToNum:
    def test_equals_torch(self) -> None:
        values = torch.tensor([NAN, INF, -INF, 1.5])
        assert_trees_equal(apply(torchopt.nan_to_num(), [values]), [torch.nan_to_num(values)])
        found = apply(torchopt.nan_to_num(nan=2.0, posinf=3.0, neginf=-4.0), [values, None])
        assert found[0].tolist() == [2.0, 3.0, -4.0, 1.5]
        assert found[1] is None


class TestHooks:
    def test_zero_nan_keeps_infinities(self) -> None:
        found = torchopt.hook.zero_nan_hook(torch.tensor([NAN, INF, -INF, 1.5]))
        assert found.tolist() == [0.0, INF, -INF, 1.5]

    def test_nan_to_num(self) -> None:
        hook = torchopt.hook.nan_to_num_hook(nan=1.0, posinf=2.0, neginf=-3.0)
        assert hook(torch.tensor([NAN, INF, -INF, 1.5])).tolist() == [1.0, 2.0, -3.0, 1.5]

    def test_changes_the_gradient_on_its_way_back_only(self) -> None:
        x = torch.tensor([1.0, 2.0], requires_grad=True)
        constant = torch.ones(1)
        hooked = apply(torchopt.register_hook(lambda g: 10 * g), [x, constant, None])
        assert hooked[0].tolist() == [1.0, 2.0]
        assert hooked[1] is constant
        assert hooked[2] is None
        (through,) = torch.autograd.grad(hooked[0].sum(), x)
        assert through.tolist() == [10.0, 10.0]
        (past,) = torch.autograd.grad(x.sum(), x)
        assert past.tolist() == [1.0, 1.0]

    def test_keeps_a_nan_out_of_the_meta_gradient(self) -> None:
        x = torch.tensor([0.0, 4.0], requires_grad=True)
        plain = torchopt.sgd(lr=1.0)
        guarded = torchopt.chain(plain, torchopt.register_hook(torchopt.hook.zero_nan_hook))

        def meta_gradient(optimizer: torchopt.GradientTransformation) -> torch.Tensor:
            lost = (apply(optimizer, 2 * x) * 0).sqrt()  # 0 * inf on the way back
            return torch.autograd.grad(lost.sum(), x)[0]

        assert meta_gradient(plain).isnan().all()
        assert meta_gradient(guarded).tolist() == [0.0, 0.0]

    def test_must_be_callable(self) -> None:
        with pytest.raises(TypeError, match='hook must be callable, got 3'):
            torchopt.register_hook(3)


PARAMS = {'a': torch.tensor([1.0, 2.0]), 'b': [torch.tensor(3.0), None]}
UPDATES = {'a': torch.tensor([0.5, -0.5]), 'b': [None, None]}
SUMS = {'a': torch.tensor([1.5, 1.5]), 'b': [torch.tensor(3.0), None]}


class TestApplyUpdates:
    def test_functional(self) -> None:
        params, updates = copy.deepcopy((PARAMS, UPDATES))
        found = torchopt.apply_updates(params, updates, inplace=False)
        assert_trees_equal(found, SUMS)
        assert_trees_equal((params, updates), (PARAMS, UPDATES))
        assert found['b'][0] is params['b'][0]

    def test_inplace(self) -> None:
        params, updates = copy.deepcopy((PARAMS, UPDATES))
        found = torchopt.apply_updates(params, updates)
        assert_trees_equal(params, SUMS)
        assert found['a'] is params['a']
        assert_trees_equal(updates, UPDATES)

    def test_inplace_into_leaves_that_require_grad(self) -> None:
        param = torch.ones(2, requires_grad=True)
        (found,) = torchopt.apply_updates([param], [torch.ones(2)])
        assert found is param
        assert param.is_leaf
        assert param.tolist() == [2.0, 2.0]

    def test_connected_updates_stay_connected(self) -> None:
        param, update = torch.ones(2), torch.ones(2, requires_grad=True)
        (found,) = torchopt.apply_updates([param], [update])
        assert param.tolist() == [1.0, 1.0]
        assert torch.autograd.grad(found.sum(), update)[0].tolist() == [1.0, 1.0]
        with torch.no_grad():
            torchopt.apply_updates([param], [update])
        assert param.tolist() == [2.0, 2.0]

    def test_differentiable_in_both(self) -> None:
        inputs = tuple(torch.rand(2, dtype=torch.float64, requires_grad=True) for _ in range(2))
        assert torch.autograd.gradcheck(
            lambda p, u: torchopt.apply_updates(p, u, inplace=False), inputs, check_forward_ad=True
        )

    @pytest.mark.parametrize('inplace', [True, False])
    @pytest.mark.parametrize(
        ('bad', 'error', 'message'),
        [
            (torch.ones(3), ValueError, r"params\['b'\] does not fit updates\['b'\]"),
            (torch.ones(1), ValueError, r"params\['b'\] does not fit updates\['b'\]"),
            (torch.ones(2, dtype=torch.float64), ValueError, r"params\['b'\] does not fit"),
            (torch.ones(2, dtype=torch.int64), TypeError, r"updates\['b'\] must be a floating"),
            (
                1.0,
                TypeError,
                r"updates\['b'\] must be a floating-point .*, got float 1.0",
            ),
            ([torch.ones(2)], ValueError, 'params and updates differ in structure'),
        ],
    )
    def test_misfits_change_nothing(
        self, bad: Any, error: type[Exception], message: str, inplace: bool
    ) -> None:
        params = {'a': torch.ones(2), 'b': torch.ones(2)}
        with pytest.raises(error, match=message):
            torchopt.apply_updates(params, {'a': torch.ones(2), 'b': bad}, inplace=inplace)
        assert params['a'].tolist() == [1.0, 1.0]


class TestWeightDecay:
    def test_zero_needs_no_parameters(self) -> None:
        assert add_decayed_weights(0.0) == torchopt.base.identity()

    def test_adds_the_parameters(self) -> None:
        decay = add_decayed_weights(torch.tensor(0.5))
        params = {'a': torch.tensor([2.0, 4.0]), 'b': torch.ones(1)}
        found = apply(decay, {'a': torch.ones(2), 'b': None}, params=params)
        assert_trees_equal(found, {'a': torch.tensor([2.0, 3.0]), 'b': None})
