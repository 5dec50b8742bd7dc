"""From axes to trials: leaves out impossible combinations, and puts trials that share work next to each other."""

from __future__ import annotations

import itertools
import json
import math
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from operator import itemgetter
from typing import Any, Literal, cast

from nqbench.api.coder import Positions
from nqbench.api.quantizer import Quantizer
from nqbench.api.sensitivity import Sensitivity
from nqbench.api.training import Training
from nqbench.pipeline.chain import shares
from nqbench.pipeline.stage import uses_seed
from nqbench.pipeline.trial import Choice, Nonfinite, Trial, Unquantized
from nqbench.registry import Registry
from nqbench.suite.document import SuiteError

MOST_COMBINATIONS = 1_000_000
"""Of one grid: as many take a minute and gigabytes."""
_ASIDE = ("loss_increase", "nonfinite", "judged_by")
"""What a suite says once for a network, and no configuration is told by."""


@dataclass(frozen=True)
class Dropped:
    """How many combinations of the axes became no trial, and why."""

    count: int
    reason: str


@dataclass(frozen=True)
class Grid:
    """The axes of one grid, each a list of what it varies over. None: no plugin of that kind."""

    models: Sequence[Choice]
    pruners: Sequence[Choice | None]
    sensitivities: Sequence[Choice | None]
    granularities: Sequence[Literal["global", "layer"]]
    quantizers: Sequence[Choice]
    trainings: Sequence[tuple[Choice, ...]]
    positions: Sequence[Choice | None]
    coders: Sequence[Choice]
    codecs: Sequence[Choice]
    streams: Sequence[Literal["auto", "joint", "per-tensor"]]
    seeds: Sequence[int]
    unquantized: Sequence[Unquantized]
    fold_batchnorm: Sequence[bool]
    loss_increase: bool
    nonfinite: Nonfinite = "refuse"
    judged_by: str | None = None

    @property
    def size(self) -> int:
        """How many combinations it has, possible or not."""
        common = (self.models, self.pruners, self.seeds, self.unquantized, self.fold_batchnorm)
        methods = (self.sensitivities, self.granularities, self.quantizers, self.trainings, self.positions)
        writing = (self.streams, self.coders)
        each = math.prod(map(len, (*methods, *writing))) + len(self.codecs)
        return math.prod(map(len, common)) * each


@dataclass
class Expansion:
    """Collects trials, each once, and counts what was left out and why."""

    registry: Registry
    trials: dict[Trial, None] = field(default_factory=dict)
    dropped: Counter[str] = field(default_factory=Counter)
    _dimensions: dict[Choice, int] = field(default_factory=dict)

    def add(self, grid: Grid) -> None:
        """Add the trials of one grid. Raises SuiteError where it has more combinations than can be planned."""
        if (count := grid.size) > MOST_COMBINATIONS:
            raise SuiteError(
                f"the suite stands for {count:,} combinations, and at most {MOST_COMBINATIONS:,} can be planned: "
                "give fewer values, or make several suites of it"
            )
        before = set(self.trials)
        for trial in itertools.chain(self._quantizer_trials(grid), self._codec_trials(grid)):
            if reason := self._impossible(trial):
                self.dropped[reason] += 1
                continue
            settled = self._settled(trial)
            if settled in before:
                self.dropped["the suite has the same trial already"] += 1
            elif settled in self.trials:
                self.dropped[_why_repeated(trial, grid)] += 1
            self.trials[settled] = None

    def exclude(self, reason: str, matches: Callable[[Trial], bool]) -> None:
        """Remove the trials that match. A matcher without a match is reported too, since it may be a mistake."""
        out = [trial for trial in self.trials if matches(trial)]
        for trial in out:
            del self.trials[trial]
        self.dropped[reason] += len(out)

    def check(self) -> None:
        """Raises SuiteError where two trials differ in nothing but what a leaderboard does not tell apart: it would
        take them for repeats, and their figures' mean for a figure."""
        if len({tuple(getattr(trial, name) for name in _ASIDE) for trial in self.trials}) < 2:
            return
        seen: dict[Trial, Trial] = {}
        for trial in self.trials:
            first = seen.setdefault(replace(trial, loss_increase=False, nonfinite="refuse", judged_by=None), trial)
            if first != trial:
                name = next(name for name in _ASIDE if getattr(first, name) != getattr(trial, name))
                values = " and ".join(json.dumps(getattr(t, name)) for t in (first, trial))
                raise SuiteError(
                    f"the suite has trials on model '{trial.model.name}' that differ in nothing but '{name}' "
                    f"({values}): give it one value for a model, or make two suites of it"
                )

    def ordered(self) -> tuple[Trial, ...]:
        """Trials that share work are next to each other; otherwise the order is that of the suite."""
        places: list[tuple[int, ...]] = []
        seen: dict[tuple[str, Hashable], int] = {}
        for trial in self.trials:
            work = shares(trial, self.registry).items()
            places.append(tuple(seen.setdefault(part, len(seen)) for part in work))
        return tuple(trial for _, trial in sorted(zip(places, self.trials, strict=True), key=itemgetter(0)))

    def reasons(self) -> tuple[Dropped, ...]:
        return tuple(Dropped(count, reason) for reason, count in self.dropped.items())

    def _quantizer_trials(self, g: Grid) -> Iterator[Trial]:
        axes = (g.models, g.pruners, g.sensitivities, g.granularities, g.quantizers, g.trainings)
        writing = (g.seeds, g.positions, g.streams, g.coders, g.unquantized, g.fold_batchnorm)
        for values in _product(*axes, *writing):
            model, pruner, sensitivity, granularity, quantizer, training = values[: len(axes)]
            seed, positions, streams, coder, unquantized, fold = values[len(axes) :]
            yield Trial(
                model, quantizer, coder, None, pruner, sensitivity, granularity, training, positions, streams, seed,
                unquantized, fold, g.loss_increase, g.nonfinite, judged_by=g.judged_by,
            )  # fmt: skip

    def _codec_trials(self, g: Grid) -> Iterator[Trial]:
        """A codec stands for sensitivity, granularity, quantizer, positions and coder."""
        for values in _product(g.models, g.pruners, g.codecs, g.seeds, g.unquantized, g.fold_batchnorm):
            model, pruner, codec, seed, unquantized, fold = values
            yield Trial(
                model, codec=codec, pruner=pruner, seed=seed, unquantized=unquantized, fold_batchnorm=fold,
                loss_increase=g.loss_increase, nonfinite=g.nonfinite, judged_by=g.judged_by,
            )  # fmt: skip

    def _impossible(self, trial: Trial) -> str:
        """Why the combination is impossible; empty if it is possible."""
        if trial.quantizer is None:
            return ""
        quantizer = cast(type[Quantizer], self.registry.get("quantizer", trial.quantizer.name))
        form = "none"
        if trial.sensitivity is not None:
            form = cast(type[Sensitivity], self.registry.get("sensitivity", trial.sensitivity.name)).form
        if form not in quantizer.takes:
            given = f"sensitivity '{trial.sensitivity.name}' ({form})" if trial.sensitivity else "no sensitivity"
            return f"quantizer '{quantizer.name}' takes {_either(quantizer.takes)}, not {given}"
        for choice in trial.training:
            wanted = cast(type[Training], self.registry.get("training", choice.name)).quantizers
            if wanted and quantizer.name not in wanted:
                return (
                    f"training '{choice.name}' works with quantizer {' or '.join(sorted(wanted))}, not {quantizer.name}"
                )
        if self._dimension(trial.quantizer) > 1:
            of = f"a symbol of '{quantizer.name}' stands for {self._dimension(trial.quantizer)} weights"
            if trial.pruner is not None and trial.positions is not None:
                positions = cast(type[Positions], self.registry.get("positions", trial.positions.name))
                if positions.merges:
                    return f"positions '{positions.name}' are merged into the symbols, and {of}: take gaps or bitmap"
            if trial.streams == "per-tensor" and trial.granularity == "global":
                return f"streams 'per-tensor' need granularity 'layer': {of}"
        return ""

    def _dimension(self, choice: Choice) -> int:
        """Weights per symbol."""
        if choice not in self._dimensions:
            self._dimensions[choice] = cast(Quantizer, choice.make(self.registry)).dimension()
        return self._dimensions[choice]

    def _settled(self, trial: Trial) -> Trial:
        """The trial without what has no meaning for it: positions if nothing is pruned, a seed that no plugin uses."""
        if trial.pruner is None:
            trial = replace(trial, positions=None)
        if not any(uses_seed(choice, self.registry) for choice in trial.choices()):
            trial = replace(trial, seed=None)
        return trial


def _why_repeated(trial: Trial, grid: Grid) -> str:
    """Within one grid, only a position or a seed without a meaning makes two combinations the same trial."""
    if trial.pruner is None and trial.positions != grid.positions[0]:
        return "nothing is pruned: there are no positions to write"
    return "deterministic: no seed changes it, so one trial stands for all"


def _either(forms: Iterable[str]) -> str:
    return " or ".join("no sensitivity" if form == "none" else form for form in sorted(forms))


def _product(*axes: Sequence[Any]) -> Iterator[tuple[Any, ...]]:
    """itertools.product, untyped."""
    return itertools.product(*axes)
