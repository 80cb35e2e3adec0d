"""What a step depends on beside its arguments.

Some of it is recorded in the forward pass and restored when the step is run again: random numbers
and autocast. The rest is watched, and raises where a second run would differ or a gradient would
be lost: tensors in closures and generators that a step holds. In forward mode, ``no_grad`` in a
step is made to mean what it means in a graph.
"""
