"""Makes the content keys of a trial's stages from names, parameters, code, and the contents of networks as far as they
are known. Nothing is loaded or computed."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from nqbench.api.coder import Positions
from nqbench.api.model import Model
from nqbench.api.plugin import Plugin
from nqbench.api.quantizer import Knob
from nqbench.api.toolkit.store import unchanged
from nqbench.pipeline.cache import Cache
from nqbench.pipeline.chain import CHAIN, KNOB, STAGES, walk
from nqbench.pipeline.fingerprint import code_of, digest, library_versions, packages_of, version_of
from nqbench.pipeline.knobs import from_json
from nqbench.pipeline.stage import TRIAL, Stage, reads
from nqbench.pipeline.trial import Choice, Trial
from nqbench.registry import Registry


@dataclass(frozen=True)
class Keys:
    """stages: the key of each stage that the trial does not skip. stands: the text that represents each stage's result
    in the keys of later stages. trial: the key of the record. waits: the key of the first stage whose result's content
    is not known yet; until it is, the keys of later stages are provisional."""

    stages: Mapping[str, str]
    stands: Mapping[str, str]
    trial: str
    waits: str | None = None

    @property
    def affinity(self) -> tuple[str, ...]:
        """Trials with equal values should run on the same worker; the most shared value is first."""
        return tuple(self.stands[stage.name] for stage in CHAIN if stage.stays)


class KeyMaker:
    """Makes the keys of many trials for one type of device. Each plugin is made and fingerprinted once."""

    def __init__(self, registry: Registry, device_type: str, cache: Cache) -> None:
        self.registry = registry
        self.cache = cache
        self.contents: dict[str, str] = {}
        # the versions and the code that the core computes with
        base = [library_versions(), device_type]
        self._stages = {
            name: digest(stage.place, base, code_of(stage.make.__module__, ("nqbench",)))
            for name, stage in STAGES.items()
        }
        self._plugins: dict[Choice, Plugin] = {}
        self._said: dict[tuple[Choice, int | None], str] = {}
        self._codes: dict[type[Plugin], str] = {}
        self._own: dict[tuple[object, ...], str] = {}

    def plugin(self, choice: Choice) -> Plugin:
        if choice not in self._plugins:
            self._plugins[choice] = choice.make(self.registry)
        return self._plugins[choice]

    def recipe(self, trial: Trial) -> str:
        """A hash of names, parameters and code only. Two processes that run the same trial must agree on it."""
        return digest(walk(trial, lambda stage, inputs: self.key(stage, trial, inputs), lambda stage, key, _: key)[0])

    def knob(self, trial: Trial) -> Knob | Literal["unknown"] | None:
        """The knob of a trial's method, if the cache has it."""
        key = self.keys(trial)
        found = self.cache.peek(KNOB.place, self.key(KNOB, trial, [key.stands[name] for name in KNOB.inputs]))
        return "unknown" if found is None else from_json(found["result"])

    def keys(self, trial: Trial) -> Keys:
        unknown = []

        def content(stage: Stage, key: str, _: list[str]) -> str:
            if stage.measured:  # a trial's key contains how its file is made, not what it decodes to
                return key
            found = self.content(stage, key)
            if found is None:
                unknown.append(key)
            return found or key

        keys, stands = walk(trial, lambda stage, inputs: self.key(stage, trial, inputs), content)
        judged = [] if trial.judged_by is None else [trial.judged_by]
        return Keys(keys, stands, digest(TRIAL, keys, *judged), unknown[0] if unknown else None)

    def key(self, stage: Stage, trial: Trial, inputs: list[str]) -> str:
        """The key of a stage. inputs: the texts that represent its inputs."""
        own = (stage.name, *stage.fields(trial))
        if own not in self._own:
            choices, options = reads(stage, trial, self.registry)
            named = (self.plugin(c) for c in (getattr(trial, name) for name in stage.origins) if c is not None)
            origins = [self.registry.distribution_of(plugin) for plugin in named]
            said = [self._say(*choice) for choice in choices]
            self._own[own] = digest(self._stages[stage.name], said, options, origins)
        return hashlib.sha256(" ".join([self._own[own], *inputs]).encode()).hexdigest()

    def content(self, stage: Stage, key: str) -> str | None:
        """The hash of a stage's result, if it is known: it was made here, or the cache has it and the stored networks
        that it was made from have not changed."""
        if key not in self.contents:
            meta = self.cache.peek(stage.place, key)
            if meta is None or not unchanged(meta.get("networks", {})):
                return None
            self.contents[key] = meta["content"]
        return self.contents[key]

    def _say(self, choice: Choice, seed: int | None) -> str:
        """A digest of a plugin for a key: name, parameters, code, the fingerprint of a model, and the seed if it is
        used."""
        if (choice, seed) not in self._said:
            plugin = self.plugin(choice)
            beside = plugin.fingerprint() if isinstance(plugin, Model) else ""
            if isinstance(plugin, Positions) and plugin.coder is not None:
                beside = self._say(Choice.of(self.registry.make("coder", plugin.coder)), None)
            if (asked := self.registry.sensitivity_of(plugin)) is not None:
                beside = self._say(Choice.of(asked), seed)
            said = (choice.kind, choice.name, choice.json, self._code(type(plugin)), beside, seed)
            self._said[choice, seed] = digest(*said)
        return self._said[choice, seed]

    def _code(self, cls: type[Plugin]) -> str:
        """A digest of the code of a plugin class: of its module and those of its base classes, and of the versions
        of the libraries that it says it computes with."""
        if cls not in self._codes:
            distribution = self.registry.distribution_of(cls)[0]
            modules = sorted({base.__module__ for base in cls.__mro__ if issubclass(base, Plugin)})
            codes = [(m, code_of(m, packages_of(distribution, m))) for m in modules]
            libraries = [version_of(name) for name in (cls.requires, *cls.computes_with) if name]
            self._codes[cls] = digest(codes, cls.__qualname__, *libraries)
        return self._codes[cls]
