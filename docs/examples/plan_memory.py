"""Plan the metagradient of a whole training run: what fits on a card, and what it costs.

    python docs/examples/plan_memory.py --params 124e6 --memory 24 --steps 1000
    python docs/examples/plan_memory.py --table

For blocks like GPT-2's with AdamW in float32; docs/guides/training-runs.md explains the formulas,
and tests/test_plan_memory.py compares them with what torch allocates.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator
from typing import NamedTuple

from torchopt.unrolling.strategies.revolve import evaluations

GIB = 2**30
FLOAT = 4  # bytes
CHUNK = 512  # tokens that a rematerialized head takes at a time
USABLE = 0.9  # of a card's memory; the rest is the driver's and lost between tensors
# Time of a step with its derivative, and of one with remat, in plain training steps.
WITH_GRAPH, WITH_REMAT = 4.0, 6.0


class Shape(NamedTuple):
    """A transformer whose head shares the weights of its embedding."""

    layers: int
    width: int
    heads: int
    vocabulary: int
    length: int

    @property
    def params(self) -> int:
        """Number of parameters."""
        blocks = self.layers * (12 * self.width + 13) * self.width
        return blocks + (self.vocabulary + self.length + 2) * self.width


MODELS = {
    'GPT-2 small': Shape(12, 768, 12, 50257, 1024),
    'GPT-2 medium': Shape(24, 1024, 16, 50257, 1024),
    '1.3B': Shape(24, 2048, 16, 50257, 1024),
    '7B': Shape(32, 4096, 32, 50257, 1024),
}


class Plan(NamedTuple):
    """One way through a run; bytes are of one card."""

    call: str
    remat: bool
    parts: int  # micro-batches
    device: float
    host: float
    disk: float
    forward: int  # evaluations of a step without a graph, beside one of each step with it
    time: float  # in plain training runs

    def __str__(self) -> str:
        remat = ', `remat`' if self.remat else ''
        parts = f', `micro_batches={self.parts}`' if self.parts > 1 else ''
        return f'`{self.call}`{remat}{parts}'


def step_memory(shape: Shape, texts: int, *, remat: bool, cards: int = 1) -> float:
    """Return the memory to differentiate a step with ``texts`` texts, without its carry.

    What has the size of parameters is divided by ``cards``; the activations are not.
    """
    layers, width, heads, vocabulary, length = shape
    scores = heads * length  # of a token's attention
    # What the outer backward pass of one block, and of the head, holds: graph and own results.
    block = max(50 * width + 11.5 * scores, 118 * width)
    tokens = texts * length
    if remat:
        kept = 2 * layers * width * tokens  # inputs of the blocks, and their cotangents
        own = max(block * tokens, (6.7 * min(CHUNK, length) + 3.4 * width) * vocabulary)
    else:
        graph = 33 * width + 4.3 * scores
        kept = tokens * (layers * graph + 5 * vocabulary)
        own = max((block - graph) * tokens, (1.7 * tokens + 3.4 * width) * vocabulary)
    # The next carry, its cotangents, those of the carry before: 3 P each; the inner gradient: P.
    return FLOAT * (10 * shape.params / cards + kept + own)


def plans(shape: Shape, steps: int, batch: int, cards: int = 1) -> Iterator[Plan]:
    """Yield what can be done, the simplest first, for batches of ``batch`` texts."""
    carry = 3 * FLOAT * shape.params / cards
    root = math.ceil(math.sqrt(steps))
    files = root + math.ceil(steps / 16) + 1
    modes = [  # the call, the carries on card, host and disk, evaluations without a graph
        ('Recomputed()', steps, 0, 0, steps),
        ('Snapshots()', root + 1, 0, 0, evaluations(steps, root) + 1),
        ("Snapshots(storage='cpu')", 3, root + 1, 0, evaluations(steps, root) + 1),
        # Files that a backward pass is done with stay until it has written its cotangents.
        ('Snapshots(storage=Disk(...))', 3, 0, files, evaluations(steps, root) + 1),
        ('Snapshots(4)', 5, 0, 0, evaluations(steps, 4) + 1),
    ]
    for call, on_card, on_host, on_disk, forward in modes:
        for remat in (False, True):
            for parts in (2**power for power in range(batch.bit_length())):
                texts = math.ceil(batch / parts)
                device = on_card * carry + step_memory(shape, texts, remat=remat, cards=cards)
                device += carry / 3 if parts > 1 else 0  # the sum of gradients
                backward = (WITH_REMAT if remat else WITH_GRAPH) + (1 - 1 / parts)
                time = forward / steps + backward
                host, disk = on_host * carry, on_disk * carry
                yield Plan(call, remat, parts, device, host, disk, forward, time)


def best(shape: Shape, steps: int, batch: int, memory: float, host: float) -> tuple[int, Plan]:
    """Return the least number of cards, each with so many GiB, and the fastest plan for them."""
    for cards in (2**power for power in range(20)):
        fitting = [
            plan
            for plan in plans(shape, steps, batch, cards)
            if plan.device <= USABLE * memory * GIB and plan.host <= USABLE * host * GIB
        ]
        if fitting:
            return cards, min(fitting, key=lambda plan: plan.time)
    raise ValueError('not even the activations of one text fit: use shorter texts')


def markdown_table(steps: int = 1000, batch: int = 8, host: float = 128) -> str:
    """Return the table of docs/guides/training-runs.md."""
    lines = [
        '| model | parameters | carry | a card of 24 GB | a card of 80 GB |',
        '|---|--:|--:|---|---|',
    ]
    for name, shape in MODELS.items():
        cells = [name, f'{shape.params / 1e6:,.0f} M', f'{12 * shape.params / GIB:,.1f} GiB']
        for memory in (24, 80):
            cards, plan = best(shape, steps, batch, memory, host)
            where = f'{cards} cards: ' if cards > 1 else ''
            cells.append(f'{where}{plan}: {plan.device / GIB:,.0f} GiB, {plan.time:.0f} ×')
        lines.append(f'| {" | ".join(cells)} |')
    return '\n'.join(lines)


def main() -> None:
    """Print what fits."""
    parser = argparse.ArgumentParser(description=(__doc__ or '').partition('\n')[0])
    parser.add_argument('--params', type=float, default=124e6, help='takes the nearest model')
    parser.add_argument('--memory', type=float, default=24, help='GiB of a card')
    parser.add_argument('--host', type=float, default=128, help='GiB of the host, for each card')
    parser.add_argument('--steps', type=int, default=1000)
    parser.add_argument('--batch', type=int, default=8, help='texts a step, on every card')
    parser.add_argument('--table', action='store_true', help="print the documentation's table")
    given = parser.parse_args()
    if given.table:
        print(markdown_table())
        return
    shape = min(MODELS.values(), key=lambda shape: abs(math.log(shape.params / given.params)))
    cards, fastest = best(shape, given.steps, given.batch, given.memory, given.host)
    print(f'{shape}, {shape.params / 1e6:,.0f} M parameters, {cards} cards; GiB of each:')
    print('   card   host  files  time')
    for plan in plans(shape, given.steps, given.batch, cards):
        sizes = ''.join(f'{size / GIB:7.0f}' for size in (plan.device, plan.host, plan.disk))
        mark = '  <- the fastest that fits' if plan == fastest else ''
        print(f'{sizes}{plan.time:5.1f}x  {plan}{mark}')


if __name__ == '__main__':
    main()
