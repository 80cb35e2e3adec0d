"""A picture with a box for every module and update of a step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torchopt_utils.visual.drawing import Drawing
from torchopt_utils.visual.labels import (
    few_lines,
    few_parameters,
    few_words,
    operations_line,
    optimizer_of,
)
from torchopt_utils.visual.layout import Layout
from torchopt_utils.visual.picture import Box, Picture, drop_implied
from torchopt_utils.visual.steps import OUTER


def by_module(drawing: Drawing, *, whole_steps: bool = False) -> Picture:
    """Draw the graph by modules.

    Args:
        drawing: What is drawn.
        whole_steps: Draw each step as one box.
    """
    return _ByModule(drawing, whole_steps=whole_steps).made()


class _ByModule:
    def __init__(self, drawing: Drawing, *, whole_steps: bool) -> None:
        self._drawing = drawing
        self._layout = Layout(drawing)
        self._whole_steps = whole_steps
        self._order = {number: order for order, number in enumerate(drawing.parameters)}
        self._keys = [self._key(number) for number in range(len(drawing.graph))]

    def made(self) -> Picture:
        drawing, picture = self._drawing, self._layout.picture
        picture.has_rows = True
        members: dict[Any, list[int]] = {}
        for number, key in enumerate(self._keys):
            members.setdefault(key, []).append(number)
        for key, numbers in members.items():
            if key[0] == 'end':
                self._layout.outputs(operations_line(drawing.graph, numbers))
            elif key not in picture.boxes:
                picture.boxes[key] = self._box(key, numbers)
        for before, number in drawing.graph.edges():
            self._add_edge(before, number)
        if ('end',) not in members:
            for name, key in self._layout.outputs().items():
                picture.edge(self._keys[drawing.graph.outputs[name]], key).is_state = False
        self._layout.add_cuts(lambda number: self._keys[number])
        self._layout.add_missing()
        # What a backward pass uses of the forward pass, and of the parameters.
        drop_implied(picture, {key for key in members if key[2:3] in (('gradient',), ('update',))})
        return picture

    def _key(self, number: int) -> tuple[Any, ...]:
        drawing = self._drawing
        owner, part = drawing.steps.owner[number], drawing.parts.of[number]
        if part.role == 'tensor':
            source = part.source if part.source is not None else number
            if source in drawing.states:
                return 'tensor', 'state'
            if part.module is None:
                return 'tensor', source
            return 'tensor', self._layout.kind_of_tensor(source), part.module
        if owner >= 0:
            fold = self._layout.fold(owner)
            if fold is not None:
                return tuple(fold)
        if part.role == 'own':
            return 'own', number
        if owner >= 0 and self._whole_steps:
            return 'step', owner
        run = self._layout.run_behind[number]
        if run is not None:
            fold = self._layout.fold_behind(number)
            if fold is not None:
                return tuple(fold)
        is_end = self._whole_steps or (part.role == 'loss' and run is None)
        if owner == OUTER and is_end and len(drawing.graph.outputs) == 1:
            return ('end',)
        return 'part', owner, part.role, None if part.role == 'update' else part.module, run

    def _box(self, key: tuple[Any, ...], numbers: Sequence[int]) -> Box:
        drawing, layout = self._drawing, self._layout
        if key[0] == 'tensor':
            return self._tensor_box(key, numbers)
        if key[0] == 'own':
            (number,) = numbers
            if number in drawing.loops:
                return layout.loop_box(number)
            lines = [drawing.given[number], *operations_line(drawing.graph, numbers)]
            return Box(lines, 'named', self._clusters(number))
        if key[0] == 'step':
            step = drawing.steps.steps[key[1]]
            names = few_words(drawing.modules[number] or name for number, name in step.made.items())
            return Box([layout.cluster_of_step(key[1])[1], f'updates {names}'], 'update')
        role, module = key[2:4]
        clusters = self._clusters(numbers[0])
        if role == 'gradient':
            return Box(self._gradient_lines(key[1], numbers), 'operation', clusters)
        if role == 'update':
            return Box(self._update_lines(key[1], numbers), 'update', clusters)
        title = 'loss' if role == 'loss' else module or 'forward'
        return Box([title, *operations_line(drawing.graph, numbers)], 'operation', clusters)

    def _tensor_box(self, key: tuple[Any, ...], numbers: Sequence[int]) -> Box:
        drawing, layout = self._drawing, self._layout
        sources = [number for number in numbers if drawing.parts.of[number].source == number]
        sources.sort(key=lambda number: self._order.get(number, len(self._order)))
        if sources[0] in drawing.states:
            counted = f'{len(sources)} tensor{"" if len(sources) == 1 else "s"}'
            return Box(['optimizer state', counted], 'state')
        lines = [layout.tensor_line(number) for number in sources]
        if len(lines) > 3:
            lines = [few_parameters(lines)]
        module = drawing.modules.get(sources[0])
        computed = [number for number in numbers if number not in sources]
        lines += operations_line(drawing.graph, computed)
        return Box([module, *lines] if module else lines, layout.kind_of_tensor(sources[0]))

    def _gradient_lines(self, owner: int, numbers: Sequence[int]) -> list[str]:
        parts = self._drawing.parts
        title = 'gradient'
        if owner not in parts.marked:
            title = 'loss, gradient, update'
        elif owner not in parts.exact:
            title = 'loss and gradient'
        return [title, f'{len(numbers)} operations' if len(numbers) > 1 else '1 operation']

    def _update_lines(self, owner: int, numbers: Sequence[int]) -> list[str]:
        step = self._drawing.steps.steps[owner]
        made = {*numbers}
        names: dict[str, list[str]] = {}
        for number, name in step.made.items():
            if number in made and name:
                module = self._drawing.modules[number]
                own = name.removeprefix(f'{module}.') if module else name
                names.setdefault(module, []).append(own)
        lines = [
            f'{module}: {few_parameters(own)}' if module else few_parameters(own)
            for module, own in names.items()
        ]
        if not made & {*step.made}:
            lines = operations_line(self._drawing.graph, numbers)
        return [f'{optimizer_of(step)}update', *few_lines(lines)]

    def _clusters(self, number: int) -> tuple[tuple[str, str], ...]:
        owner = self._drawing.steps.owner[number]
        return (self._layout.cluster_of_step(owner),) if owner >= 0 else ()

    def _add_edge(self, before: int, number: int) -> None:
        start, end = self._keys[before], self._keys[number]
        if start == end:
            return
        if end == ('end',):
            end = 'out', 0
        edge = self._layout.picture.edge(start, end)
        carried = self._carried(before, number)
        edge.is_state &= carried is not None
        edge.labels.update(dict.fromkeys(carried or ()))

    def _carried(self, before: int, number: int) -> tuple[str, ...] | None:
        """Return what the optimizer takes over from the step before.

        It is None if anything else happens along this edge.
        """
        drawing = self._drawing
        owner, source = drawing.steps.owner[number], drawing.steps.owner[before]
        if owner < 0 or source < 0 or source == owner:
            return None
        if before in drawing.steps.maker:
            return ('params',) if number in drawing.steps.maker else None
        return drawing.state_fields(before)
