"""Runs trials on one device, whole or a stage at a time. The result of each stage comes from the worker's memory or
from the cache, or is made."""

from __future__ import annotations

import contextlib
import hashlib
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar

import torch

from nqbench.api import Knob
from nqbench.api.toolkit.store import networks_read, unchanged
from nqbench.pipeline.cache import Cache, Entry
from nqbench.pipeline.chain import NETWORK, STAGES
from nqbench.pipeline.context import Bench, Context, Measure, Watch
from nqbench.pipeline.decoder import Decoder
from nqbench.pipeline.evaluating import judge_float, metric_of, metrics
from nqbench.pipeline.files import file_of, put_file
from nqbench.pipeline.keys import KeyMaker
from nqbench.pipeline.memory import Peak
from nqbench.pipeline.stage import TRIAL, Stage
from nqbench.pipeline.trial import Choice, Trial
from nqbench.registry import Registry
from nqbench.results.environment import environment

T = TypeVar("T")
_TRIES = 3
"""How often a trial is started again if its network differs from the one that its keys were made for."""


class Moved(Exception):
    """A network differs from the one that keys were made for, so that they must be made again."""


class Work(Context):
    """One trial on its way through the chain. Its stages communicate only by keys and results."""

    def __init__(self, trial: Trial, bench: Bench, watch: Watch, maker: KeyMaker) -> None:
        super().__init__(trial, bench, watch)
        self.maker = maker
        self._keys: dict[str, str] = {}
        self._stands: dict[str, str] = {}
        self._missing: set[str] = set()
        self._results: dict[str, Any] = {}
        self._contents: dict[str, str] = {}

    def forward(self, goals: Iterable[str]) -> None:
        """Obtain the results of some stages, and before them the results that they need, in the order of the chain."""
        wanted = set(goals)
        for stage in reversed(STAGES.values()):
            if stage.name in wanted and not self._there(stage):
                wanted.update(name for name in stage.inputs if name not in stage.lazy)
        for stage in STAGES.values():
            if stage.name in wanted:
                self.result(stage.name)

    def plugin(self, choice: Choice | None, kind: type[T]) -> T:
        assert choice is not None
        plugin = self.maker.plugin(choice)
        assert isinstance(plugin, kind)
        return plugin

    def kept(self, name: str, stage: str, make: Callable[[], T], extra: str = "") -> T:
        if self._anew(STAGES[stage]):
            return make()
        return self.bench.memory.find(name, f"{self.stands(stage)} {extra}", make)

    def result(self, stage: str) -> Any:
        if stage not in self._results:
            found = STAGES[stage]
            skipped = found.skipped(self.trial)
            self._results[stage] = self.result(found.inputs[0]) if skipped else self._obtain(found)
        return self._results[stage]

    # -- keys --------------------------------------------------------------------------------------------------------
    def key(self, stage: str) -> str:
        """The key of a stage's result. Inputs whose content is not known are made first."""
        found = STAGES[stage]
        if found.skipped(self.trial):
            return self.key(found.inputs[0])
        for name in found.inputs:
            self.stands(name)
        self._known(stage)
        return self._keys[stage]

    def stands(self, stage: str) -> str:
        if self._known(stage) is None:
            self.key(stage)
            self.result(stage)
        found = self._known(stage)
        assert found is not None
        return found

    def contents(self) -> dict[str, str]:
        """The known content hashes of this trial's stages, by key."""
        known = self.maker.contents
        return {key: known[key] for key in self._keys.values() if key in known}

    def _known(self, name: str) -> str | None:
        """As ``stands``; None if something must be made to know it."""
        if name in self._stands:
            return self._stands[name]
        stage, contents = STAGES[name], self.maker.contents
        if stage.skipped(self.trial):
            return self._known(stage.inputs[0])
        if name not in self._keys:
            inputs = [self._known(before) for before in stage.inputs]
            told = [before for before in inputs if before is not None]
            if len(told) < len(inputs):
                return None
            self._keys[name] = self.maker.key(stage, self.trial, told)
        found: str | None = self._keys[name]
        if stage.content:
            key = self._keys[name]
            # the cache is asked only once, since a missing result is then made here
            found = contents.get(key) if name in self._missing else self.maker.content(stage, key)
        if found is None:
            self._missing.add(name)
        else:
            self._stands[name] = found
        return found

    # -- results -----------------------------------------------------------------------------------------------------
    def _anew(self, stage: Stage) -> bool:
        return self.bench.measure is not None and stage.measured

    def _there(self, stage: Stage) -> bool:
        """Whether the result is in memory or in the cache, without checking whether it can be loaded."""
        self._known(stage.name)
        key = self._keys.get(stage.name)
        if key is None or self._anew(stage) or stage.skipped(self.trial):
            return False
        return self.bench.memory.has(stage.name, key) or self.bench.cache.has(stage.place, key)

    def _obtain(self, stage: Stage) -> Any:
        key, memory, contents = self.key(stage.name), self.bench.memory, self.maker.contents
        if self._anew(stage):
            found = self._make(stage, key, None)
            contents.update(self._contents)
            return found
        if memory.has(stage.name, key):
            self.watch.hit(stage.shown(self.trial))
        found = memory.find(stage.name, key, lambda: self._looked_up(stage, key), stage.memory)
        content = self._contents.get(key)
        if content is not None and contents.setdefault(key, content) != content:
            contents[key] = content
            raise Moved
        return found

    def _looked_up(self, stage: Stage, key: str) -> Any:
        """The result from the cache; or it is made and stored there."""
        cache, networks = self.bench.cache, {}

        def load(entry: Entry) -> Any:
            if stage.load is None or not unchanged(entry.meta.get("networks", {})):
                raise ValueError("it was made of other networks")
            if stage.content:
                self._contents[key] = entry.meta["content"]
            return (stage.load(entry.path, entry.meta["result"], self.bench.device),)

        def make(workdir: Path | None) -> tuple[Any]:
            with networks_read() as read:
                found = self._make(stage, key, workdir)
            networks.update(read)
            return (found,)

        def meta(found: tuple[Any]) -> dict[str, Any]:
            content = {"content": self._contents[key]} if stage.content else {}
            return {"result": stage.meta(*found), **content} | ({"networks": networks} if networks else {})

        def write(found: tuple[Any], path: Path) -> None:
            assert stage.save is not None
            stage.save(*found, path)

        save = None if stage.save is None else write
        if stage.load is None:  # only its JSON is cached
            found, hit = make(None), False
            if cache.peek(stage.place, key) != meta(found):
                cache.drop(stage.place, key)
                cache.put(stage.place, key, meta(found))
        else:
            checkpoints = bool(stage.checkpoints and getattr(self.trial, stage.checkpoints))
            options = {"checkpoints": checkpoints, "alone": stage.alone, "filed": stage.filed}
            found, hit = cache.once(stage.place, key, load=load, make=make, save=save, meta=meta, **options)
        if hit:
            self.watch.hit(stage.shown(self.trial))
        return found[0]

    def _make(self, stage: Stage, key: str, workdir: Path | None) -> Any:
        before, self.workdir = self.workdir, workdir
        found = stage.make(self)
        self.workdir = before
        if stage.hashed is not None:
            self._contents[key] = stage.hashed(found)
        return found


class Workbench(Bench):
    """Runs trials on one device, one after another; what they share is kept between them."""

    def __init__(
        self,
        registry: Registry,
        cache: Cache,
        device: torch.device,
        *,
        measure: Measure | None = None,
        on_stage: Callable[[str, float], None] | None = None,
        decoder: Decoder | None = None,
    ) -> None:
        """decoder: a running one, which the caller closes; None: start one. on_stage: see ``Watch``."""
        self._closing = contextlib.ExitStack()
        folder = self._closing.enter_context(tempfile.TemporaryDirectory(prefix="nqbench-file-"))
        if decoder is None:
            decoder = self._closing.enter_context(contextlib.closing(Decoder()))
        super().__init__(registry, cache, device, decoder, Path(folder), measure)
        self.on_stage = on_stage or (lambda stage, since: None)
        self.maker = KeyMaker(registry, device.type, cache)

    def run(self, trial: Trial, folder: Path) -> dict[str, Any]:
        """The trial's figures under the names of a record's fields; its file is ``folder / <key>.nqz``.

        Raises whatever a plugin raised, or BadInput where what it returned cannot be used.
        """
        peak, watch = Peak(self.device), Watch(on_stage=self.on_stage)
        measured = self.measure is not None

        def whole(work: Work) -> dict[str, Any]:
            judge_float(work)
            evaluations: list[str] = []
            if metric_of(work) is not None:
                evaluations += ["evaluate_float", "evaluate"] if trial.tested else []
                evaluations += ["evaluate_float_selected", "evaluate_selected"] if trial.looked_at else []
            work.forward(["file", *evaluations, *(["loss"] if trial.loss_increase else [])])
            filed = work.result("file")
            figures = {**filed.figures, **metrics(work), "device": str(self.device)}
            figures["threads"] = torch.get_num_threads()
            if trial.loss_increase:
                figures["loss_increase"] = work.result("loss")
            key = self.maker.keys(trial).trial
            data = filed.path.read_bytes()
            figures["file_sha256"] = hashlib.sha256(data).hexdigest()
            put_file(data, file_of(key, folder))
            if not measured:
                # whoever takes it from the cache has not computed it
                self.cache.put(TRIAL, key, {**figures, "environment": environment(str(self.device))})
            return figures

        figures = self._on(trial, watch, whole)
        return figures | {
            "seconds": watch.seconds,
            "samples": watch.samples,
            "cached": watch.cached,
            "measured": measured,
            "peak_bytes": peak.bytes(),
        }

    def stage(self, trial: Trial, name: str) -> dict[str, Any]:
        """One stage of a trial, and those before it as far as they are needed.

        ``key``: under which the cache has its result. ``contents``: of what the trial's keys hold the content of, by
        the keys that gave it (``KeyMaker.contents``). ``seconds`` and ``cached`` as a record has them.
        """
        watch = Watch(on_stage=self.on_stage)

        def one(work: Work) -> dict[str, Any]:
            work.forward([name])
            work.stands(name)
            if name == NETWORK:
                judge_float(work)
            return {"key": work.key(name), "contents": work.contents()}

        return self._on(trial, watch, one) | {"seconds": watch.seconds, "cached": watch.cached}

    def knob(self, trial: Trial) -> Knob | None:
        """The knob of the trial's method, with its range on the trial's own weights; None if it has none."""

        def ask(work: Work) -> Knob | None:
            work.forward(["knob"])
            found: Knob | None = work.result("knob")
            return found

        return self._on(trial, Watch(on_stage=self.on_stage), ask)

    def _on(self, trial: Trial, watch: Watch, do: Callable[[Work], T]) -> T:
        for _ in range(_TRIES):
            with contextlib.suppress(Moved):
                return do(Work(trial, self, watch, self.maker))
        return do(Work(trial, self, watch, self.maker))

    def close(self) -> None:
        self._closing.close()
