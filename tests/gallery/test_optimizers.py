"""Experiments on hyperparameters, schedules and learned optimizers do what their pages say."""

import pytest
import torch

import torchopt
from torchopt.unrolling import Snapshots


def numerical(fn, x, change=1e-5):
    """Return the derivative of ``fn`` by all elements of ``x``, by central differences."""
    shifts = change * torch.eye(x.numel(), dtype=x.dtype).view(-1, *x.shape)
    return torch.stack([(fn(x + s) - fn(x - s)) / (2 * change) for s in shifts]).view_as(x)


def moments(rates, squares, curvatures):
    """Return the expected squares after noisy steps, one step after the other."""

    def step(squares, rate, curvatures):
        return (1 - rate * curvatures).square() * squares + rate.square() * curvatures, None

    return torchopt.unroll(step, squares, rates, curvatures)[0]


def test_the_closed_form_of_the_noisy_quadratic(gallery):
    example = gallery('short_horizon')
    rates = torch.linspace(0.9, 0.1, 7, dtype=torch.float64, requires_grad=True)
    squares = torch.linspace(0.5, 2, 4, dtype=torch.float64)
    curvatures = example.curvatures(squares)
    loss, found = example.expected(rates, squares)
    stepwise = moments(rates, squares, curvatures)
    torch.testing.assert_close(found, stepwise, rtol=1e-12, atol=0)
    gradients = [
        torch.autograd.grad(value, rates)[0] for value in (loss, (curvatures * stepwise).sum() / 2)
    ]
    torch.testing.assert_close(*gradients, rtol=1e-12, atol=1e-14)


def test_meta_gradients_of_sampled_steps_are_unbiased(gallery):
    example = gallery('short_horizon')
    torch.manual_seed(0)
    rates = torch.tensor([0.8, 0.5, 0.3, 0.2], dtype=torch.float64, requires_grad=True)
    squares = torch.ones(3, dtype=torch.float64)
    (exact,) = torch.autograd.grad(example.expected(rates, squares)[0], rates)
    samples = torch.stack(
        [
            torch.autograd.grad(example.unrolled(rates, squares.expand(20_000, 3))[0], rates)[0]
            for _ in range(40)
        ]
    )
    deviations = (samples.mean(0) - exact) / (samples.std(0) / len(samples) ** 0.5)
    assert deviations.abs().max() < 4
    # The test would notice an error of a tenth.
    assert (0.1 * exact.abs() > 4 * samples.std(0) / len(samples) ** 0.5).all()


def test_noise_of_steps_that_run_again_is_drawn_again(gallery):
    example = gallery('short_horizon')
    rates = torch.full((9,), 0.3, dtype=torch.float64, requires_grad=True)
    start = torch.ones(5, 3, dtype=torch.float64)
    torch.manual_seed(0)
    (stored,) = torch.autograd.grad(example.unrolled(rates, start)[0], rates)
    torch.manual_seed(0)
    params, _ = torchopt.unroll(example.sgd_step, start, rates, backward=Snapshots())
    loss = (example.curvatures(params) * params.square()).sum(-1).mean() / 2
    torch.testing.assert_close(torch.autograd.grad(loss, rates)[0], stored)


def test_the_greedy_rate_is_the_one_that_a_formula_gives(gallery):
    example = gallery('short_horizon')
    squares = torch.tensor([1.0, 0.3, 2.0], dtype=torch.float64)
    curvatures = example.curvatures(squares)
    rates, _ = example.learn(example.expected, squares, horizon=1, steps=2, rounds=200)
    for rate in rates:
        best = (curvatures**2 * squares).sum() / (curvatures**3 * squares + curvatures**2).sum()
        torch.testing.assert_close(rate, best, rtol=1e-4, atol=0)
        squares = moments(rate[None], squares, curvatures)


@pytest.mark.slow
def test_short_horizons_cost_in_the_end(small):
    _, result = small('short_horizon')
    for source in ('unrolled', 'closed form'):
        assert result[f'whole run, {source}'] < 0.98 * result[f'shortest horizon, {source}']
    assert result['whole run, unrolled'] == pytest.approx(
        result['whole run, closed form'], rel=0.05
    )
    assert result['error'] < 0.6


def test_lambda_returns(gallery):
    example = gallery('meta_gradient_rl')
    rewards, values = torch.randn(3, example.STATES), torch.randn(3, example.STATES)
    seen = values[:, example.SEEN_AS]
    sums = rewards.flip(1).cumsum(1).flip(1)
    torch.testing.assert_close(example.returns(rewards, values, torch.ones(10)), sums)
    one_step = rewards + torch.cat([seen[:, 1:], torch.zeros(3, 1)], 1)
    torch.testing.assert_close(example.returns(rewards, values, torch.zeros(10)), one_step)
    # What the page says of state 5: the value that it shares is its own.
    assert example.TRUTH[~example.DISTINCT].mean() == example.TRUTH[5]


def test_lambdas_have_the_meta_gradient_of_finite_differences(gallery, monkeypatch):
    example = gallery('meta_gradient_rl')
    monkeypatch.setattr(example, 'TRUTH', example.TRUTH.double())
    torch.manual_seed(0)
    episodes = torch.randn(2, 4, 3, example.STATES, dtype=torch.float64)
    values = torch.randn(3, example.STATES, dtype=torch.float64)

    def judged(lambdas):
        return torchopt.unroll(example.learn_episode, values, tuple(episodes), lambdas)[1][0].sum()

    lambdas = torch.linspace(0.1, 0.9, 10, dtype=torch.float64, requires_grad=True)
    (found,) = torch.autograd.grad(judged(lambdas), lambdas)
    torch.testing.assert_close(found, numerical(judged, lambdas.detach()), rtol=1e-6, atol=1e-8)


@pytest.mark.slow
def test_lambda_falls_where_values_can_be_trusted(small):
    _, result = small('meta_gradient_rl')
    assert result['distinct'] < result['alike'] - 0.3
    assert result['middle'] < result['alike'] - 0.3
    assert result['learned error'] < 0.7 * result['fixed'][5]  # λ began at 0.5 everywhere


def test_every_rate_has_the_meta_gradient_of_finite_differences(gallery, monkeypatch):
    example = gallery('hyperparameters')
    monkeypatch.setattr(example, 'IMAGES', example.IMAGES.double())
    torch.manual_seed(0)
    params, batches = example.sample(networks=2, steps=3)
    networks = {name: param.double() for name, param in params.items()}, batches
    names = list(params)
    log_rates = torch.full((len(names), 3), -2.0, dtype=torch.float64, requires_grad=True)
    logits = torch.zeros(3, dtype=torch.float64, requires_grad=True)

    def final(log_rates, logits):
        return example.final_loss((dict(zip(names, log_rates)), logits), networks, example.HELD_OUT)

    found = torch.autograd.grad(final(log_rates, logits), (log_rates, logits))
    rates, momentum = log_rates.detach(), logits.detach()
    expected = numerical(lambda x: final(x, momentum), rates)
    torch.testing.assert_close(found[0], expected, rtol=1e-5, atol=1e-9)
    # The first step has no momentum to decay.
    expected = numerical(lambda x: final(rates, x), momentum)
    torch.testing.assert_close(found[1], expected, rtol=1e-5, atol=1e-9)
    assert found[1][0] == 0 != found[1][1]


@pytest.mark.slow
def test_learned_rates_beat_those_that_they_begin_with(gallery, small, monkeypatch):
    example = gallery('hyperparameters')
    monkeypatch.setattr(example, 'PAIRS', [(0.3, 0.8)])
    _, result = small('hyperparameters')
    before = example.run(0, **{**example.SMALL, 'rounds': 0})
    assert before['constant'] == pytest.approx(result['constant'], rel=1e-4)
    assert result['learned'] < 0.95 * before['learned']


@pytest.mark.slow
def test_a_learned_schedule_beats_the_constants_that_it_begins_with(small):
    _, result = small('learned_schedule')
    assert result['learned'] < 0.97 * result['constant']


def test_the_learned_optimizer_has_the_meta_gradient_of_finite_differences(gallery):
    example = gallery('learned_optimizer')
    torch.manual_seed(0)
    modules = torch.nn.LSTMCell(1, 3), torch.nn.LSTMCell(3, 3), torch.nn.Linear(3, 1)
    weights = [[weight.detach().double() for weight in module.parameters()] for module in modules]
    problem = tuple(torch.randn(2, 10, 11, dtype=torch.float64).split([10, 1], 2))
    start = torch.zeros(2, 10, 1, dtype=torch.float64)

    def total(recurrent):
        changed = [weights[0], [weights[1][0], recurrent, *weights[1][2:]], weights[2]]
        carry = start, example.lstm(changed).init(start)
        consts = example.lstm, changed, problem
        return torchopt.unroll(example.step, carry, None, consts, length=4)[1].sum()

    recurrent = weights[1][1].requires_grad_()
    (found,) = torch.autograd.grad(total(recurrent), recurrent)
    expected = numerical(total, recurrent.detach())
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-8)
    assert found.abs().max() > 1e-4


@pytest.mark.slow
def test_the_learned_optimizer_ends_below_the_best_sgd(small):
    _, result = small('learned_optimizer')
    assert result['LSTM last'] < result['SGD last']
    assert len(result['LSTM path']) == 20
