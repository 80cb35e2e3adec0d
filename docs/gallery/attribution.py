"""Data attribution by metagradient: which training texts a small GPT owes an answer to.

Ilyas and Engstrom, "MAGIC: Near-Optimal Data Attribution for Deep Learning", 2025,
https://arxiv.org/abs/2504.16430
"""

import python_text
import torch
from gpt_training import Settings, answer_without, gradient
from tqdm import tqdm

SETTINGS = {'steps': 200, 'width': 64, 'layers': 2, 'sets': 10, 'fraction': 0.05}
SMALL = {'steps': 30, 'width': 16, 'layers': 1, 'sets': 6, 'fraction': 0.1}
SMALL |= {'length': 17, 'pieces': 2, 'batch': 8}
SEEDS = 5
ROWS = [
    ('correlation of predicted and actual change, random sets', 'correlation'),
    ('spread of the predicted change, 10⁻³ nats', 'predicted spread'),
    ('spread of the actual change', 'actual spread'),
    ('change without the most helpful texts, predicted', 'helpful predicted'),
    ('the same, actual', 'helpful actual'),
    ('change without the most harmful texts, predicted', 'harmful predicted'),
    ('the same, actual', 'harmful actual'),
]
PAPER = {}


def run(seed, sets, fraction, **settings):
    settings = Settings(seed=seed, **settings)
    pieces = python_text.load(settings.length, settings.pieces, settings.query).pieces
    size = max(1, round(fraction * len(pieces)))

    # One gradient through the training predicts what leaving out any text does.
    effects = -gradient(settings)[1]

    # The truth: train again without random sets, and without the texts at either end.
    helpful = effects.argsort(descending=True).tolist()
    random = torch.Generator().manual_seed(seed + 1)
    removed = [torch.randperm(len(pieces), generator=random)[:size].tolist() for _ in range(sets)]
    removed += [helpful[:size], helpful[-size:]]
    answer = answer_without(settings, [])
    actual = [
        1000 * (answer_without(settings, texts) - answer)
        for texts in tqdm(removed, 'training again', leave=False)
    ]
    predicted = [1000 * effects[texts].sum().item() for texts in removed]

    both = torch.tensor([predicted[:sets], actual[:sets]], dtype=torch.float64)
    documents = dict.fromkeys((piece.document for piece in pieces), 0.0)
    for piece, effect in zip(pieces, effects.tolist()):
        documents[piece.document] += 1000 * effect
    return {
        'correlation': torch.corrcoef(both)[0, 1].item(),
        'predicted spread': both[0].std().item(),
        'actual spread': both[1].std().item(),
        'helpful predicted': predicted[-2],
        'helpful actual': actual[-2],
        'harmful predicted': predicted[-1],
        'harmful actual': actual[-1],
        'predicted': predicted[:sets],
        'actual': actual[:sets],
        'documents': documents,
    }


def draw(runs, figure):
    sets, bars = figure.subplots(1, 2, width_ratios=(3, 2))
    for seed, run in enumerate(runs):
        sets.plot(run['predicted'], run['actual'], 'o', alpha=0.8, label=f'training {seed + 1}')
    sets.axline((0, 0), slope=1, color='0.5', linewidth=1, linestyle='--', label='equal')
    sets.set(
        title='Without random texts',
        xlabel='predicted change of the loss, 10⁻³ nats',
        ylabel='change after training again, 10⁻³ nats',
    )
    sets.legend(fontsize='small')
    sums = {name: sum(run['documents'][name] for run in runs) / len(runs) for name in most(runs)}
    bars.barh(list(sums), list(sums.values()), color=[f'C{int(sums[n] < 0)}' for n in sums])
    bars.set(title='Without all texts of a document', xlabel='predicted change, 10⁻³ nats')
    bars.grid(axis='y', visible=False)
    figure.set_size_inches(8.5, 4)


def most(runs, number=5):
    """Return the documents that help least and most, on average over the runs."""
    names = sorted(runs[0]['documents'], key=lambda n: sum(run['documents'][n] for run in runs))
    return names[:number] + names[-number:]
