"""One step: how it is called and checked, stored, run again and differentiated.

An engine runs and differentiates a step: eagerly or compiled. Under ``torch.vmap`` the step itself
is mapped.
"""
