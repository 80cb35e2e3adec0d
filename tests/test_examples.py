"""The examples do what they say, with settings that take seconds."""

import importlib
import sys
from pathlib import Path

import pytest
import torch

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]


@pytest.fixture
def example(monkeypatch, request):
    monkeypatch.setenv('MPLBACKEND', 'agg')
    monkeypatch.setattr(sys, 'path', [str(ROOT / 'docs' / 'examples'), *sys.path])
    return importlib.import_module(request.param)


@pytest.mark.parametrize('example', ['learn_weights'], indirect=True)
def test_learned_weights_tell_right_points_from_wrong_ones(example):
    weights = example.learned_weights()
    assert weights[example.wrong].mean() < 0.5 * weights[~example.wrong].mean()
    example.train(torch.ones(60, 1))
    before = example.net(example.trusted_x)
    example.train(weights)
    after = example.net(example.trusted_x)
    errors = [(fit - example.trusted_y).square().mean() for fit in (before, after)]
    assert errors[1] < 0.2 * errors[0]


@pytest.mark.parametrize('example', ['weights_transformer'], indirect=True)
def test_weights_through_a_transformer_trust_right_labels(example, tmp_path, capsys):
    learner = example.rounds(6, 8, example.Recomputed())
    weights, corrupted = learner.logits.detach().sigmoid(), learner.data.corrupted
    assert weights[corrupted].mean() < weights[~corrupted].mean() - 0.03

    example.run(tmp_path, number=1, steps=1)
    assert (tmp_path / 'weights_transformer.png').stat().st_size > 0
    assert 'Recomputed' in capsys.readouterr().out


@pytest.mark.parametrize('example', ['meta_batch'], indirect=True)
def test_a_meta_batch_learns_in_one_process_too(example, capsys):
    """On several ranks it is run by ``distributed/checks_meta_batch.py``."""
    errors = example.learn(200, spread=False)
    assert sum(errors[-20:]) < 0.8 * sum(errors[:20])
    example.run(iterations=1)
    assert 'mean squared error' in capsys.readouterr().out


@pytest.mark.parametrize('example', ['learn_muon'], indirect=True)
def test_numbers_of_muon_are_learned_by_the_right_gradient(example, capsys):
    assert example.difference('muon', steps=3) < 1e-7
    example.show('muon', rounds=2)
    _, *lines = capsys.readouterr().out.splitlines()
    before, learned = ([float(part) for part in line.split()[1:5]] for line in lines)
    assert learned[0] > before[0]
    assert learned[3] < before[3]


TINY = {'length': 17, 'pieces': 2, 'batch': 8, 'steps': 30, 'width': 16, 'layers': 1}


@pytest.mark.parametrize('example', ['gpt_training'], indirect=True)
def test_a_text_has_the_influence_that_finite_differences_say(example):
    settings = example.Settings(**TINY, dtype=torch.float64)
    answer, slopes = example.gradient(settings)
    training = example.Training(settings)
    assert answer == training.answer(training.weights, example.Stored()).item()
    used = training.batches.flatten().tolist()
    change = 1e-4
    for text in {used[0], used[100], used[-1]}:
        shift = torch.zeros_like(training.weights).index_fill(0, torch.tensor(text), change)
        with torch.no_grad():
            ends = [
                training.answer(training.weights + sign * shift, example.Stored()).item()
                for sign in (1, -1)
            ]
        assert slopes[text].item() == pytest.approx((ends[0] - ends[1]) / (2 * change), rel=1e-5)
    # A loss that is a weighted mean does not see the scale of the weights.
    assert abs(slopes.sum()) < 1e-12 * slopes.abs().sum()


@pytest.mark.parametrize('example', ['gpt_training'], indirect=True)
def test_a_text_of_weight_0_might_as_well_not_be_there(example, monkeypatch):
    settings, removed = example.Settings(**TINY), [0, 3, 5]
    answers = [example.answer_without(settings, texts) for texts in (removed, [])]
    assert answers[0] != answers[1]
    with pytest.raises(ValueError, match='a batch has no text left'):
        example.answer_without(settings, list(range(100)))

    python_text = importlib.import_module('python_text')
    load = python_text.load

    def with_other_texts(*args):
        corpus = load(*args)
        corpus.tokens[removed] = 0
        return corpus

    monkeypatch.setattr(python_text, 'load', with_other_texts)
    assert example.answer_without(settings, removed) == answers[0]
    assert example.answer_without(settings, []) != answers[1]


@pytest.mark.parametrize('example', ['python_text'], indirect=True)
def test_the_query_follows_the_learned_texts_of_its_document(example):
    corpus = example.load(65, 2, 'exceptions')
    assert corpus.tokens.shape == (len(corpus.pieces), 65)
    assert corpus.tokens.max() < example.VOCABULARY
    known = [piece.text for piece in corpus.pieces if piece.document == 'exceptions']
    whole = example.tokens_of([example.documents()['exceptions']])[0]
    learned = example.tokens_of(known).flatten()
    assert whole[: 6 * 65].equal(torch.cat([learned, corpus.query.flatten()]))

    with pytest.raises(ValueError, match='there is no document'):
        example.load(65, 2, 'nothing')
    with pytest.raises(ValueError, match="'break' is too short"):
        example.load(65, 8, 'break')
