"""Where the checkpoints of a loop are kept: on their device, in the host's memory, or on disk.

``base`` has the interfaces: a store of checkpoints, and a journal from which a run goes on. A
strategy sees a ``tape``, the stack of checkpoints in a store. ``choice`` is what users choose from:

- ``device``: nothing is copied.
- ``host``, with ``transfers``: copies that run beside the steps.
- ``disk``: ``disk_store`` has the checkpoints, ``disk_journal`` what a forward pass needs to go on,
  ``disk_cotangents`` what a backward pass needs. ``folder`` and ``files`` are where they are,
  ``encoding`` is their format, ``identity`` and ``sample`` tell a run from another, and ``ranks``
  lets several go on together.

``parts`` takes sharded tensors apart.
"""
