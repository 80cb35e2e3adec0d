"""Differentiable optimizers for torch modules."""

from torchopt_meta.classes import MetaAdaDelta as MetaAdaDelta
from torchopt_meta.classes import MetaAdadelta as MetaAdadelta
from torchopt_meta.classes import MetaAdaGrad as MetaAdaGrad
from torchopt_meta.classes import MetaAdagrad as MetaAdagrad
from torchopt_meta.classes import MetaAdam as MetaAdam
from torchopt_meta.classes import MetaAdaMax as MetaAdaMax
from torchopt_meta.classes import MetaAdamax as MetaAdamax
from torchopt_meta.classes import MetaAdamW as MetaAdamW
from torchopt_meta.classes import MetaRAdam as MetaRAdam
from torchopt_meta.classes import MetaRMSProp as MetaRMSProp
from torchopt_meta.classes import MetaRMSprop as MetaRMSprop
from torchopt_meta.classes import MetaSGD as MetaSGD
from torchopt_meta.optimizer import MetaOptimizer as MetaOptimizer

__version__ = '0.1.0'
