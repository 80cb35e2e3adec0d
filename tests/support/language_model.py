"""A language model like GPT-2, whose blocks and head can be wrapped."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

Wrap = Callable[[Any], Any]


class Block(nn.Module):
    """A transformer block with causal attention."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norms = nn.ModuleList([nn.LayerNorm(width), nn.LayerNorm(width)])
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch, length, width = x.shape
        qkv = self.qkv(self.norms[0](x)).view(batch, length, 3, self.heads, -1)
        mixed = F.scaled_dot_product_attention(*qkv.permute(2, 0, 3, 1, 4), is_causal=True)
        x = x + self.out(mixed.transpose(1, 2).reshape(batch, length, width))
        return x + self.down(F.gelu(self.up(self.norms[1](x)), approximate='tanh'))


def head_loss(hidden: torch.Tensor, words: torch.Tensor, embedding: torch.Tensor) -> torch.Tensor:
    """The sum of the losses of some tokens."""
    return F.cross_entropy(hidden @ embedding.T, words, reduction='sum')


class LanguageModel(nn.Module):
    """Called with token numbers; returns the mean loss of a token.

    Args:
        layers: Number of blocks.
        width: Their width.
        heads: Attention heads of each.
        vocabulary: Number of tokens.
        length: Number of tokens in a text.
        wrap: What blocks and head are wrapped in; None: nothing, and the head takes all tokens.
        chunk: How many tokens a wrapped head takes at a time.
    """

    def __init__(
        self,
        layers: int,
        width: int,
        heads: int,
        vocabulary: int,
        length: int,
        wrap: Wrap | None = None,
        chunk: int = 512,
    ) -> None:
        super().__init__()
        blocks = [Block(width, heads) for _ in range(layers)]
        self.tokens = nn.Embedding(vocabulary, width)
        self.places = nn.Parameter(torch.randn(length, width) / 50)
        self.blocks = nn.Sequential(*(map(wrap, blocks) if wrap else blocks))
        self.norm = nn.LayerNorm(width)
        self.head, self.chunk = (wrap(head_loss), chunk) if wrap else (head_loss, None)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        words = tokens[:, 1:]
        hidden = self.norm(self.blocks(self.tokens(tokens[:, :-1]) + self.places))
        embedding = self.tokens.weight
        if self.chunk is None:
            return self.head(hidden.flatten(0, 1), words.flatten(), embedding) / words.numel()
        losses = [
            self.head(*part, embedding)
            for text in zip(hidden, words)
            for part in zip(*(tensor.split(self.chunk) for tensor in text))
        ]
        return torch.stack(losses).sum() / words.numel()
