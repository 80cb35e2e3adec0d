"""English text that every Python has: the help on its language, and its licence."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from pydoc_data.topics import topics
from typing import NamedTuple

import torch
from torch import Tensor

VOCABULARY = 128  # ASCII


class Piece(NamedTuple):
    """Where a text is from."""

    document: str
    text: str


class Corpus(NamedTuple):
    """Pieces of equal length, as tokens (pieces, length), and where they are from."""

    tokens: Tensor
    pieces: list[Piece]
    query: Tensor


def documents() -> dict[str, str]:
    """Return the texts by name, in alphabetical order."""
    texts = dict(topics)
    folders = (Path(os.__file__).parent, Path(sys.base_prefix))
    for path in (folder / 'LICENSE.txt' for folder in folders):
        if path.exists():
            texts['LICENSE'] = path.read_text(encoding='utf-8')
            break
    return {name: prose(texts[name]) for name in sorted(texts)}


def prose(text: str) -> str:
    """Return a text on one line, without the lines under its headings."""
    return ' '.join(word for word in text.split() if len(set(word)) > 1 or len(word) < 4)


def load(length: int, most: int, query: str, query_pieces: int = 4) -> Corpus:
    """Cut documents into pieces of ``length`` characters.

    Args:
        length: Characters of a piece.
        most: Pieces taken from the beginning of each document, at most.
        query: The document from which the query is taken; the query is what follows the pieces.
        query_pieces: Number of pieces of the query.

    Raises:
        ValueError: there is no such document, or it is too short.
    """
    cut = {
        name: [text[start : start + length] for start in range(0, len(text) - length + 1, length)]
        for name, text in documents().items()
    }
    if query not in cut:
        some = ', '.join(list(cut)[:5])
        raise ValueError(f'there is no document {query!r} among the {len(cut)}: {some}, ...')
    asked = cut[query][most : most + query_pieces]
    if len(asked) < query_pieces:
        raise ValueError(
            f'{query!r} is too short for {most} texts and a query: it has {len(cut[query])} pieces '
            f'of {length} characters, {most + query_pieces} are needed'
        )
    pieces = [Piece(name, text) for name, texts in cut.items() for text in texts[:most]]
    return Corpus(tokens_of([piece.text for piece in pieces]), pieces, tokens_of(asked))


def tokens_of(texts: list[str]) -> Tensor:
    return torch.tensor([list(text.encode('ascii', 'replace')) for text in texts])
