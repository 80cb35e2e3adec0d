"""GPT-2, with rematerialized blocks and a language-model head in chunks."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from torchopt.unrolling import remat


class Block(nn.Module):
    """A transformer block with causal attention."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch, length, width = x.shape
        qkv = self.qkv(self.norm1(x)).view(batch, length, 3, self.heads, -1)
        mixed = F.scaled_dot_product_attention(*qkv.permute(2, 0, 3, 1, 4), is_causal=True)
        x = x + self.out(mixed.transpose(1, 2).reshape(batch, length, width))
        return x + self.down(F.gelu(self.up(self.norm2(x)), approximate='tanh'))


@remat
def head(hidden: torch.Tensor, targets: torch.Tensor, embedding: torch.Tensor) -> torch.Tensor:
    """The sum of the losses of some tokens."""
    return F.cross_entropy(hidden @ embedding.T, targets, reduction='sum')


class GPT(nn.Module):
    """Called with token numbers; returns the sum of the losses of each text.

    Args:
        layers: Number of blocks.
        width: Their width.
        heads: Attention heads of each.
        vocabulary: Number of tokens.
        length: Largest number of tokens in a text.
        chunk: How many tokens the head takes at a time.
    """

    def __init__(
        self, layers: int, width: int, heads: int, vocabulary: int, length: int, chunk: int
    ) -> None:
        super().__init__()
        self.chunk = chunk
        self.tokens = nn.Embedding(vocabulary, width)
        self.places = nn.Parameter(torch.randn(length, width) / 50)
        self.blocks = nn.Sequential(*(remat(Block(width, heads)) for _ in range(layers)))
        self.norm = nn.LayerNorm(width)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        inputs, targets = tokens[:, :-1], tokens[:, 1:]
        hidden = self.blocks(self.tokens(inputs) + self.places[: inputs.shape[1]])
        hidden = self.norm(hidden)
        losses: list[Any] = []
        for text, words in zip(hidden, targets):
            parts = zip(text.split(self.chunk), words.split(self.chunk))
            losses.append(sum(head(*part, self.tokens.weight) for part in parts))
        return torch.stack(losses)


def gpt2_small() -> GPT:
    """124 million parameters."""
    return GPT(12, 768, 12, 50257, 1024, 512)
