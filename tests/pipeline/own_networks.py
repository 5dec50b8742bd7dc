"""Networks made in a test, as a model plugin, and a bench that runs trials of them without a cache."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

from nqbench.api import Batch, Model, Split
from nqbench.pipeline.cache import Cache
from nqbench.pipeline.decoder import Decoder
from nqbench.pipeline.trial import Choice, Trial
from nqbench.pipeline.workbench import Workbench
from nqbench.registry import Registered, Registry, registry

INPUTS, CLASSES = 6, 3
BUILDERS: dict[str, Callable[[], nn.Module]] = {}
"""What ``own`` networks are made by; a test adds its own under a name of its own."""


class Own(Model, name="own"):
    """One of ``BUILDERS``' networks, with 24 seeded vectors of 6 numbers in its parameters' dtype."""

    network: str

    def fingerprint(self) -> str:
        return self.network

    def load(self, device: torch.device) -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return BUILDERS[self.network]().eval()

    def batches(self, split: Split, *, batch_size: int = 256, shuffle: int | None = None) -> Iterator[Batch]:
        generator = torch.Generator().manual_seed(1 if split == "test" else 2)
        x, y = torch.randn(24, INPUTS, generator=generator), torch.randint(0, CLASSES, (24,), generator=generator)
        order = torch.arange(24)
        if shuffle is not None:
            order = torch.randperm(24, generator=torch.Generator().manual_seed(shuffle))
        for part in torch.split(order, batch_size):
            yield x[part], y[part]


def with_own(known: Registry | None = None) -> Registry:
    """The installed plugins and ``Own``."""
    known = registry() if known is None else known
    return dataclasses.replace(known, found={**known.found, ("model", "own"): Registered(Own, "tests", "0")})


@contextlib.contextmanager
def bench_of(decoder: Decoder) -> Iterator[Workbench]:
    """A bench that keeps nothing from one process to another."""
    bench = Workbench(with_own(), Cache(None), torch.device("cpu"), decoder=decoder)
    try:
        yield bench
    finally:
        bench.close()


def run(decoder: Decoder, trial: Trial, folder: Path) -> dict[str, Any]:
    """A trial's figures, nothing kept and nothing found."""
    with bench_of(decoder) as bench:
        return bench.run(trial, folder)


def choice(kind: str, name: str, **parameters: Any) -> Choice:
    return Choice.of(with_own().make(kind, name, parameters))


def own_trial(network: str, **fields: Any) -> Trial:
    """A uniform quantizer of 16 cells with Huffman codes, unless said otherwise."""
    known = with_own()
    kinds = {"quantizer": ("uniform", {"k": 16}), "coder": ("huffman", {}), **fields}
    chosen: dict[str, Any] = {}
    for name, value in kinds.items():
        chosen[name] = Choice.of(known.make(name, *value)) if isinstance(value, tuple) and name != "training" else value
    chosen["training"] = tuple(Choice.of(known.make("training", *one)) for one in fields.get("training", ()))
    return Trial(Choice.of(known.make("model", "own", {"network": network})), **chosen)
