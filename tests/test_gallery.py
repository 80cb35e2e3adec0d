"""The gallery: experiments show what their pages claim, and runs go on where they stopped."""

import importlib
import json
import re
import sys
import types
from pathlib import Path

import pytest
import torch
from scipy import stats

import torchopt
from torchopt.unrolling import Snapshots

GALLERY = Path(__file__).parents[1] / 'docs' / 'gallery'


@pytest.fixture
def gallery(monkeypatch):
    """Import modules of the gallery, as Python and Sphinx do when they run them."""
    monkeypatch.setenv('MPLBACKEND', 'agg')
    monkeypatch.setattr(sys, 'path', [str(GALLERY), str(GALLERY.parent / 'examples'), *sys.path])
    return importlib.import_module


@pytest.fixture
def small(gallery, tmp_path):
    """Run an experiment in small, draw it, and return it with its result."""

    def run(name):
        experiment = gallery(name)
        path = tmp_path / f'{name}.jsonl'
        records = gallery('runs').complete(experiment, path, experiment.SMALL, 1)
        report = gallery('report')
        report.picture(experiment, records).savefig(path.with_suffix('.png'))
        assert path.with_suffix('.png').stat().st_size > 10_000
        assert all(label in report.table(experiment, records) for label, _ in experiment.ROWS)
        return experiment, records[0]['result']

    return run


def counting(calls):
    """Make an experiment that notes for which seeds it runs."""

    def run(seed, scale):
        calls.append(seed)
        return {'value': scale * seed + 1 / 3}

    return types.SimpleNamespace(__name__='counting', run=run)


def test_a_run_that_was_stopped_goes_on(gallery, tmp_path):
    runs, calls = gallery('runs'), []
    path = tmp_path / 'new' / 'counting.jsonl'
    first = runs.complete(counting(calls), path, {'scale': 2}, 2)
    both = runs.complete(counting(calls), path, {'scale': 2}, 3)
    assert calls == [0, 1, 2]
    assert [record['result']['value'] for record in both] == [0.33333, 2.3333, 4.3333]
    assert both[:2] == first
    assert runs.complete(counting(calls), path, {'scale': 2}, 1) == first[:1]


def test_runs_with_other_settings_are_not_mixed(gallery, tmp_path):
    runs, calls = gallery('runs'), []
    path = tmp_path / 'counting.jsonl'
    runs.complete(counting(calls), path, {'scale': 2}, 1)
    (other,) = runs.complete(counting(calls), path, {'scale': 10}, 1)
    assert calls == [0, 0]
    assert other['settings'] == {'scale': 10}
    assert runs.read(path, {'scale': 3}) == []
    assert len(path.read_text().splitlines()) == 2


def test_settings_may_have_tuples(gallery, tmp_path):
    path = tmp_path / 'counting.jsonl'
    path.write_text(json.dumps({'seed': 0, 'settings': {'rates': (1, 2)}}) + '\n')
    assert len(gallery('runs').read(path, {'rates': (1, 2)})) == 1


def test_intervals(gallery):
    interval = gallery('report').interval
    values = [3.1, 2.9, 3.4, 3.3]
    low, high = stats.t.interval(0.95, 3, sum(values) / 4, stats.sem(values))
    mean, half = map(float, interval(values).split(' ± '))
    assert mean - half == pytest.approx(low, abs=0.01)
    assert mean + half == pytest.approx(high, abs=0.01)
    assert interval([-12.0]) == '−12.0 (one seed)'
    assert interval([-2.0, -2.0]) == '−2.00 ± 0.00'
    assert interval([1.00001, 1.00002]) != '1.00 ± 0.00'


def test_every_experiment_is_short_and_has_its_page_and_its_runs(gallery):
    runs, report = gallery('runs'), gallery('report')
    for name in runs.names():
        assert len((GALLERY / f'{name}.py').read_text().splitlines()) < 100, name
        experiment, records = report.recorded(name)
        assert [record['seed'] for record in records] == list(range(len(records))), name
        assert len(records) <= experiment.SEEDS, name
        assert set(experiment.PAPER) <= {label for label, _ in experiment.ROWS}, name
        assert f"show_picture('{name}')" in (GALLERY / f'{name}.md').read_text()


def test_an_unknown_experiment(gallery):
    with pytest.raises(ValueError, match='no experiment is called'):
        gallery('runs').load('nothing')


def test_rewards_of_known_strategies(gallery):
    lola = gallery('lola')
    always, never = torch.full((5,), 30.0), torch.full((5,), -30.0)
    tit_for_tat = torch.where(lola.TIT_FOR_TAT, 30.0, -30.0)
    steps = 1 - lola.DISCOUNT
    for own, other, reward in [
        (always, always, -1.0),
        (never, never, -2.0),
        (always, never, -3.0),
        (never, always, 0.0),
        (tit_for_tat, tit_for_tat, -1.0),
        # Betrayed once, then never again:
        (tit_for_tat, never, -3.0 * steps - 2.0 * lola.DISCOUNT),
        (never, tit_for_tat, -2.0 * lola.DISCOUNT),
    ]:
        assert steps * lola.value(own, other) == pytest.approx(reward, abs=1e-3)


def test_lola_climbs_what_the_paper_writes_down(gallery):
    lola = gallery('lola')
    own, other = torch.randn(2, 5, generator=torch.Generator().manual_seed(0)).double()
    own.requires_grad_()
    other.requires_grad_()
    lola.REWARDS, before = lola.REWARDS.double(), lola.REWARDS
    try:
        mine, others = lola.value(own, other), lola.value(other, own)
        mine_by_own, mine_by_other = torch.autograd.grad(mine, (own, other))
        (step,) = torch.autograd.grad(others, other, create_graph=True)
        expected = mine_by_own + 0.3 * torch.autograd.grad(step, own, mine_by_other)[0]
        found = torch.func.grad(lola.lola)(own.detach(), other.detach(), 0.3)
    finally:
        lola.REWARDS = before
    torch.testing.assert_close(found, expected)


@pytest.mark.slow
def test_lola_learns_to_cooperate_and_naive_learners_do_not(small):
    _, result = small('lola')
    assert result['naive learners: reward'] < -1.95
    assert result['LOLA: reward'] > -1.25
    assert result['LOLA: tit-for-tat'] > 0.3
    assert result['naive learners: tit-for-tat'] == 0


@pytest.mark.slow
def test_one_step_from_learned_parameters_fits_sinusoids_best(gallery, small):
    _, result = small('maml')
    maml = gallery('maml')
    untrained = maml.run(0, **{**maml.SMALL, 'iterations': 0})
    for name in ('MAML', 'Meta-SGD'):
        assert result[f'{name} 1'] < result[f'{name} 0']
        assert result[f'{name} 1'] < 0.97 * untrained[f'{name} 1']
    assert result['Meta-SGD 1'] < result['pretrained 1']


def test_sinusoids_are_the_papers(gallery):
    torch.manual_seed(0)
    support, query = gallery('maml').sample(1000, 200)
    (x, y), (more_x, more_y) = support, query
    assert x.shape == y.shape == (1000, 10, 1)
    assert more_x.shape == more_y.shape == (1000, 200, 1)
    assert more_x.abs().max() <= 5
    amplitudes = more_y.abs().amax((1, 2))
    assert 0.05 < amplitudes.min() < 0.5
    assert 4.5 < amplitudes.max() <= 5
    # Support and query points lie on one curve, whose phase, at x = 0, is from 0 to π.
    near_0 = more_x.abs() < 0.05
    assert (more_y[near_0] > -0.3).all()


def test_maml_is_meta_sgd_whose_rates_stay(gallery):
    maml = gallery('maml')
    params = {name: param.clone() for name, param in maml.net.state_dict().items()}
    meta = params, {name: torch.full_like(param, 0.01) for name, param in params.items()}
    step = (maml.torchopt.adam().init(meta), *maml.sample(3, 10), 1)
    (learned, rates), _ = maml.meta_step(meta, *step, torch.tensor(0.0))
    torch.testing.assert_close(rates, meta[1], rtol=0, atol=0)
    assert not torch.equal(learned['0.weight'], params['0.weight'])
    (_, rates), _ = maml.meta_step(meta, *step, torch.tensor(1e-3))
    assert not torch.equal(rates['0.weight'], meta[1]['0.weight'])


@pytest.mark.slow
def test_one_image_each_tells_new_numbers_apart(small):
    _, result = small('fewshot_numbers')
    assert abs(result['meta-learned 0'] - 20) < 10
    assert result['meta-learned 1'] > result['random parameters 1'] + 5
    assert result['meta-learned 1'] > 55


def test_test_numbers_and_their_images_are_new(gallery):
    tasks = gallery('number_tasks')
    (numbers, images), (held_out, other_images) = tasks.load(0)
    assert sorted([*numbers.tolist(), *held_out.tolist()]) == list(range(100))
    assert len(held_out) == 20
    assert images.shape == (10, 100, 8, 8)
    assert other_images.shape == (10, 74, 8, 8)
    assert tasks.load(1)[1][0].tolist() != held_out.tolist()

    # An image of 37 is a 3 beside a 7; the images of a task are of its classes, in their order.
    marked = torch.arange(10.0)[:, None, None, None].expand(10, 5, 8, 8)
    written = tasks.write(torch.tensor([37, 4]), marked)
    assert written[0, 0, 0].tolist() == [3.0] * 8 + [7.0] * 8
    assert written[1, 0, 0].tolist() == [0.0] * 8 + [4.0] * 8
    support, query = tasks.sample((numbers, marked), 6, 2, 3)
    assert support.shape == (6, 5, 2, 1, 8, 16)
    assert query.shape == (6, 5, 3, 1, 8, 16)
    assert support[:, :, :1].expand_as(query).equal(query)
    for task in support[:, :, 0, 0, 0]:
        assert len({(row[0].item(), row[-1].item()) for row in task}) == 5


def mean(records, key):
    return sum(record['result'][key] for record in records) / len(records)


@pytest.mark.slow
def test_ten_images_train_networks(small):
    _, result = small('distillation')
    assert result['known network'] > result['untrained'] + 30
    assert result['new networks'] > result['mean images'] + 15
    first, *_, last = result['film']
    assert first != last


def test_the_gradient_of_ten_images_is_what_finite_differences_say(gallery):
    experiment = gallery('distillation')
    torch.manual_seed(0)
    networks = {name: param.double() for name, param in experiment.new_networks(2).items()}
    data = torch.randn(10, 64).double(), torch.randn(3).double()
    examples = networks, torch.rand(20, 64).double(), torch.randint(10, (20,))
    slopes = torch.func.grad(experiment.evaluate, has_aux=True)(data, *examples)[0]
    for of in (0, 1):
        shift = [torch.zeros_like(part) for part in data]
        shift[of].flatten()[2] = 1e-5
        ends = [
            experiment.evaluate([part + sign * s for part, s in zip(data, shift)], *examples)[0]
            for sign in (1, -1)
        ]
        torch.testing.assert_close(slopes[of].flatten()[2], (ends[0] - ends[1]) / 2e-5)


def test_mean_images_stay_when_only_rates_are_learned(gallery):
    experiment = gallery('distillation')
    training = gallery('noisy_digits').load(0, noise=0.0, held_out=0).training
    start = torch.rand(10, 64), torch.zeros(2)
    history = experiment.distill(start, False, lambda: experiment.new_networks(1), training, 2)
    assert history[-1][0].equal(start[0])
    assert not history[-1][1].equal(start[1])


def test_weights_are_agreements_of_gradients(gallery):
    experiment, data = gallery('reweighting'), gallery('noisy_digits').load(0, 0.5, 30)
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(64, 20), torch.nn.ReLU(), torch.nn.Linear(20, 10))
    before = [param.clone() for param in net.parameters()]
    images, labels = (part[:12] for part in data.training)
    weights = experiment.weigh(net, images, labels, data.held_out)
    for param, old in zip(net.parameters(), before):
        assert isinstance(param, torch.nn.Parameter)
        assert param.equal(old)

    def gradient(images, labels):
        loss = torch.nn.functional.cross_entropy(net(images), labels)
        return torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(net.parameters()))])

    clean = gradient(*data.held_out)
    agreements = [gradient(images[i, None], labels[i, None]) @ clean for i in range(12)]
    expected = torch.stack(agreements).clamp(min=0)
    assert 0 < expected.count_nonzero() < 12
    torch.testing.assert_close(weights, expected / expected.sum())


@pytest.mark.slow
def test_wrong_labels_lose_weight(small):
    experiment, result = small('reweighting')
    assert result['wrong part'] < 0.7 * 100 * experiment.SMALL['noise']
    right, wrong = (sum(weights) / len(weights) for weights in result['weights'])
    assert wrong < 0.5 * right
    assert result['clean'] < result['right']


@pytest.mark.slow
def test_predicted_changes_come_true(small):
    _, result = small('attribution')
    assert result['correlation'] > 0.7
    assert 0.5 < result['actual spread'] / result['predicted spread'] < 2
    for of in ('predicted', 'actual'):
        assert result[f'harmful {of}'] < 0 < result[f'helpful {of}']


def test_the_records_show_what_the_pages_claim(gallery):
    report = gallery('report')
    _, records = report.recorded('distillation')
    assert mean(records, 'known network') > 85
    assert mean(records, 'new networks') > mean(records, 'mean images') + 5
    _, records = report.recorded('reweighting')
    assert mean(records, 'reweighted') > mean(records, 'all') + 10
    assert mean(records, 'reweighted') < mean(records, 'right')
    assert mean(records, 'by digit') > 0.3
    _, records = report.recorded('attribution')
    assert mean(records, 'correlation') > 0.99


@pytest.mark.slow
def test_the_demo_makes_a_page_with_all_pictures(gallery, tmp_path, capsys):
    demo = gallery('demo')
    page = demo.run(1, tmp_path / 'new', small=True).read_text(encoding='utf-8')
    assert page.count('<img') == page.count('data:image/png;base64,') == len(demo.PARTS)
    text = re.sub(r'base64,[^"]*', '', page)
    printed = capsys.readouterr().out
    for shown in (text, printed):
        assert 'one seed' in shown
        assert not re.search(r'\bnan\b', shown)
    assert 'color-scheme' in text
    assert not re.search(r'(src|href)="(?!data:)', text)


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
