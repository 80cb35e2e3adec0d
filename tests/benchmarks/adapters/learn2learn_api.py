"""learn2learn: MAML with SGD."""

from __future__ import annotations

import importlib.util
import sys

from adapters import LR, Adapter, error, mean_gradient

# The package's __init__ imports gym, torchvision and others, which its algorithms don't need. A
# module that was created but not executed lets Python find the submodules.
sys.modules['learn2learn'] = importlib.util.module_from_spec(
    importlib.util.find_spec('learn2learn')
)
from learn2learn.algorithms import MAML  # noqa: E402


class Learn2Learn(Adapter):
    def meta_gradient(self, net, tasks, rule, eps_root, steps):
        if rule != 'sgd':
            raise NotImplementedError
        maml = MAML(net, LR)

        def run():
            losses = []
            for task in tasks:
                learner = maml.clone()
                for _ in range(steps):
                    learner.adapt(error(learner(task.x), task.y))
                losses.append(error(learner(task.outer_x), task.outer_y))
            return mean_gradient(losses, net)

        return run
