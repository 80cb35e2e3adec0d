"""What writers of optimizers, and the sibling packages, build on.

These modules are an interface: what they name without an underscore stays until the next minor
version. The rules in :mod:`torchopt.rules` show them at work.

- :mod:`~torchopt.authoring.per_tensor`: lift a rule for one tensor to a tree of tensors.
- :mod:`~torchopt.authoring.inplace`: ``inplace=True`` as a lowering of the functional rule.
- :mod:`~torchopt.authoring.numerics`: moving averages, and a square root with a derivative at 0.
- :mod:`~torchopt.authoring.initial`: first values of states.
- :mod:`~torchopt.authoring.steps`: counts of the steps that parameters have taken.
- :mod:`~torchopt.authoring.state`: states that ``torch.load`` reads, and their comparison.
- :mod:`~torchopt.authoring.torch_state`: the same states in the format of ``torch.optim``.
- :mod:`~torchopt.authoring.origin`: ``repr`` and pickle of transformations.
- :mod:`~torchopt.authoring.checks`: ranges of hyperparameters, trees of parameters.
- :mod:`~torchopt.authoring.describe`: what error messages call a value.
- :mod:`~torchopt.authoring.gradients`: gradients of a loss by a list of parameters.
- :mod:`~torchopt.authoring.module_slots`: where modules hold their parameters.
- :mod:`~torchopt.authoring.arguments`: classes that take the arguments of a factory.
- :mod:`~torchopt.authoring.torch_internals`: names of torch that are not public.
"""
