"""Gradient transformations, from which optimizers are chained."""

from torchopt.blocks.add_decayed_weights import add_decayed_weights as add_decayed_weights
from torchopt.blocks.masked import masked as masked
from torchopt.blocks.nan_to_num import nan_to_num as nan_to_num
from torchopt.blocks.orthogonalize import orthogonalize as orthogonalize
from torchopt.blocks.partition import partition as partition
from torchopt.blocks.scale import scale as scale
from torchopt.blocks.scale import scale_by_learning_rate as scale_by_learning_rate
from torchopt.blocks.scale_by_schedule import scale_by_schedule as scale_by_schedule
from torchopt.blocks.scale_by_trust_ratio import scale_by_trust_ratio as scale_by_trust_ratio
from torchopt.blocks.trace import trace as trace
from torchopt.rules.adadelta import scale_by_adadelta as scale_by_adadelta
from torchopt.rules.adafactor import scale_by_adafactor as scale_by_adafactor
from torchopt.rules.adagrad import scale_by_rss as scale_by_rss
from torchopt.rules.adam import scale_by_adam as scale_by_adam
from torchopt.rules.adamax import scale_by_adamax as scale_by_adamax
from torchopt.rules.adan import scale_by_adan as scale_by_adan
from torchopt.rules.asgd import scale_by_asgd as scale_by_asgd
from torchopt.rules.lion import scale_by_lion as scale_by_lion
from torchopt.rules.muon import averaged_momentum as averaged_momentum
from torchopt.rules.muon import scale_by_shape as scale_by_shape
from torchopt.rules.nadam import scale_by_nadam as scale_by_nadam
from torchopt.rules.radam import scale_by_radam as scale_by_radam
from torchopt.rules.rmsprop import scale_by_rms as scale_by_rms
from torchopt.rules.rmsprop import scale_by_stddev as scale_by_stddev
from torchopt.rules.rprop import scale_by_rprop as scale_by_rprop
