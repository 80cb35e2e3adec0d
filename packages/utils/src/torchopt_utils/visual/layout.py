"""What all levels of detail share: clusters, and boxes that no operation stands for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torchopt.authoring.detached import detached_by
from torchopt.authoring.step_marks import cut_of
from torchopt_utils.visual.drawing import Drawing
from torchopt_utils.visual.folding import run_numbers
from torchopt_utils.visual.labels import few_lines, fold_lines, shape_of, step_title
from torchopt_utils.visual.picture import Box, Kind, Picture
from torchopt_utils.visual.steps import OUTER

Cluster = tuple[str, str]


_CUTTERS = {
    'stop_gradient': ['graph cut by', 'stop_gradient'],
    'deepcopy': ['detached copy:', "by='deepcopy'"],
}
"""What was done to a leaf, by the names in notes on leaves."""


class Layout:
    """Makes the parts of a picture that do not depend on its level of detail.

    Attributes:
        drawing: What is drawn.
        picture: The picture so far.
        run_behind: For each number, the run that it follows if it follows one of several; else
            None.
    """

    def __init__(self, drawing: Drawing) -> None:
        self.drawing = drawing
        self.picture = Picture()
        self._runs = run_numbers(drawing.steps.steps)
        self.run_behind = self._runs_behind()
        self._last = dict(zip(self._runs, range(len(self._runs))))
        self._left_out = self._steps_left_out()

    def cluster_of_step(self, position: int) -> Cluster:
        """Return the name and the title of a step's cluster."""
        step = self.drawing.steps.steps[position]
        several = max(self._runs) > 0
        run = self._runs[position]
        title = step_title(step, run + 1 if several else None, self._left_out.get(run, 0))
        return f'step{position}', title

    def fold(self, position: int) -> Any:
        """Return the key of the box in which a step is folded, or None, and see that it exists."""
        fold = self.drawing.folded.get(position)
        if fold is None:
            return None
        key = 'fold', id(fold)
        self.picture.boxes.setdefault(key, Box(fold_lines(fold), 'fold'))
        return key

    def kind_of_tensor(self, number: int) -> Kind:
        """Tell parameters that the steps train from everything else that a graph begins with."""
        drawing = self.drawing
        if number in drawing.states:
            return 'state'
        is_trained = number in drawing.parameters or number in drawing.carried
        has_steps = drawing.steps.steps or drawing.loops
        return 'meta' if has_steps and not is_trained else 'parameter'

    def tensor_line(self, number: int) -> str:
        """Return name and shape of a leaf, or the name of a parameter that was computed."""
        drawing = self.drawing
        name = drawing.parameters.get(number) or drawing.given.get(number, '')
        module = drawing.modules.get(number, '')
        name = name.removeprefix(f'{module}.') if module else name
        if not drawing.graph.is_leaf(number):
            return name
        tensor = drawing.graph.nodes[number]
        return f'{name} {shape_of(tensor)}'.strip() if tensor.dim() or not name else name

    def loop_box(self, number: int) -> Box:
        """Return the box of a node that stands for a whole loop."""
        loop = self.drawing.loops[number]
        lines = [f'unroll: {loop.length} steps', loop.mode]
        if number in self.drawing.given:
            lines.insert(0, self.drawing.given[number])
        return Box(lines, 'fold')

    def outputs(
        self, operations: Sequence[str] = (), *, with_shape: bool = False
    ) -> dict[str, Any]:
        """Add the tensors that are drawn; return the keys of their boxes by name.

        Args:
            operations: A line about what computes them.
            with_shape: Show the shape of a scalar, too.
        """
        drawing = self.drawing
        keys = {}
        for position, (name, tensor) in enumerate(drawing.outputs.items()):
            number = drawing.graph.outputs[name]
            own = drawing.given.get(number) or drawing.parameters.get(number) or name
            if own == 'var' and (drawing.steps.steps or drawing.loops) and not tensor.dim():
                own = 'outer loss'
            keys[name] = 'out', position
            shape = [shape_of(tensor)] if tensor.dim() or with_shape else []
            self.picture.boxes['out', position] = Box([own, *shape, *operations], 'output')
        return keys

    def add_missing(self) -> None:
        """Add a box with the tensors that have a name but are not reached."""
        missing = self.drawing.missing
        if missing:
            lines = ['not reached:', *few_lines(missing)]
            self.picture.boxes['missing'] = Box(lines, 'missing')

    def add_cuts(self, key_of: Any) -> None:
        """Add boxes where something was cut off the graph.

        Args:
            key_of: Returns the key of the box of an operation or leaf.
        """
        drawing = self.drawing
        for number, node in enumerate(drawing.graph.nodes):
            note = detached_by(node) if drawing.graph.is_leaf(number) else None
            if note is not None:
                box = Box(_CUTTERS.get(note.by, ['detached by', note.by]), 'cut')
                self.picture.boxes.setdefault(('cut by', note.by), box)
                self.picture.edge(('cut by', note.by), key_of(number)).is_cut = True
        added: set[Any] = set()
        for number, node in enumerate(drawing.graph.nodes):
            cut = 0 if drawing.graph.is_leaf(number) else cut_of(node)
            if not cut:
                continue
            position = drawing.steps.owner[number]
            first = number
            if position >= 0:
                first = min(drawing.steps.steps[self._first_of_run(position)].made)
            key = key_of(first)
            if key in added:
                continue
            added.add(key)
            lines = [f'{cut} earlier steps', 'left out']
            self.picture.boxes['cut', first] = Box(lines, 'cut')
            self.picture.edge(('cut', first), key).is_cut = True

    def fold_behind(self, number: int) -> Any:
        """Return the key of the box in which the whole run is folded that a node follows."""
        run = self.run_behind[number]
        if run is None:
            return None
        last = self._last[run]
        fold = self.drawing.folded.get(last)
        return self.fold(last) if fold is not None and fold.runs else None

    def _steps_left_out(self) -> dict[int, int]:
        """Return how many steps a truncation has left out before each run."""
        drawing = self.drawing
        marks = {number: cut_of(drawing.graph.nodes[number]) for number in drawing.steps.maker}
        return {
            self._runs[drawing.steps.maker[number]]: cut for number, cut in marks.items() if cut
        }

    def _runs_behind(self) -> list[int | None]:
        drawing = self.drawing
        behind: list[set[int]] = []
        for number in range(len(drawing.graph)):
            found: set[int] = set()
            for before in drawing.graph.inputs(number):
                position = drawing.steps.maker.get(before)
                found |= behind[before] if position is None else {self._runs[position]}
            # More than two mean no more than two do.
            behind.append(found if len(found) < 3 else {*sorted(found)[:2]})
        several = max(self._runs, default=0) > 0
        return [
            next(iter(found)) if several and len(found) == 1 and owner == OUTER else None
            for found, owner in zip(behind, drawing.steps.owner)
        ]

    def _first_of_run(self, position: int) -> int:
        before = self.drawing.steps.steps[position].before
        while before is not None:
            position, before = before, self.drawing.steps.steps[before].before
        return position
