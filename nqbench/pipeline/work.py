"""A trial on its way through the chain: each stage's result from the worker's memory, from the cache, or made."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypeVar

from nqbench.api.toolkit.store import networks_read, unchanged
from nqbench.pipeline.cache import Entry
from nqbench.pipeline.chain import HOW, How
from nqbench.pipeline.context import Context, Surroundings, Watch
from nqbench.pipeline.keys import KeyMaker
from nqbench.suite.chain import STAGES, Stage
from nqbench.suite.trial import Choice, Trial

T = TypeVar("T")


class Moved(Exception):
    """A network is another than was known when keys were made of it: they are made again, of what it is."""


class Work(Context):
    """One trial. Inputs and outputs of its stages are keys and results, nothing else."""

    def __init__(self, trial: Trial, around: Surroundings, watch: Watch, maker: KeyMaker) -> None:
        super().__init__(trial, around, watch)
        self.maker = maker
        self._keys: dict[str, str] = {}
        self._stands: dict[str, str] = {}
        self._missing: set[str] = set()
        self._results: dict[str, Any] = {}
        self._contents: dict[str, str] = {}

    def forward(self, goals: Iterable[str]) -> None:
        """Obtain the results of some stages, and before them those that they are made from, in the chain's order."""
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

    def result(self, stage: str) -> Any:
        if stage not in self._results:
            found = STAGES[stage]
            skipped = found.skipped(self.trial)
            self._results[stage] = self.result(found.inputs[0]) if skipped else self._obtain(found, HOW[stage])
        return self._results[stage]

    # -- keys --------------------------------------------------------------------------------------------------------
    def key(self, stage: str) -> str:
        """The key of a stage's result; what it takes is made where its content is not known."""
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
        """The contents that are known of stages on the way, by their keys."""
        known = self.maker.contents
        return {key: known[key] for key in self._keys.values() if key in known}

    def _known(self, name: str) -> str | None:
        """``stands``, as far as that is known without making anything."""
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
            # the cache is asked once: what it lacks is made here
            found = contents.get(key) if name in self._missing else self.maker.content(stage, key)
        if found is None:
            self._missing.add(name)
        else:
            self._stands[name] = found
        return found

    # -- results -----------------------------------------------------------------------------------------------------
    def _anew(self, stage: Stage) -> bool:
        return self.around.measure is not None and stage.measured

    def _there(self, stage: Stage) -> bool:
        """Whether the result need not be made, as far as can be told without looking into it."""
        self._known(stage.name)
        key = self._keys.get(stage.name)
        if key is None or self._anew(stage) or stage.skipped(self.trial):
            return False
        return self.around.memory.has(stage.name, key) or self.around.cache.has(stage.place, key)

    def _obtain(self, stage: Stage, how: How) -> Any:
        key, memory, contents = self.key(stage.name), self.around.memory, self.maker.contents
        if self._anew(stage):
            found = self._make(stage, how, key, None)
            contents.update(self._contents)
            return found
        if memory.has(stage.name, key):
            self.watch.hit(stage.shown(self.trial))
        found = memory.find(stage.name, key, lambda: self._looked_up(stage, how, key), how.most)
        content = self._contents.get(key)
        if content is not None and contents.setdefault(key, content) != content:
            contents[key] = content
            raise Moved
        return found

    def _looked_up(self, stage: Stage, how: How, key: str) -> Any:
        """From the cache, or made and kept there."""
        cache, networks = self.around.cache, {}

        def load(entry: Entry) -> Any:
            if how.load is None or not unchanged(entry.meta.get("networks", {})):
                raise ValueError("it was made of other networks")
            if stage.content:
                self._contents[key] = entry.meta["content"]
            return (how.load(entry.path, entry.meta["result"], self.around.device),)

        def make(workdir: Path | None) -> tuple[Any]:
            with networks_read() as read:
                found = self._make(stage, how, key, workdir)
            networks.update(read)
            return (found,)

        def meta(found: tuple[Any]) -> dict[str, Any]:
            content = {"content": self._contents[key]} if stage.content else {}
            return {"result": how.meta(*found), **content} | ({"networks": networks} if networks else {})

        def write(found: tuple[Any], path: Path) -> None:
            assert how.save is not None
            how.save(*found, path)

        save = None if how.save is None else write
        if how.load is None:  # the cache has what is said of it, no more
            found, hit = make(None), False
            if cache.peek(stage.place, key) != meta(found):
                cache.drop(stage.place, key)
                cache.put(stage.place, key, meta(found))
        else:
            checkpoints = bool(how.checkpoints and getattr(self.trial, how.checkpoints))
            options = {"checkpoints": checkpoints, "alone": how.alone}
            found, hit = cache.once(stage.place, key, load=load, make=make, save=save, meta=meta, **options)
        if hit:
            self.watch.hit(stage.shown(self.trial))
        return found[0]

    def _make(self, stage: Stage, how: How, key: str, workdir: Path | None) -> Any:
        before, self.workdir = self.workdir, workdir
        found = how.make(self)
        self.workdir = before
        if how.content is not None:
            self._contents[key] = how.content(found)
        return found
