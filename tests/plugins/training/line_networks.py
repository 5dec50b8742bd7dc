"""Networks of one line of numbers, and what feeds others, for tests of posteriors."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from nqbench.api import Batch, Model, Split, Task


class Lines(Model, name="lines-for-variational"):
    """y = x_1 - 2 x_2 with six inputs, of which the others say nothing; or any other module."""

    wanted: tuple[float, ...] = (1.0, -2.0, 0.0, 0.0, 0.0, 0.0)

    def fingerprint(self) -> str:
        return "lines"

    def load(self, device: torch.device) -> nn.Module:
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 1)).to(device).eval()

    def batches(self, split: Split, *, batch_size: int = 256, shuffle: int | None = None) -> Iterator[Batch]:
        x = torch.randn(512, 6, generator=torch.Generator().manual_seed(0))
        y = x @ torch.tensor(self.wanted)
        order = torch.arange(512)
        if shuffle is not None:
            order = torch.randperm(512, generator=torch.Generator().manual_seed(shuffle))
        for part in order.split(batch_size):
            yield x[part], y[part]

    def losses(self, outputs: Tensor, batch: Batch) -> Tensor:
        return 50 * (outputs[:, 0] - batch[1]).square()


class Fed(Lines, name="fed-for-variational"):
    """Inputs that fit another module."""

    shape: tuple[int, ...]
    tokens: bool = False

    def batches(self, split: Split, *, batch_size: int = 256, shuffle: int | None = None) -> Iterator[Batch]:
        size = (min(batch_size, 8), *self.shape)
        yield torch.randint(0, 6, size) if self.tokens else torch.randn(size), torch.zeros(size[0])


def wide_task(*layers: nn.Module) -> Task:
    module = nn.Sequential(*layers)
    names = tuple(n for n, p in module.named_parameters() if p.dim() > 1)
    return Task(Lines(), module, names)
