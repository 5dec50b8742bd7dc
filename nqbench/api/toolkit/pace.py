"""In which batches a network is evaluated: the size that is fastest on this machine, measured once a model and kept.

A convolutional network may take twice as long for the same images in batches of 256 as in batches of 50, whose
activations stay in the processor's cache, and less still where channels come last in memory. Which, only a
measurement tells: a few sizes on the same few examples. Outputs differ between batch sizes by rounding, so the pace is
kept (``<NQBENCH_CACHE>/paces``) and a record says it; nothing is measured, and the model's own size taken, where a
batch takes no time worth saving, and on a GPU.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor, nn

from nqbench.api.batches import Batch, Split, count, of_type, part
from nqbench.api.modules import device_of
from nqbench.api.toolkit.parsing import parse_json
from nqbench.api.toolkit.paths import cache_dir, written_whole

SIZES = (4, 16, 32, 64, 128, 256, 512)
_CHEAP = 0.1
"""Seconds a batch below which nothing is kept, and _WORTH: below which nothing is measured."""
_WORTH = 0.5
_TRIAL = 0.4
"""Seconds that each size may take while it is measured, about."""
_BETTER = 0.95
"""What share of the time another pace must take at most: less is noise."""


@dataclass(frozen=True)
class Pace:
    """batch_size: examples a batch. channels_last: whether images are given with their channels last in memory."""

    batch_size: int
    channels_last: bool = False

    def prepared(self, batch: Batch) -> Batch:
        """The batch as the network is given it."""
        return last(batch) if self.channels_last else batch

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def last(batch: Batch) -> Batch:
    """A batch with the channels of its images last in memory."""
    if isinstance(batch, Tensor):
        image = batch.dim() == 4 and batch.is_floating_point()
        return batch.contiguous(memory_format=torch.channels_last) if image else batch
    if isinstance(batch, dict):
        return {key: last(value) for key, value in batch.items()}
    return of_type(batch, (last(value) for value in batch)) if isinstance(batch, tuple | list) else batch


class Paced(Protocol):
    """What is asked of a model."""

    name: ClassVar[str]
    evaluation_batch: ClassVar[int]

    def fingerprint(self) -> str: ...

    def batches(self, split: Split, *, batch_size: int = 256, shuffle: int | None = None) -> Iterator[Batch]: ...

    def predict(self, module: nn.Module, batch: Batch) -> Tensor: ...


_known: dict[Path, Pace] = {}


def pace_of(model: Paced, module: nn.Module, split: Split) -> Pace:
    """The pace for a model's network on this machine: the kept one, else measured on the split's first examples."""
    usual = Pace(model.evaluation_batch)
    if device_of(module).type != "cpu":
        return usual
    path = _path(model)
    if path not in _known:
        _known[path] = _kept(path) or _found(model, module, split, usual, path)
    return _known[path]


def _path(model: Paced) -> Path:
    # what a measurement is of: the network, the threads, PyTorch; the cache is of one machine
    said = f"{model.name} {model.fingerprint()} {torch.get_num_threads()} {torch.__version__}"
    return cache_dir() / "paces" / f"{hashlib.sha256(said.encode()).hexdigest()[:32]}.json"


def _kept(path: Path) -> Pace | None:
    try:
        return Pace(**parse_json(path.read_text()))
    except (OSError, ValueError, TypeError):  # none, or damaged: measured again
        return None


def _found(model: Paced, module: nn.Module, split: Split, usual: Pace, path: Path) -> Pace:
    batch = next(iter(model.batches(split, batch_size=usual.batch_size)), None)
    if batch is None:
        return usual
    _seconds(model, module, [part(batch, 1)])  # what is made once
    seconds = _seconds(model, module, [batch])
    if seconds < _CHEAP:
        return usual
    pace = usual if seconds < _WORTH else _fastest(model, module, split, usual, seconds / count(batch))
    path.parent.mkdir(parents=True, exist_ok=True)
    with written_whole(path) as temporary:
        Path(temporary).write_text(json.dumps(pace.as_json()))
    return pace


def _fastest(model: Paced, module: nn.Module, split: Split, usual: Pace, each: float) -> Pace:
    """Of the sizes that a trial's examples fill, at the usual pace seconds ``each``; then with channels last."""
    examples = max(min(SIZES), min(max(SIZES), int(_TRIAL / each)))
    sizes = [size for size in SIZES if size <= examples and size != usual.batch_size]
    timed = {pace: _timed(model, module, split, pace, examples) for pace in (usual, *(Pace(size) for size in sizes))}
    if any(isinstance(layer, nn.Conv2d) for layer in module.modules()):
        quick = replace(min(timed, key=lambda pace: timed[pace]), channels_last=True)
        if _same(model, module, split, quick):
            timed[quick] = _timed(model, module, split, quick, examples)
    best = min(timed, key=lambda pace: timed[pace])
    return best if timed[best] < _BETTER * timed[usual] else usual


def _timed(model: Paced, module: nn.Module, split: Split, pace: Pace, examples: int) -> float:
    """Seconds an example: the better of two passes, whole batches alone where there are enough."""
    number = max(1, examples // pace.batch_size)
    batches = list(itertools.islice(model.batches(split, batch_size=pace.batch_size), number))
    prepared = [pace.prepared(batch) for batch in batches]
    return min(_seconds(model, module, prepared) for _ in range(2)) / sum(count(batch) for batch in batches)


def _seconds(model: Paced, module: nn.Module, batches: Sequence[Batch]) -> float:
    begun = time.perf_counter()
    with torch.inference_mode():
        for batch in batches:
            model.predict(module, batch)
    return time.perf_counter() - begun


def _same(model: Paced, module: nn.Module, split: Split, pace: Pace) -> bool:
    """Whether the network takes images that lie so, and gives the same up to rounding."""
    batch = part(next(iter(model.batches(split, batch_size=2))), 2)
    try:
        with torch.inference_mode():
            plain, lying = model.predict(module, batch), model.predict(module, pace.prepared(batch))
    except RuntimeError:  # ``view`` of what lies another way
        return False
    return torch.allclose(plain, lying, rtol=1e-3, atol=1e-4 * float(plain.abs().max()))
