"""Pictures of the graph of autograd."""

from torchopt_utils.visual.make_dot import make_dot as make_dot
