"""Distillation, reweighting and attribution do what their pages say."""

import pytest
import torch


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
