"""One file per optimizer: its state, its rule for one tensor, and its factory."""

from torchopt.rules.adadelta import adadelta as adadelta
from torchopt.rules.adafactor import adafactor as adafactor
from torchopt.rules.adagrad import adagrad as adagrad
from torchopt.rules.adam import adam as adam
from torchopt.rules.adamax import adamax as adamax
from torchopt.rules.adamw import adamw as adamw
from torchopt.rules.adan import adan as adan
from torchopt.rules.asgd import asgd as asgd
from torchopt.rules.lamb import lamb as lamb
from torchopt.rules.lion import lion as lion
from torchopt.rules.muon import muon as muon
from torchopt.rules.nadam import nadam as nadam
from torchopt.rules.radam import radam as radam
from torchopt.rules.rmsprop import rmsprop as rmsprop
from torchopt.rules.rprop import rprop as rprop
from torchopt.rules.sgd import sgd as sgd
