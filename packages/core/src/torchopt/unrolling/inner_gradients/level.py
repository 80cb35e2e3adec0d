"""A level of differentiation in the one graph of torch.autograd, as torch.func has levels."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch.autograd.function import BackwardCFunction

from torchopt.authoring.constant_leaves import is_constant, make_constant
from torchopt.unrolling.context.graph import leaves_of_graph


class _Entry(NamedTuple):
    """A tensor that stands for another one inside of a level.

    Attributes:
        inside: The tensor inside.
        outside: The tensor for which it stands.
        node: Node of the tensor inside when it was made; None for a leaf.
    """

    inside: torch.Tensor
    outside: torch.Tensor
    node: Any


class Level:
    """The tensors by which one inner gradient is differentiated, inside and outside of it.

    Inside, each is a tensor of its own, so that only the way through this argument counts. Where
    the tensor outside carries a graph, the tensor inside is a view of it, and derivatives reach it.
    Every other one is a leaf, and a constant for everything outside of the level.

    Attributes:
        is_recorded: Whether anything is differentiated outside: grad mode, when the level is made.
        is_opaque: Whether the backward pass may use a tensor that shows nowhere in the graph of the
            value: in a hook, or in an autograd function of the user's.
        has_ended: Whether the gradient has been taken.
    """

    def __init__(self) -> None:
        self.is_recorded = torch.is_grad_enabled()
        self.is_opaque = False
        self.has_ended = False
        self._entries: list[_Entry] = []
        self._outside: dict[int, torch.Tensor] = {}
        self._leaves: dict[int, torch.Tensor] = {}
        self._constants: list[torch.Tensor] = []
        # Whether a node of the graph leads to a tensor of the outside.
        self._leads_outside: dict[Any, bool] = {}

    @property
    def inside(self) -> list[torch.Tensor]:
        """The tensors inside, in the order in which they entered."""
        return [entry.inside for entry in self._entries]

    def enter(self, tensor: torch.Tensor) -> torch.Tensor:
        """Return a tensor that stands for ``tensor`` inside, and requires grad."""
        if self.is_recorded and tensor.requires_grad:
            inside = tensor[...]
            self._leads_outside[inside.grad_fn] = True
        else:
            inside = tensor.detach().requires_grad_()
            self._leaves[id(inside)] = inside
        self._entries.append(_Entry(inside, tensor, inside.grad_fn))
        self._outside[id(inside)] = tensor
        return inside

    def constant(self, value: Any) -> Any:
        """Return what stands for an argument by which the level does not differentiate."""
        if not isinstance(value, torch.Tensor):
            return value
        inside = value
        if value.requires_grad and not self.is_recorded:
            inside = value.detach()
            self._outside[id(inside)] = value
        elif value.grad_fn is not None:
            self._leads_outside[value.grad_fn] = True
        self._constants.append(inside)
        return inside

    def is_inside(self, tensor: torch.Tensor) -> bool:
        """Tell whether ``tensor`` depends on one by which the level differentiates."""
        stops = {entry.node: entry.inside for entry in self._entries if entry.node is not None}
        inside = {id(entry.inside) for entry in self._entries}
        roots = [tensor.grad_fn or tensor]
        return any(id(leaf) in inside for leaf in leaves_of_graph(roots, stops))

    def leave(self, value: Any) -> Any:
        """Return a result as it is outside: with a graph only where it leads there."""
        if not isinstance(value, torch.Tensor) or id(value) in self._outside:
            return self._outside.get(id(value), value)
        if not value.requires_grad or self.depends_on_outside(value):
            return value
        return value.detach()

    def depends_on_outside(self, tensor: torch.Tensor) -> bool:
        """Tell whether a tensor of the outside has a derivative of ``tensor``."""
        if not self.is_recorded or not tensor.requires_grad:
            return False
        if len(self._leaves) == 0:
            return True
        if tensor.grad_fn is None:
            return self._is_of_outside(tensor)
        return self._search(tensor.grad_fn)

    def require_unwritten(self) -> None:
        """Raise if a tensor by which the level differentiates was written to in place.

        Raises:
            RuntimeError: there is one. Torch itself refuses to write into a leaf.
        """
        if any(entry.inside.grad_fn is not entry.node for entry in self._entries):
            raise RuntimeError(
                'a function whose gradient is taken writes in place into an argument by which it '
                'is differentiated: let it write into a clone'
            )

    def end(self) -> None:
        """Make constants of the leaves, and let no other argument keep a graph that ends in them.

        Raises:
            RuntimeError: such an argument is a view, whose graph cannot be taken away.
        """
        self.has_ended = True
        for leaf in self._leaves.values():
            make_constant(leaf)
        for tensor in self._constants:
            if tensor.requires_grad and not self.depends_on_outside(tensor):
                if tensor._is_view():
                    raise RuntimeError(
                        'a function whose gradient is taken writes in place into an argument that '
                        'is a view: let it write into a clone, and return the clone'
                    )
                tensor.detach_()

    def _search(self, root: Any) -> bool:
        """Tell whether ``root`` leads to a tensor of the outside; each node is seen once."""
        known = self._leads_outside
        if root in known:
            return known[root]
        known[root] = False
        self.is_opaque |= isinstance(root, BackwardCFunction) and _is_of_user(root)
        path: list[tuple[Any, Iterator[tuple[Any, int]]]] = [(root, iter(root.next_functions))]
        while path:
            for node, _ in path[-1][1]:
                if node is None:
                    continue
                leads = known.get(node)
                if leads is None:
                    further = node.next_functions
                    self.is_opaque |= isinstance(node, BackwardCFunction) and _is_of_user(node)
                    leads = not further and self._is_of_outside(getattr(node, 'variable', None))
                    known[node] = leads
                    if further:
                        path.append((node, iter(further)))
                        break
                if leads:
                    for passed, _ in path:
                        known[passed] = True
                    return True
            else:
                path.pop()
        return False

    def _is_of_outside(self, leaf: torch.Tensor | None) -> bool:
        return leaf is not None and id(leaf) not in self._leaves and not is_constant(leaf)


def _is_of_user(node: BackwardCFunction) -> bool:
    """Tell whether a node may use what is not its input; no function of torch or ours does."""
    cls = getattr(type(node), '_forward_cls', None)
    return getattr(cls, '__module__', '').partition('.')[0] not in ('torch', 'torchopt')
