"""LOLA, MAML and few-shot classification do what their pages say."""

import pytest
import torch


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
