"""The content keys of a trial's stages, from names, parameters and code alone: nothing is loaded or computed."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

from nqbench.api.coder import Positions
from nqbench.api.model import Model
from nqbench.api.plugin import Plugin
from nqbench.api.quantizer import Quantizer
from nqbench.pipeline.fingerprint import code_of, code_of_module, code_of_package, digest, library_versions
from nqbench.registry import Registry
from nqbench.suite.trial import Choice, Trial
from nqbench.version import __version__

_CORE = {
    "load": (),
    "prune": ("preparation",),
    "sense": ("preparation",),
    "quantize": ("quantization", "distortion", "network"),
    "codec": ("filing",),
    "file": ("filing", "network", "decoder"),
    "evaluate": ("evaluating",),
    "loss": ("evaluating",),
    "knob": ("knobs",),
    "trial": (),
}
"""The modules of this package whose code a stage's result depends on."""


@dataclass(frozen=True)
class Keys:
    """One key a stage; a stage that is skipped has its input's key. ``trial`` names the record."""

    load: str
    prune: str
    sense: str
    quantize: str
    file: str
    trial: str


class KeyMaker:
    """Keys of many trials on one device type; every plugin is made and fingerprinted once."""

    def __init__(self, registry: Registry, device_type: str) -> None:
        self.registry = registry
        # the core's own part: what it computes with, and how it computes
        self.base = [library_versions(), device_type, code_of_package("nqbench.api")]
        self.core = {stage: [code_of_module(f"nqbench.pipeline.{m}") for m in names] for stage, names in _CORE.items()}
        self.core["file"] += [code_of_package("nqbench.container"), __version__]
        self._plugins: dict[Choice, Plugin] = {}
        self._codes: dict[Choice, str] = {}

    def plugin(self, choice: Choice) -> Plugin:
        if choice not in self._plugins:
            self._plugins[choice] = choice.make(self.registry)
        return self._plugins[choice]

    def _code(self, choice: Choice, seed: int | None) -> list[object]:
        """A plugin in a key: name, parameters, code, and the seed only if it uses one."""
        plugin = self.plugin(choice)
        if choice not in self._codes:
            self._codes[choice] = _class_code(type(plugin))
        return [choice.kind, choice.name, choice.json, self._codes[choice], seed if plugin.uses_seed() else None]

    def _stage(self, stage: str, *inputs: object) -> str:
        return digest(stage, self.base, self.core[stage], *inputs)

    def keys(self, trial: Trial) -> Keys:
        def code(choice: Choice | None) -> list[object] | None:
            return None if choice is None else self._code(choice, trial.seed)

        model = self.plugin(trial.model)
        assert isinstance(model, Model)
        load = self._stage("load", code(trial.model), self._fingerprint(trial.model))
        prune = load if trial.pruner is None else self._stage("prune", code(trial.pruner), load)
        sense = prune if trial.sensitivity is None else self._stage("sense", code(trial.sensitivity), prune)
        if trial.codec is not None:
            quantize = self._stage("codec", code(trial.codec), prune)
        else:
            rate = self._rate(trial)
            chain = [code(c) for c in trial.training]
            quantize = self._stage("quantize", code(trial.quantizer), trial.granularity, chain, rate, prune, sense)
        how = [trial.streams, trial.unquantized, trial.fold_batchnorm]
        written = [code(trial.coder), code(trial.positions), code(self._own_coder(trial)), self._origins(trial)]
        file = self._stage("file", *written, how, quantize)
        whole = self._stage("trial", file, trial.loss_increase, *_beside_test(trial.selected_on))
        return Keys(load, prune, sense, quantize, file, whole)

    def _own_coder(self, trial: Trial) -> Choice | None:
        """The coder that the positions name for themselves."""
        positions = None if trial.positions is None else self.plugin(trial.positions)
        if not isinstance(positions, Positions) or positions.coder is None:
            return None
        return Choice.of(self.registry.make("coder", positions.coder))

    def _origins(self, trial: Trial) -> list[tuple[str, str]]:
        """The distributions, with versions, that the file's header names."""
        named = (trial.quantizer, trial.coder, trial.codec, trial.positions)
        return [self.registry.distribution_of(self.plugin(c)) for c in named if c is not None]

    def evaluate(self, trial: Trial, content: str, split: str = "test") -> str:
        """The key of an evaluation: the model's code and data, the split, and the hash of the tensors evaluated."""
        model = [self._code(trial.model, None), self._fingerprint(trial.model)]
        return self._stage("evaluate", *model, content, *_beside_test(split))

    def knob(self, trial: Trial, keys: Keys) -> str:
        """The key of a method's knob: the method with its parameters, and the weights it is for."""
        method = trial.quantizer or trial.codec
        assert method is not None
        rate = None if trial.coder is None else self._rate(trial)
        return self._stage("knob", self._code(method, trial.seed), trial.granularity, rate, keys.prune, keys.sense)

    def _rate(self, trial: Trial) -> list[object] | None:
        """The coder in the key of what is quantized by its rate."""
        assert trial.quantizer is not None
        assert trial.coder is not None
        quantizer = self.plugin(trial.quantizer)
        assert isinstance(quantizer, Quantizer)
        return self._code(trial.coder, trial.seed) if quantizer.uses_rate() else None

    def loss(self, trial: Trial, keys: Keys, content: str) -> str:
        """The key of the predicted and measured loss increase of deployed tensors."""
        return self._stage("loss", self._code(trial.model, None), keys.prune, content)

    def _fingerprint(self, choice: Choice) -> str:
        model = self.plugin(choice)
        assert isinstance(model, Model)
        return _fingerprint(choice, model)


def _beside_test(split: str | None) -> list[str]:
    """A split in a key: every trial is evaluated on the test split, so that alone does not tell trials apart."""
    return [] if split in (None, "test") else [str(split)]


_fingerprints: dict[Choice, str] = {}


def _fingerprint(choice: Choice, model: Model) -> str:
    # once a process: it may hash a large file of weights
    if choice not in _fingerprints:
        _fingerprints[choice] = model.fingerprint()
    return _fingerprints[choice]


@cache
def _class_code(cls: type[Plugin]) -> str:
    """A plugin class's code: its module's, and those of its bases that are not the core's own."""
    modules = {base.__module__ for base in cls.__mro__ if issubclass(base, Plugin)}
    return digest(sorted((m, code_of(m)) for m in modules if not m.startswith("nqbench.api")), cls.__qualname__)
