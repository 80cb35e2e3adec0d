"""A picture with a box for every operation."""

from __future__ import annotations

from typing import Any

from torchopt_utils.visual.drawing import Drawing
from torchopt_utils.visual.labels import optimizer_of, shape_of
from torchopt_utils.visual.layout import Cluster, Layout
from torchopt_utils.visual.picture import Box, Picture


def by_operation(drawing: Drawing) -> Picture:
    """Draw every operation, in clusters by step and part of the step."""
    layout = Layout(drawing)
    outputs = layout.outputs(with_shape=True)
    keys = [_key(layout, number) for number in range(len(drawing.graph))]
    for number, key in enumerate(keys):
        if key not in layout.picture.boxes:
            layout.picture.boxes[key] = _box(layout, number)
    for before, number in drawing.graph.edges():
        if keys[before] != keys[number]:
            layout.picture.edge(keys[before], keys[number]).is_state = False
    for name, key in outputs.items():
        layout.picture.edge(keys[drawing.graph.outputs[name]], key).is_state = False
    layout.add_cuts(lambda number: keys[number])
    layout.add_missing()
    return layout.picture


def _key(layout: Layout, number: int) -> Any:
    owner = layout.drawing.steps.owner[number]
    fold = None
    if owner >= 0 and not layout.drawing.graph.is_leaf(number):
        fold = layout.fold(owner)
    return fold or number


def _box(layout: Layout, number: int) -> Box:
    drawing = layout.drawing
    name = drawing.given.get(number) or drawing.parameters.get(number)
    if drawing.graph.is_leaf(number):
        shape = shape_of(drawing.graph.nodes[number])
        return Box([shape] if name is None else [name, shape], layout.kind_of_tensor(number))
    clusters = _clusters(layout, number)
    if number in drawing.loops:
        return layout.loop_box(number)
    name = name or ', '.join(drawing.state_fields(number))
    operation: str = drawing.graph.nodes[number].name()
    lines = [name, operation] if name else [operation]
    if number in drawing.parameters:
        return Box(lines, 'parameter' if number not in drawing.steps.maker else 'update', clusters)
    is_update = drawing.parts.of[number].role == 'update'
    return Box(lines, 'named' if name and not is_update else 'operation', clusters)


def _clusters(layout: Layout, number: int) -> tuple[Cluster, ...]:
    drawing = layout.drawing
    owner, part = drawing.steps.owner[number], drawing.parts.of[number]
    if owner < 0:
        return ()
    step = layout.cluster_of_step(owner)
    title = {
        'forward': part.module or 'forward',
        'loss': 'loss',
        'gradient': 'gradient',
        'update': f'{optimizer_of(drawing.steps.steps[owner])}update',
    }.get(part.role)
    if title is None:
        return (step,)
    if part.role == 'update' and part.source is not None:
        title = f'{title} of {drawing.parameters[part.source]}'
    return step, (f'{step[0]} {part.role} {part.module} {part.source}', title)
