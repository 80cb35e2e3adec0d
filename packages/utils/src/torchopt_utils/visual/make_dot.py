"""Draw the graph that autograd has recorded."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from torchopt.authoring.describe import describe
from torchopt.typing import TensorTree
from torchopt_utils.targets import tensors_of
from torchopt_utils.visual.by_module import by_module
from torchopt_utils.visual.by_operation import by_operation
from torchopt_utils.visual.drawing import prepared
from torchopt_utils.visual.names import Names, named_tensors
from torchopt_utils.visual.render import rendered
from torchopt_utils.visual.themes import THEMES

if TYPE_CHECKING:
    from graphviz import Digraph  # type: ignore[import-untyped,import-not-found,unused-ignore]

_DETAILS = ('steps', 'modules', 'operations')


def make_dot(
    var: TensorTree,
    params: Names = (),
    *,
    detail: Literal['steps', 'modules', 'operations'] | None = None,
    max_steps: int | None = 4,
    depth: int | None = None,
    theme: Literal['auto', 'light', 'dark'] = 'auto',
) -> Digraph:
    """Draw the graph that computes ``var``.

    Inner steps stand in frames of their own. Within a step, there is a box for the forward pass of
    each module, for the loss, for the gradient and for the optimizer's update; the middle of a long
    unroll is one box. A graph without steps is drawn operation by operation.

    Parameters that the steps train are blue. Everything else that the graph begins with is an
    orange ellipse, such as meta-parameters. Updates and states of optimizers are green, ``var`` is
    purple, and all other operations are grey, or yellow if ``params`` has a name for the result. A
    dashed edge is what an optimizer takes over from the step before. A dashed box lists tensors of
    ``params`` that the graph does not reach, so that their gradient is None, or says where a graph
    was cut.

    A gradient uses the forward pass and the parameters, and an update the gradient. Edges to them
    are left out where a longer way through the frame says as much.

    This needs the Python package ``graphviz``; to render the result, also the program ``dot``. The
    graph is only read, and nothing of it is kept. The time is linear in the number of operations.

    Args:
        var: A tensor, or a tree of tensors.
        params: Names of tensors: a module, an optimizer or its state, a state of a module that was
            extracted with ``enable_visual=True``, a mapping from names to any of these or to
            tensors, pairs such as ``net.named_parameters()`` yields, or several of these. The first
            name of a tensor is used.
        detail: ``'steps'`` draws every step as one box, ``'modules'`` as described,
            ``'operations'`` every operation. By default, ``'modules'`` if there are inner steps or
            an :func:`torchopt.unroll` that is one node, and ``'operations'`` otherwise.
        max_steps: Number of steps that are drawn of one run of steps; those in the middle are one
            box. Only two of many runs, such as the tasks of a meta-batch, are drawn. None draws all
            steps of all runs.
        depth: Number of parts of a module's name by which operations are grouped: with 1,
            ``encoder.0.linear`` belongs to ``encoder``. By default, as many as give at most six
            groups.
        theme: Colours for a ``'light'`` or a ``'dark'`` page, or colours that can be read on both
            (``'auto'``). The background is transparent.

    Returns:
        A ``graphviz.Digraph``, which notebooks show, and which ``.render('graph')`` writes. The
        same graph always gives the same text.

    Raises:
        ModuleNotFoundError: ``graphviz`` is not installed.
        TypeError: ``var`` or ``params`` is none of these, or ``max_steps`` or ``depth`` is not an
            integer.
        ValueError: no tensor of ``var`` has a graph; a state has no names; ``detail`` or ``theme``
            is unknown; or ``max_steps`` or ``depth`` is negative.

    Example:
        >>> import torch, torchopt
        >>> x = torch.ones(2, requires_grad=True)
        >>> graph = torchopt.make_dot(x.exp().sum(), {'x': x})
        >>> print(*sorted(line.split(' [')[0].strip() for line in graph.body), sep=', ')
        0, 0 -> 1, 1, 1 -> 2, 2, 2 -> out0, out0
    """
    _require_one_of('detail', detail, (None, *_DETAILS))
    _require_one_of('theme', theme, tuple(THEMES))
    _require_number('max_steps', max_steps)
    _require_number('depth', depth)
    outputs = {name: t for name, t in tensors_of(var, 'var').items() if t.requires_grad}
    if not outputs:
        raise ValueError('var has no graph: it does not require grad')
    drawing = prepared(outputs, [*named_tensors(params)], max_steps, depth)
    if detail is None:
        detail = 'modules' if drawing.steps.steps or drawing.loops else 'operations'
    if detail == 'operations':
        picture = by_operation(drawing)
    else:
        picture = by_module(drawing, whole_steps=detail == 'steps')
    return rendered(picture, THEMES[theme])


def _require_one_of(name: str, value: object, known: tuple[object, ...]) -> None:
    if value not in known:
        raise ValueError(f'{name} must be one of {known}, got {value!r}')


def _require_number(name: str, value: object) -> None:
    if value is None:
        return
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f'{name} must be an integer or None, got {describe(value)}')
    if value < 0:
        raise ValueError(f'{name} must be at least 0, got {value}')
