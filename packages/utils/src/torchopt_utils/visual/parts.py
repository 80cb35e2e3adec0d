"""Which part of a step each operation is: forward pass, loss, gradient or update, and of what."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Literal, NamedTuple, TypeAlias

from torchopt.authoring.torch_internals import sequence_number
from torchopt.authoring.update_marks import gradient_of
from torchopt_utils.visual.graph import Graph
from torchopt_utils.visual.steps import Steps

Role: TypeAlias = Literal['tensor', 'forward', 'loss', 'gradient', 'update', 'own']


class Part(NamedTuple):
    """The part of the picture to which a node belongs.

    Attributes:
        role: ``'tensor'`` is a leaf or a parameter before the first step, and what was computed
            from a single meta-parameter alone; ``'own'`` is an operation that stays by itself.
        module: Name of the module; None: no one module.
        source: With ``'tensor'``, the number of the tensor itself; with ``'update'``, the number of
            the new parameter, or None if it is computed for several.
    """

    role: Role
    module: str | None = None
    source: int | None = None


_VIEWS = frozenset(
    (
        *('Alias', 'AsStrided', 'Clone', 'Expand', 'Permute', 'Reshape', 'ReshapeAlias', 'Select'),
        *('Slice', 'Split', 'Squeeze', 'T', 'ToCopy', 'Transpose', 'Unbind', 'UnsafeSplit'),
        *('UnsafeView', 'Unsqueeze', 'View'),
    )
)


class Parts(NamedTuple):
    """The parts of all nodes.

    Attributes:
        of: The part of each number.
        marked: Positions of the steps whose gradients are marked.
        exact: Positions of the steps of which it is known where the loss ends.
    """

    of: list[Part]
    marked: set[int]
    exact: set[int]


def parts_of(graph: Graph, steps: Steps, modules: Mapping[int, str], own: Collection[int]) -> Parts:
    """Return the part of every node.

    Operations of a forward pass belong to the module whose parameters they use, or used last.
    What follows the last module is the loss. Where torch tells the order in which operations were
    recorded, those after the loss are the gradient's; otherwise, those after the last first use
    of a parameter.

    Args:
        graph: The graph.
        steps: Its inner steps.
        modules: Modules of the parameters by number.
        own: Numbers of operations that stay by themselves.
    """
    return _Division(graph, steps, modules, own).parts()


class _Division:
    def __init__(
        self, graph: Graph, steps: Steps, modules: Mapping[int, str], own: Collection[int]
    ) -> None:
        self._graph, self._steps, self._modules, self._own = graph, steps, modules, own
        self._times, self._known = _times_of(graph)
        self._starts = {*modules} - {*steps.maker}
        self._parameter = self._parameters_behind()
        self._before_gradient, self._marked = self._ancestors_of_gradients()

    def parts(self) -> Parts:
        ends, exact = self._ends_of_forward_passes()
        parts: list[Part] = []
        for number in range(len(self._graph)):
            parts.append(self._part(number, parts, ends))
        followed, prepares = [False] * len(parts), [False] * len(parts)
        targets: dict[int, Part] = {}
        for number in reversed(range(len(parts))):
            part, owner = parts[number], self._steps.owner[number]
            if part.role == 'forward':
                anchored = self._is_anchored(number)
                if self._parameter[number] is not None and owner >= 0 and not prepares[number]:
                    # Only the backward pass of what used the parameter is left.
                    parts[number] = Part('gradient')
                    continue
                if not anchored and not followed[number] and self._parameter[number] is None:
                    parts[number] = Part('loss')
                for before in self._graph.inputs(number):
                    if self._steps.owner[before] == owner:
                        prepares[before] = True
                        followed[before] |= anchored or followed[number]
            elif part.role == 'update':
                if number in self._steps.maker:
                    part = Part('update', self._modules[number], number)
                else:
                    part = targets[number]
                parts[number] = part
                for before in self._graph.inputs(number):
                    if self._steps.owner[before] == owner:
                        targets[before] = _common(targets.get(before, part), part)
        return Parts(parts, self._marked, exact)

    def _part(self, number: int, parts: list[Part], ends: Mapping[int, float]) -> Part:
        graph, owner = self._graph, self._steps.owner[number]
        before = graph.inputs(number)
        if graph.is_leaf(number) or number in self._starts:
            return Part('tensor', self._modules.get(number), number)
        if number in self._own:
            return Part('own')
        if self._steps.is_meta[number]:
            first = parts[before[0]] if before else Part('own')
            is_plain = first.role == 'tensor' and first.module is None
            if is_plain and all([parts[other] == first for other in before]):
                return first
        if owner >= 0:
            if number in self._steps.maker or not self._before_gradient[number]:
                return Part('update')
            if self._times[number] > ends[owner]:
                return Part('gradient')
        parameter = self._parameter[number]
        if parameter is not None:
            return Part('forward', self._modules[parameter])
        latest = max(
            [
                other
                for other in before
                if self._steps.owner[other] == owner and parts[other].role == 'forward'
            ],
            key=lambda other: self._times[other],
            default=None,
        )
        module = None if latest is None else parts[latest].module
        for other in before:
            used = self._parameter[other]
            if used is not None:
                module = self._modules[used]
        return Part('forward', module)

    def _parameters_behind(self) -> list[int | None]:
        """Return the parameter of which a node is nothing but a view."""
        found: list[int | None] = []
        for number in range(len(self._graph)):
            if number in self._modules:
                found.append(number)
                continue
            behind = [found[other] for other in self._graph.inputs(number)]
            prepares = len(behind) == 1 and is_view(operation_of(self._graph, number))
            found.append(behind[0] if prepares else None)
        return found

    def _is_anchored(self, number: int) -> bool:
        """Tell whether an operation uses a parameter of a module."""
        if self._parameter[number] is not None:
            return False
        before = self._graph.inputs(number)
        return any([self._parameter[other] is not None for other in before])

    def _ancestors_of_gradients(self) -> tuple[list[bool], set[int]]:
        """Tell for each node whether a gradient of its own step depends on it.

        Where a step has none that is marked, everything but the new parameters counts as such,
        unless the gradients were taken as constants.
        """
        graph, steps = self._graph, self._steps
        marked = {
            number
            for number, node in enumerate(graph.nodes)
            if not graph.is_leaf(number) and gradient_of(node) is not None
        }
        has_gradient = {steps.owner[number] for number in marked}
        unmarked = {
            position
            for position, step in enumerate(steps.steps)
            if position not in has_gradient and not step.first_order
        }
        before = [
            number in marked or steps.owner[number] in unmarked for number in range(len(graph))
        ]
        for number in reversed(range(len(graph))):
            if before[number] and number not in steps.maker:
                for other in graph.inputs(number):
                    if steps.owner[other] == steps.owner[number]:
                        before[other] = True
        return before, has_gradient

    def _ends_of_forward_passes(self) -> tuple[dict[int, float], set[int]]:
        """Return when the forward pass of each step ended, and of which steps this is known."""
        graph, steps = self._graph, self._steps
        ends: dict[int, float] = {}
        first_uses: dict[tuple[int, int], float] = {}
        for number in range(len(graph)):
            owner = steps.owner[number]
            if owner < 0 or graph.is_leaf(number) or not self._before_gradient[number]:
                continue
            mark = gradient_of(graph.nodes[number])
            if self._known and mark is not None and mark.loss is not None:
                ends[owner] = max(ends.get(owner, mark.loss), mark.loss)
            if self._is_anchored(number):
                for other in graph.inputs(number):
                    parameter = self._parameter[other]
                    if parameter is not None:
                        key, time = (owner, parameter), self._times[number]
                        first_uses[key] = min(first_uses.get(key, time), time)
        exact = {*ends}
        for (owner, _), time in first_uses.items():
            if owner not in exact:
                ends[owner] = max(ends.get(owner, time), time)
        return {position: ends.get(position, -1.0) for position in range(len(steps.steps))}, exact


def _common(one: Part, other: Part) -> Part:
    """Return the part of what two updates both use."""
    return Part(
        'update',
        one.module if one.module == other.module else None,
        one.source if one.source == other.source else None,
    )


def operation_of(graph: Graph, number: int) -> str:
    """Return the name of an operation without what autograd adds: ``'Addmm'``."""
    name: str = graph.nodes[number].name().rpartition('::')[2]
    return name.rstrip('0123456789').removesuffix('Backward') or name


def is_view(operation: str) -> bool:
    """Tell whether an operation does nothing but make a tensor ready for another."""
    return operation in _VIEWS


def _times_of(graph: Graph) -> tuple[list[float], bool]:
    """Return when each operation was recorded, and whether torch has told it.

    Operations that other threads have recorded, as in a backward pass on a GPU, have numbers of
    their own. Then the order of the graph stands for the order in time.
    """
    times: list[float] = []
    for number, node in enumerate(graph.nodes):
        time = -1 if graph.is_leaf(number) else sequence_number(node)
        if time is None or any([times[other] >= time > -1 for other in graph.inputs(number)]):
            return [float(position) for position in range(len(graph))], False
        times.append(float(time))
    return times, True
