"""Tools around torch take the plain optimizers; each is tested where it is installed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import torchopt

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings('ignore')]

Make = Callable[[Any], torch.optim.Optimizer]
NAMES = ('Adam', 'RMSprop', 'SGD')


def batches() -> DataLoader[Any]:
    torch.manual_seed(0)
    return DataLoader(TensorDataset(torch.randn(8, 3), torch.randn(8, 1)), batch_size=2)


def assert_equals_torch(name: str, train: Callable[[Make], list[torch.Tensor]]) -> None:
    ours, torchs = (
        train(lambda params, owner=owner: getattr(owner, name)(params, lr=0.1))
        for owner in (torchopt, torch.optim)
    )
    assert len(ours) == 2
    for a, b in zip(ours, torchs, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize('name', NAMES)
def test_accelerate(name: str) -> None:
    accelerate = pytest.importorskip('accelerate')

    def train(make: Make) -> list[torch.Tensor]:
        accelerator = accelerate.Accelerator(cpu=True, gradient_accumulation_steps=2)
        torch.manual_seed(1)
        net = nn.Linear(3, 1)
        optimizer = make(net.parameters())
        scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 2)
        net, optimizer, data, scheduler = accelerator.prepare(net, optimizer, batches(), scheduler)
        for x, y in data:
            with accelerator.accumulate(net):
                accelerator.backward((net(x) - y).square().mean())
                accelerator.clip_grad_norm_(net.parameters(), 1.0)
                optimizer.step()
                scheduler.step()
                optimizer.zero_grad()
        optimizer.load_state_dict(optimizer.state_dict())
        return [param.detach().clone() for param in net.parameters()]

    assert_equals_torch(name, train)


@pytest.mark.parametrize('name', NAMES)
def test_lightning(name: str, tmp_path: Path) -> None:
    lightning = pytest.importorskip('lightning.pytorch')

    class Model(lightning.LightningModule):
        def __init__(self, make: Make) -> None:
            super().__init__()
            self.net, self.make = nn.Linear(3, 1), make

        def training_step(self, batch: Any, _: int) -> torch.Tensor:
            return (self.net(batch[0]) - batch[1]).square().mean()

        def configure_optimizers(self) -> dict[str, Any]:
            optimizer = self.make(self.parameters())
            scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1)
            return {'optimizer': optimizer, 'lr_scheduler': scheduler}

    def trainer(epochs: int) -> Any:
        quiet = ('logger', 'enable_checkpointing', 'enable_progress_bar', 'enable_model_summary')
        return lightning.Trainer(
            max_epochs=epochs,
            accelerator='cpu',
            gradient_clip_val=1.0,
            default_root_dir=tmp_path,
            **dict.fromkeys(quiet, False),
        )

    def train(make: Make) -> list[torch.Tensor]:
        torch.manual_seed(1)
        first, checkpoint = trainer(2), tmp_path / 'checkpoint'
        first.fit(Model(make), batches())
        first.save_checkpoint(checkpoint)
        resumed = Model(make)
        trainer(4).fit(resumed, batches(), ckpt_path=checkpoint)
        return [param.detach().clone() for param in resumed.parameters()]

    assert_equals_torch(name, train)
