"""What a stage is made from: the trial, its plugins, the results of earlier stages, a watch, and the bench."""

from __future__ import annotations

import statistics
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch

from nqbench.api import Model
from nqbench.pipeline.cache import Cache
from nqbench.pipeline.trial import Choice, Trial

if TYPE_CHECKING:
    from nqbench.pipeline.decoder import Decoder
    from nqbench.registry import Registry

P = TypeVar("P")
T = TypeVar("T")


@dataclass(frozen=True)
class Measure:
    """repeats: timed runs of each measured stage (quantize, encode, decode), after ``warmup`` untimed ones."""

    repeats: int = 1
    warmup: int = 0

    @property
    def runs(self) -> int:
        return self.warmup + self.repeats


@dataclass(eq=False)
class Watch:
    """What happened while a trial ran: seconds and raw samples by step, and which results were there already."""

    seconds: dict[str, float] = field(default_factory=dict)
    samples: dict[str, list[float]] = field(default_factory=dict)
    cached: list[str] = field(default_factory=list)
    on_stage: Callable[[str, float], None] = field(default=lambda stage, since: None)
    _open: list[tuple[str, float]] = field(default_factory=list)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time a step. Steps may nest (a quantizer may ask for the sensitivity): each counts its own time alone.

        ``on_stage`` hears of a step and of when it began (``time.monotonic``, what was nested in it left out) when it
        begins, and of the one around it when it ends; after an exception it is left at the step that raised.
        """
        start = time.monotonic()
        self._open.append((name, start))
        self.on_stage(name, start)
        before = sum(self.seconds.values())
        yield
        spent = time.monotonic() - start
        inner = sum(self.seconds.values()) - before
        self.seconds[name] = self.seconds.get(name, 0.0) + spent - inner
        self._open.pop()
        if self._open:
            outer, since = self._open[-1]
            self._open[-1] = outer, since + spent
            self.on_stage(*self._open[-1])

    def hit(self, name: str) -> None:
        """The stage's result was there already: in the cache, or still with the worker."""
        if name not in self.seconds:
            self.cached.append(name)
            self.seconds[name] = 0.0


class Memory:
    """What a worker keeps between trials: under each name the few results used last, by key."""

    def __init__(self) -> None:
        self._kept: dict[str, OrderedDict[str, Any]] = {}

    def has(self, name: str, key: str) -> bool:
        return key in self._kept.get(name, ())

    def find(self, name: str, key: str, make: Callable[[], T], most: int = 1) -> T:
        """The value kept under the key, or ``make()``, for which the oldest makes room first."""
        kept = self._kept.setdefault(name, OrderedDict())
        if key in kept:
            kept.move_to_end(key)
        elif not most:
            return make()
        else:
            while len(kept) >= most:
                kept.popitem(last=False)
            kept[key] = make()
        return kept[key]  # type: ignore[no-any-return]


@dataclass(eq=False)
class Bench:
    """What trials on one device share. folder: for temporary files. measure: times are measurements, or None."""

    registry: Registry
    cache: Cache
    device: torch.device
    decoder: Decoder
    folder: Path
    measure: Measure | None = None
    memory: Memory = field(default_factory=Memory)

    def synchronize(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


class Context:
    """One trial under way, as the making of a stage sees it."""

    def __init__(self, trial: Trial, bench: Bench, watch: Watch) -> None:
        self.trial = trial
        self.bench = bench
        self.watch = watch
        self.workdir: Path | None = None
        """Where the stage that is being made may keep checkpoints."""

    def result(self, stage: str) -> Any:
        """What a stage before this one gave; where the trial skips it, what its first input is."""
        raise NotImplementedError

    def stands(self, stage: str) -> str:
        """What stands for a stage's result in the keys of what follows."""
        raise NotImplementedError

    def kept(self, name: str, stage: str, make: Callable[[], T], extra: str = "") -> T:
        """Something that follows from a stage's result, made once for all trials that share that.

        extra: what else it follows from. Nothing is kept of results that are made anew to be measured.
        """
        raise NotImplementedError

    def plugin(self, choice: Choice | None, kind: type[T]) -> T:
        """A plugin of the trial, made once for all trials."""
        raise NotImplementedError

    @property
    def model(self) -> Model:
        return self.plugin(self.trial.model, Model)

    @property
    def seed(self) -> int:
        return 0 if self.trial.seed is None else self.trial.seed

    def repeated(self, step: str, work: Callable[[P], T], ready: Callable[[], P]) -> T:
        """``work(ready())``, the work timed as a step: once or, where times are measured, as often as that asks for;
        the step's seconds are then the median of the samples."""
        samples = []
        for _ in range(self.bench.measure.runs if self.bench.measure else 1):
            given = ready()
            self.bench.synchronize()
            start = time.perf_counter()
            with self.watch.stage(step):
                found = work(given)
                self.bench.synchronize()
            samples.append(time.perf_counter() - start)
        if self.bench.measure is not None:
            self.sampled(step, samples, statistics.median)
        return found

    def sampled(self, step: str, samples: Sequence[float], pick: Callable[[Sequence[float]], float] = min) -> float:
        """Note a step's seconds, picked from its samples; the first ones of a measurement warm up."""
        measure = self.bench.measure
        timed = list(samples)[measure.warmup :] if measure else list(samples)
        if measure:
            self.watch.samples[step] = timed
        self.watch.seconds[step] = pick(timed)
        return self.watch.seconds[step]
