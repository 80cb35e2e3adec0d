"""What a differentiated program needs where several processes share its work.

Everything else is torch's own: ``torchrun`` starts the processes (ranks), DDP spreads tasks over
them, DTensor shards parameters, ``torch.distributed.checkpoint`` saves. It is imported on first
use: ``import torchopt`` does not load it.
"""

from torchopt.distributed.average import average_gradients as average_gradients
from torchopt.distributed.checkpoint import StateByName as StateByName
from torchopt.distributed.reductions import mean_over_ranks as mean_over_ranks
from torchopt.distributed.reductions import sum_over_ranks as sum_over_ranks

__all__ = ['StateByName', 'average_gradients', 'mean_over_ranks', 'sum_over_ranks']
