"""``torchrun ... -m distributed``: run all checks on the ranks that torchrun has started."""

from __future__ import annotations

import datetime
import faulthandler

import torch.distributed as dist

from distributed.run import run_all

LIMIT = 900  # seconds, for all checks together

if __name__ == '__main__':
    faulthandler.dump_traceback_later(LIMIT, exit=True)
    dist.init_process_group('gloo', timeout=datetime.timedelta(seconds=300))
    try:
        run_all()
    finally:
        dist.destroy_process_group()
