"""Building blocks for authors of optimizers and for the sibling packages.

These modules are a public interface: names without an underscore stay until the next minor
version. The rules in :mod:`torchopt.rules` are examples of their use.

- :mod:`~torchopt.authoring.per_tensor`: lift a rule for one tensor to a tree of tensors.
- :mod:`~torchopt.authoring.transformation`: transformations from a functional pair.
- :mod:`~torchopt.authoring.inplace`: ``inplace=True`` as a lowering of the functional rule.
- :mod:`~torchopt.authoring.numerics`: moving averages, and a square root with a derivative at 0.
- :mod:`~torchopt.authoring.initial`: initial values of states.
- :mod:`~torchopt.authoring.copies`: copies of parameters that a state holds.
- :mod:`~torchopt.authoring.numbers`: vectors with a number per parameter, and their entries.
- :mod:`~torchopt.authoring.rates`: learning rates, leaf by leaf.
- :mod:`~torchopt.authoring.scalars`: vectors with a number per leaf, as the scalars of a rule.
- :mod:`~torchopt.authoring.selection`: a choice between two trees, without a branch.
- :mod:`~torchopt.authoring.columns`: trees as columns of leaves.
- :mod:`~torchopt.authoring.common_trees`: dictionaries, lists and tuples, read without a search.
- :mod:`~torchopt.authoring.steps`: counts of the steps that parameters have taken.
- :mod:`~torchopt.authoring.step_marks`: marks of inner steps in the graph of autograd.
- :mod:`~torchopt.authoring.update_marks`: marks of gradients and states, in the same graph.
- :mod:`~torchopt.authoring.constant_leaves`: leaves by which an inner gradient was taken.
- :mod:`~torchopt.authoring.observed_loops`: cotangents of the steps of a loop in one node.
- :mod:`~torchopt.authoring.detached`: notes on leaves that were cut off a graph.
- :mod:`~torchopt.authoring.state`: states that ``torch.load`` reads, and checks that one fits.
- :mod:`~torchopt.authoring.torch_state`: the same states in the format of ``torch.optim``.
- :mod:`~torchopt.authoring.from_torch`: states of trained ``torch.optim`` optimizers.
- :mod:`~torchopt.authoring.origin`: ``repr`` and pickle of transformations.
- :mod:`~torchopt.authoring.checks`: ranges of hyperparameters, trees of parameters.
- :mod:`~torchopt.authoring.describe`: descriptions of values for error messages.
- :mod:`~torchopt.authoring.gradients`: gradients of a loss with respect to a list of parameters.
- :mod:`~torchopt.authoring.module_slots`: where modules hold their parameters.
- :mod:`~torchopt.authoring.arguments`: classes that take the arguments of a factory.
- :mod:`~torchopt.authoring.shards`: tensors that are spread over ranks.
- :mod:`~torchopt.authoring.wrappers`: modules that torch has wrapped for many ranks.
- :mod:`~torchopt.authoring.torch_internals`: private names of torch.
"""
