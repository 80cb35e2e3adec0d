"""What is peculiar to accumulate_gradients, apply_if_finite, lookahead and partition."""

from __future__ import annotations

import io
from typing import Any

import pytest
import torch

import torchopt
from support.trees import assert_trees_close, assert_trees_equal, requiring_grad
from support.unrolled import START
from torchopt import pytree
from torchopt import transform as t

INF, NAN = float('inf'), float('nan')


def vector(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def steps(optimizer: Any, gradients: Any, params: Any) -> Any:
    """The parameters after each step, and the last state."""
    state, path = optimizer.init(params), []
    for gradient in gradients:
        updates, state = optimizer.update(gradient, state, params=params, inplace=False)
        params = torchopt.apply_updates(params, updates, inplace=False)
        path.append(params)
    return path, state


class TestAccumulateGradients:
    def test_a_step_for_the_mean(self) -> None:
        gradients = [vector(1.0, 2.0), vector(3.0, -6.0), vector(5.0, 1.0), vector(1.0, 1.0)]
        inner = torchopt.adam(0.1)
        path, state = steps(t.accumulate_gradients(inner, 2), gradients, vector(1.0, 1.0))
        means = [vector(2.0, -2.0), vector(3.0, 1.0)]
        expected, inner_state = steps(inner, means, vector(1.0, 1.0))
        assert_trees_close([path[1], path[3]], expected)
        assert_trees_equal([path[0], path[2]], [vector(1.0, 1.0), path[1]])
        assert_trees_close(state.inner_state, inner_state)

    def test_a_schedule_counts_steps(self) -> None:
        counts = []
        inner = torchopt.sgd(lambda count: counts.append(count.item()) or 0.1)
        steps(t.accumulate_gradients(inner, 3), [vector(1.0)] * 7, vector(1.0))
        assert counts == [0, 0, 0, 1, 1, 1, 2]

    def test_what_is_added_up_waits_for_a_gradient(self) -> None:
        """A parameter is left out where its last gradient is None, and nothing is lost."""
        optimizer = t.accumulate_gradients(torchopt.sgd(1.0), 2)
        gradients = [[vector(2.0)], [None], [vector(4.0)], [vector(6.0)]]
        path, _ = steps(optimizer, gradients, [vector(0.0)])
        assert [params[0].item() for params in path] == [0.0, 0.0, 0.0, -6.0]

    def test_a_checkpoint_within_the_first_step(self) -> None:
        def make() -> tuple[Any, Any]:
            params = [torch.ones(2, requires_grad=True), torch.ones(1, requires_grad=True)]
            return params, torchopt.Optimizer(params, t.accumulate_gradients(torchopt.adam(0.1), 2))

        def step(params: Any, optimizer: Any) -> None:
            optimizer.zero_grad()
            params[1].square().sum().backward()  # the first parameter takes no step
            optimizer.step()

        first, second = make(), make()
        step(*first)
        second[1].load_state_dict(_through_a_file(first[1].state_dict()))
        step(*first)
        step(*second)
        assert first[0][1].item() == pytest.approx(0.9)
        assert_trees_equal(second[0], first[0])

    @pytest.mark.parametrize('every', [0, -1, 1.0, True, torch.tensor(2)])
    def test_every_is_a_positive_integer(self, every: Any) -> None:
        with pytest.raises(ValueError, match='every must be an integer of at least 1, got'):
            t.accumulate_gradients(torchopt.sgd(0.1), every)


class TestApplyIfFinite:
    @pytest.mark.parametrize('bad', [INF, -INF, NAN])
    def test_leaves_out_the_step_of_all_parameters(self, bad: float) -> None:
        inner = torchopt.adam(0.1)
        good = [{'a': vector(1.0), 'b': vector(2.0, 3.0)}] * 2
        params = {'a': vector(1.0), 'b': vector(1.0, 1.0)}
        gradients = [good[0], {'a': vector(1.0), 'b': vector(0.0, bad)}, good[1]]
        path, state = steps(t.apply_if_finite(inner), gradients, params)
        expected, inner_state = steps(inner, good, params)
        assert_trees_equal([path[0], path[2]], expected)
        assert_trees_equal(path[1], path[0])
        assert_trees_equal(state.inner_state, inner_state)
        assert state.total_notfinite == 1
        assert state.last_finite

    @pytest.mark.parametrize('bad', [INF, NAN])
    @pytest.mark.parametrize('inner', [torchopt.adam(0.1), torchopt.lamb(0.1), torchopt.muon(0.1)])
    def test_meta_gradients_stay_finite(self, inner: Any, bad: float) -> None:
        params = requiring_grad(START)
        gradients = requiring_grad(pytree.tree_map(torch.ones_like, START))
        spoilt = requiring_grad({**gradients, 'b': vector(bad, 1.0)})
        path, _ = steps(t.apply_if_finite(inner), [gradients, spoilt, gradients], params)
        loss = sum(leaf.square().sum() for leaf in path[-1].values())
        inputs = [*params.values(), *gradients.values()]
        firsts = torch.autograd.grad(loss, [*inputs, *spoilt.values()], create_graph=True)
        assert all(first.isfinite().all() for first in firsts)
        assert all((first == 0).all() for first in firsts[len(inputs) :])
        without, _ = steps(inner, [gradients, gradients], params)
        loss = sum(leaf.square().sum() for leaf in without[-1].values())
        assert_trees_close(firsts[: len(inputs)], torch.autograd.grad(loss, inputs))
        seconds = torch.autograd.grad(sum(first.sum() for first in firsts), inputs)
        assert all(second.isfinite().all() for second in seconds)

    def test_an_overflow_in_the_loss_itself_shows(self) -> None:
        """0 times infinity is NaN: a meta-gradient is never silently wrong."""
        phi = vector(1.0).requires_grad_()
        path, _ = steps(t.apply_if_finite(torchopt.sgd(0.1)), [phi * INF], vector(1.0))
        assert path[0].item() == 1.0
        assert torch.autograd.grad(path[0].sum(), phi)[0].isnan()

    def test_no_gradient_at_all(self) -> None:
        path, state = steps(t.apply_if_finite(torchopt.sgd(0.1)), [[None]], [vector(1.0)])
        assert path[0][0].item() == 1.0
        assert state.total_notfinite == 0

    def test_of_each_task_under_vmap(self) -> None:
        optimizer = t.apply_if_finite(torchopt.sgd(1.0))

        def step(gradient: torch.Tensor) -> Any:
            updates, state = optimizer.update(gradient, optimizer.init(vector(0.0)), inplace=False)
            return updates, state.total_notfinite

        updates, counts = torch.vmap(step)(torch.stack([vector(1.0), vector(NAN), vector(3.0)]))
        assert updates.squeeze(1).tolist() == [-1.0, 0.0, -3.0]
        assert counts.tolist() == [0, 1, 0]


class TestLookahead:
    def test_by_hand(self) -> None:
        optimizer = t.lookahead(torchopt.sgd(1.0), 2, 0.5)
        path, state = steps(optimizer, [vector(-1.0)] * 5, vector(0.0))
        assert [params.item() for params in path] == [1.0, 1.0, 2.0, 2.0, 3.0]
        assert state.slow.item() == 2.0

    def test_the_slow_parameters_begin_at_the_parameters(self) -> None:
        optimizer = t.lookahead(torchopt.sgd(1.0))
        start = vector(1.0, 2.0).requires_grad_()
        state = optimizer.init(start)
        assert not state.slow.requires_grad
        assert torch.equal(state.slow, start)
        _, state = optimizer.update(vector(1.0, 1.0), state, params=start, inplace=False)
        assert torch.autograd.grad(state.slow.sum(), start)[0].tolist() == [1.0, 1.0]

    def test_a_parameter_without_a_gradient_waits_for_the_next_slow_step(self) -> None:
        optimizer = t.lookahead(torchopt.sgd(1.0), 2, 0.5)
        gradients = [[vector(-1.0)], [None], [vector(-1.0)], [vector(-2.0)]]
        path, state = steps(optimizer, gradients, [vector(0.0)])
        assert [params[0].item() for params in path] == [1.0, 1.0, 2.0, 2.0]
        assert state.slow[0].item() == 2.0

    def test_arguments(self) -> None:
        with pytest.raises(ValueError, match='sync_period must be an integer of at least 1'):
            t.lookahead(torchopt.sgd(1.0), 0)
        with pytest.raises(ValueError, match='slow_step_size must be at least 0 and at most 1'):
            t.lookahead(torchopt.sgd(1.0), 2, 1.5)


PARTS = {'a': t.scale(2.0), 'b': t.scale(3.0)}


class TestPartition:
    def test_by_a_prefix(self) -> None:
        updates = {'x': [vector(1.0), vector(2.0)], 'y': {'z': vector(1.0)}}
        optimizer = t.partition(PARTS, {'x': 'a', 'y': 'b'})
        found, _ = optimizer.update(updates, optimizer.init(updates), inplace=False)
        assert_trees_equal(found, {'x': [vector(2.0), vector(4.0)], 'y': {'z': vector(3.0)}})

    @pytest.mark.parametrize('label', ['a', 'b'])
    def test_a_bare_tensor(self, label: str) -> None:
        optimizer = t.partition(PARTS, label)
        found, _ = optimizer.update(vector(1.0), optimizer.init(vector(1.0)), inplace=False)
        assert found.item() == {'a': 2.0, 'b': 3.0}[label]

    def test_an_absent_parameter_needs_no_label(self) -> None:
        optimizer = t.partition(PARTS, {'x': 'a', 'y': None})
        updates = {'x': vector(1.0), 'y': None}
        found, _ = optimizer.update(updates, optimizer.init(updates), inplace=False)
        assert_trees_equal(found, {'x': vector(2.0), 'y': None})

    def test_a_part_without_parameters(self) -> None:
        optimizer = t.partition({'a': torchopt.adam(0.1), 'b': torchopt.adam(0.2)}, ['a', 'a'])
        path, _ = steps(optimizer, [[vector(1.0)] * 2] * 2, [vector(1.0)] * 2)
        expected, _ = steps(torchopt.adam(0.1), [[vector(1.0)] * 2] * 2, [vector(1.0)] * 2)
        assert_trees_equal(path, expected)

    @pytest.mark.parametrize(
        ('labels', 'message'),
        [
            (['a', 'c'], r"no transformation for the label 'c': there are 'a', 'b'"),
            (['a'], 'the labels and params differ in structure'),
            (['a', None], "no transformation for the label None: there are 'a', 'b'"),
        ],
    )
    def test_labels_that_do_not_fit(self, labels: Any, message: str) -> None:
        with pytest.raises(ValueError, match=message):
            t.partition(PARTS, labels).init([vector(1.0), vector(1.0)])


def _through_a_file(value: Any) -> Any:
    file = io.BytesIO()
    torch.save(value, file)
    file.seek(0)
    return torch.load(file, weights_only=True)
