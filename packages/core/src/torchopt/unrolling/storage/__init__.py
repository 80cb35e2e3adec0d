"""Where the checkpoints of a loop are kept: on their device, in the host's memory, or on disk.

``base`` is the interface of a store, and ``tape`` the list of checkpoints in a store, which is all
that strategies see. ``device``, ``host`` and ``disk`` are the stores. ``parts`` takes tensors apart
for the stores that copy; ``files`` and ``records`` are the format on disk.
"""
