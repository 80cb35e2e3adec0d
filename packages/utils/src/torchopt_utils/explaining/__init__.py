"""Why a meta-gradient is None, zero, NaN, huge, or right.

From top to bottom; each file imports only files of lower lines::

    answer.py          the public function, which puts the answer together
    arguments.py       its arguments, checked
    levels.py          inner steps in order, as reports
    numerics.py        findings about numbers: NaN, zero, vanishing, exploding
    operations.py      which operation makes NaN, infinity or zero
    failures.py        why a backward pass raised
    measure.py         one backward pass that is watched
    tensor_causes.py   why a tensor has no gradient, as far as it lies at the tensor
    causes.py          why a graph does not lead to a tensor
    surroundings.py    what is at hand beside the graph: module, optimizer, memory
    update_graphs.py   steps of first order
    graph.py           the graph as data
    generators.py      generators put back where they were
    numbers.py         norms
    page.py, text.py   the report as HTML, as text
    report.py          the report as data
"""

from torchopt_utils.explaining.answer import explain as explain
from torchopt_utils.explaining.report import Explanation as Explanation
from torchopt_utils.explaining.report import Finding as Finding
from torchopt_utils.explaining.report import StepReport as StepReport
from torchopt_utils.explaining.report import TensorReport as TensorReport
