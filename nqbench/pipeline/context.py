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
    """Records what happened while a trial ran: seconds and samples by step, and which results were found in a cache."""

    seconds: dict[str, float] = field(default_factory=dict)
    samples: dict[str, list[float]] = field(default_factory=dict)
    cached: list[str] = field(default_factory=list)
    on_stage: Callable[[str, float], None] = field(default=lambda stage, since: None)
    _open: list[tuple[str, float]] = field(default_factory=list)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time a step. Steps may be nested (a quantizer may ask for the sensitivity); the outer step does not count the
        time of the inner one.

        When a step begins, ``on_stage`` is called with its name and start (``time.monotonic``); when it ends, with
        those of the outer step, whose start is moved by the time of the inner one. After an exception it is not called,
        so that the step that raised is the last one known.
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
        """Note that the result of a stage was found in the cache or in the worker's memory."""
        if name not in self.seconds:
            self.cached.append(name)
            self.seconds[name] = 0.0


class Memory:
    """Results that a worker keeps in memory between trials: for each name, the few that were used last. What is kept of
    a result that goes (under its key and something more) goes with it."""

    def __init__(self) -> None:
        self._kept: dict[str, OrderedDict[str, Any]] = {}

    def has(self, name: str, key: str) -> bool:
        return key in self._kept.get(name, ())

    def find(self, name: str, key: str, make: Callable[[], T], most: int = 1) -> T:
        """The value for this key, or else ``make()``; the oldest value is dropped before that, if there are
        ``most``."""
        kept = self._kept.setdefault(name, OrderedDict())
        if key in kept:
            kept.move_to_end(key)
        elif not most:
            return make()
        else:
            while len(kept) >= most:
                self._forget(kept.popitem(last=False)[0])
            kept[key] = make()
        return kept[key]  # type: ignore[no-any-return]

    def _forget(self, key: str) -> None:
        """Drop what was computed from a result."""
        for kept in self._kept.values():
            for derived in [other for other in kept if other.startswith(f"{key} ")]:
                del kept[derived]


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
    """One trial, as the functions that make its stages see it."""

    def __init__(self, trial: Trial, bench: Bench, watch: Watch) -> None:
        self.trial = trial
        self.bench = bench
        self.watch = watch
        self.workdir: Path | None = None
        """Folder in which the current stage may keep checkpoints."""

    def result(self, stage: str) -> Any:
        """The result of an earlier stage; if the trial skips that stage, the result of its first input."""
        raise NotImplementedError

    def stands(self, stage: str) -> str:
        """The text that represents a stage's result in the keys of later stages: its key, or a hash of its content."""
        raise NotImplementedError

    def kept(self, name: str, stage: str, make: Callable[[], T], extra: str = "") -> T:
        """A value computed from a stage's result, once for all trials that share that result.

        extra: everything else that the value depends on. Nothing is kept if the stage is run again to measure times.
        """
        raise NotImplementedError

    def plugin(self, choice: Choice | None, kind: type[T]) -> T:
        """A plugin of the trial; trials with the same configuration share one instance."""
        raise NotImplementedError

    @property
    def model(self) -> Model:
        return self.plugin(self.trial.model, Model)

    @property
    def seed(self) -> int:
        return 0 if self.trial.seed is None else self.trial.seed

    def repeated(self, step: str, work: Callable[[P], T], ready: Callable[[], P]) -> T:
        """The result of ``work(ready())``. ``work`` is timed as a step, ``ready`` is not. If times are measured, both
        run as often as the measurement asks for, and the step's seconds are the median of the samples."""
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
        """Record the seconds of a step, picked from its samples without those of the warm-up."""
        measure = self.bench.measure
        timed = list(samples)[measure.warmup :] if measure else list(samples)
        if measure:
            self.watch.samples[step] = timed
        self.watch.seconds[step] = pick(timed)
        return self.watch.seconds[step]
