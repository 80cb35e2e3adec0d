"""How the backward pass of a whole loop is paid for, one strategy a file.

``base`` holds their common interface; ``checkpointed`` is the autograd node that ``recomputed`` and
``snapshots`` share, which differ in the checkpoints that they keep.
"""
