"""Tools for the state of modules and optimizers: extract, recover, cut off, draw, explain."""

from torchopt_utils.clone import module_clone as module_clone
from torchopt_utils.copying import CopyMode as CopyMode
from torchopt_utils.detach import module_detach_ as module_detach_
from torchopt_utils.detach import stop_gradient as stop_gradient
from torchopt_utils.explaining import Explanation as Explanation
from torchopt_utils.explaining import Finding as Finding
from torchopt_utils.explaining import StepReport as StepReport
from torchopt_utils.explaining import TensorReport as TensorReport
from torchopt_utils.explaining import explain as explain
from torchopt_utils.extract import extract_state_dict as extract_state_dict
from torchopt_utils.recover import recover_state_dict as recover_state_dict
from torchopt_utils.state import ModuleState as ModuleState
from torchopt_utils.visual import make_dot as make_dot

__version__ = '0.1.0'
