"""How the backward pass of a whole loop is paid for, one strategy a file.

``base`` holds their common interface. ``recomputed`` and ``snapshots`` share an autograd node,
``checkpointed``, with its ``forward_pass``, its ``backward_pass`` and the ``record`` between them.
They differ in the checkpoints that they keep; ``reversal`` finds the others.
"""
