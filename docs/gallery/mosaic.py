"""Images of digits as a table."""

from __future__ import annotations

import math
from collections.abc import Sequence

from matplotlib.axes import Axes
from torch import Tensor
from torch.nn.functional import pad


def show(axes: Axes, images: Tensor, rows: list[str], captions: Sequence[str] = ()) -> None:
    """Draw images as a table, each from its darkest to its lightest value.

    Args:
        axes: Where to draw.
        images: Of shape (rows, columns, 64).
        rows: A name for every row.
        captions: A text for every image, row by row, to stand above it. Without, columns are
            numbered.
    """
    squares = images.unflatten(-1, (8, 8))
    low, high = squares.amin((-2, -1), keepdim=True), squares.amax((-2, -1), keepdim=True)
    above = 4 if captions else 1
    framed = pad((squares - low) / (high - low), (1, 1, above, 1), value=math.nan)  # transparent
    height = framed.shape[-2]
    axes.imshow(framed.movedim(2, 1).flatten(2).flatten(0, 1).numpy(), cmap='gray')
    axes.set_yticks([above + 3.5 + height * row for row in range(len(rows))], rows)
    axes.set_xticks([] if captions else [4.5 + 10 * column for column in range(images.shape[1])])
    axes.set_xticklabels([] if captions else range(images.shape[1]))
    axes.tick_params(length=0)
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)
    for number, text in enumerate(captions):
        row, column = divmod(number, images.shape[1])
        axes.text(4.5 + 10 * column, height * row + 2, text, ha='center', fontsize='small')
