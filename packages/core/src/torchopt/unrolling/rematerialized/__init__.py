"""Blocks whose activations are held by no graph: they are computed again when they are needed.

From the user's side inward: :mod:`~.remat` is the public function. A :mod:`~.call` is one call of a
block, as a function of flat tensors, with all that a second run needs. The :mod:`~.node` is its
node in autograd's graph, which saves nothing but inputs. Its derivatives are such nodes again, of
the functions in :mod:`~.derivatives`.
"""
