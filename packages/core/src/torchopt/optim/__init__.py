"""Optimizers as objects."""

from torchopt.optim.classes import SGD as SGD
from torchopt.optim.classes import AdaDelta as AdaDelta
from torchopt.optim.classes import Adadelta as Adadelta
from torchopt.optim.classes import AdaGrad as AdaGrad
from torchopt.optim.classes import Adagrad as Adagrad
from torchopt.optim.classes import Adam as Adam
from torchopt.optim.classes import AdaMax as AdaMax
from torchopt.optim.classes import Adamax as Adamax
from torchopt.optim.classes import AdamW as AdamW
from torchopt.optim.classes import RAdam as RAdam
from torchopt.optim.classes import RMSProp as RMSProp
from torchopt.optim.classes import RMSprop as RMSprop
from torchopt.optim.func import FuncOptimizer as FuncOptimizer
from torchopt.optim.optimizer import Optimizer as Optimizer
