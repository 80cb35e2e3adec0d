"""A small GPT: reads text character by character, and says what comes next."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, scaled_dot_product_attention


class Block(nn.Module):
    """Attention and a perceptron, each behind a norm and beside a shortcut."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attend, self.mix = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.perceptron = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )

    def forward(self, x: Tensor) -> Tensor:
        queries, keys, values = (
            part.unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for part in self.attend(self.norm1(x)).chunk(3, -1)
        )
        seen = scaled_dot_product_attention(queries, keys, values, is_causal=True)
        x = x + self.mix(seen.transpose(1, 2).flatten(2))
        return x + self.perceptron(self.norm2(x))


class GPT(nn.Module):
    """Maps tokens to the logits of the tokens that follow: (batch, n) to (batch, n, vocabulary).

    Everything is smooth, and nothing is random: no dropout.
    """

    def __init__(self, vocabulary: int, context: int, width: int, layers: int) -> None:
        super().__init__()
        self.embed = nn.Embedding(vocabulary, width)
        self.positions = nn.Parameter(0.02 * torch.randn(context, width))
        self.blocks = nn.Sequential(*(Block(width, heads=4) for _ in range(layers)))
        self.norm, self.out = nn.LayerNorm(width), nn.Linear(width, vocabulary)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embed(tokens) + self.positions[: tokens.shape[1]]
        return self.out(self.norm(self.blocks(x)))


def losses(model: Callable[[Tensor], Tensor], texts: Tensor) -> Tensor:
    """Return the mean loss of each text, in nats a token: (batch, n) to (batch,)."""
    logits = model(texts[:, :-1])
    return cross_entropy(logits.transpose(1, 2), texts[:, 1:], reduction='none').mean(1)
