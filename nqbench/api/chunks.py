"""Work over many weights in fixed chunks, shared out among threads.

The chunks depend on the number of weights alone, never on the number of threads: sums that are added in chunk order
are the same on every machine.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch
from torch import Tensor

T = TypeVar("T")

CHUNK = 1 << 20
"""Weights a thread takes at a time."""


def in_chunks(n: int, work: Callable[[slice], T], chunk: int = CHUNK, threads: int | None = None) -> list[T]:
    """``work`` of each slice of [0, n), results in order. threads: None: as many as torch would use. ``work`` must let
    go of Python's lock for long enough to gain anything."""
    slices = [slice(start, min(start + chunk, n)) for start in range(0, n, chunk)]
    threads = torch.get_num_threads() if threads is None else threads
    if len(slices) == 1 or threads == 1:
        return [work(at) for at in slices]
    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(work, slices))


def on_torch(tensor: Tensor) -> bool:
    """Whether to work with torch operations: on every device but the CPU, where there are compiled loops. Call it as
    ``chunks.on_torch``, so that a test can have the path of other devices on the CPU."""
    return tensor.device.type != "cpu"
