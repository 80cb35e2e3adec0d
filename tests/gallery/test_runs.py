"""The frame of the gallery: runs that go on where they stopped, intervals, pages."""

import json
import types
from pathlib import Path

import pytest
from scipy import stats

GALLERY = Path(__file__).parents[2] / 'docs' / 'gallery'


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
