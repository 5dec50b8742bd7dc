"""What every stage of one trial is given: the trial, its keys, a watch, and the bench's surroundings."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch

from nqbench.api import Model
from nqbench.pipeline.cache import Cache
from nqbench.pipeline.keys import KeyMaker, Keys
from nqbench.registry import Registry
from nqbench.suite.trial import Choice, Trial

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
    """What happened while a trial ran: seconds and raw samples by stage, and which results were there already."""

    seconds: dict[str, float] = field(default_factory=dict)
    samples: dict[str, list[float]] = field(default_factory=dict)
    cached: list[str] = field(default_factory=list)
    on_stage: Callable[[str], None] = field(default=lambda stage: None)
    _open: list[str] = field(default_factory=list)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time a stage. Stages may nest (quantizing loads the network first): each counts its own time alone.

        ``on_stage`` hears of a stage when it begins, and of the one around it when it ends; after an exception it is
        left at the stage that raised.
        """
        self._open.append(name)
        self.on_stage(name)
        before = sum(self.seconds.values())
        start = time.perf_counter()
        yield
        inner = sum(self.seconds.values()) - before
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start - inner
        self._open.pop()
        if self._open:
            self.on_stage(self._open[-1])

    def hit(self, name: str) -> None:
        """The stage's result was there already: in the cache, or still with the worker."""
        if name not in self.seconds:
            self.cached.append(name)
            self.seconds[name] = 0.0


@dataclass(frozen=True, eq=False)
class Surroundings:
    """What a bench works with: plugins, cache, device, whether it measures.

    ``cache`` keeps what a trial starts from (the pruned network, its sensitivity), ``results`` the rest: nothing where
    it measures.
    """

    registry: Registry
    cache: Cache
    results: Cache
    device: torch.device
    maker: KeyMaker
    measure: Measure | None = None

    def synchronize(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


@dataclass(frozen=True, eq=False)
class Context:
    """One trial under way."""

    trial: Trial
    keys: Keys
    watch: Watch
    around: Surroundings

    def plugin(self, choice: Choice | None, kind: type[T]) -> T:
        assert choice is not None
        plugin = self.around.maker.plugin(choice)
        assert isinstance(plugin, kind)
        return plugin

    @property
    def model(self) -> Model:
        return self.plugin(self.trial.model, Model)

    @property
    def seed(self) -> int:
        return 0 if self.trial.seed is None else self.trial.seed


class Recent(OrderedDict[str, Any]):
    """The few results used last, by key."""

    def __init__(self, most: int) -> None:
        super().__init__()
        self.most = most

    def find(self, key: str, make: Callable[[], T], on_hit: Callable[[], None] | None = None) -> T:
        """The value kept under the key, or ``make()``, for which the oldest makes room first."""
        if key in self:
            if on_hit is not None:
                on_hit()
            self.move_to_end(key)
        else:
            while len(self) >= self.most:
                self.popitem(last=False)
            self[key] = make()
        return self[key]  # type: ignore[no-any-return]
