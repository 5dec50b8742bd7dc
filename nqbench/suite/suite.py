"""A suite that is read, validated and expanded into trials."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nqbench.api.engine import Resources
from nqbench.api.model import Model
from nqbench.api.toolkit.paths import set_suite_folder
from nqbench.pipeline.chain import PLACES
from nqbench.pipeline.trial import Choice, Trial
from nqbench.registry import Registry, did_you_mean
from nqbench.registry import registry as installed
from nqbench.results.labels import first_name
from nqbench.suite.document import Document, KeyPath, SuiteError, dump, read
from nqbench.suite.entries import Reader
from nqbench.suite.find import called, find, shipped
from nqbench.suite.grid import Dropped, Expansion, Grid
from nqbench.suite.matching import matcher, only
from nqbench.suite.overrides import apply_profile, apply_sets
from nqbench.suite.published import PublishedRow, published_rows
from nqbench.suite.schedule import GridSchedule, Schedule
from nqbench.suite.search import TargetSchedule
from nqbench.suite.spec import Axes, Measure, SuiteSpec, Target, Thresholds, check_shape
from nqbench.suite.vocabulary import Vocabulary


@dataclass(frozen=True)
class Suite:
    """name: of the suite, as records carry it. path: its file. text: YAML that gives this very suite, overrides and
    all. dropped: combinations of the axes that became no trial. timeout: seconds that a trial (``trial``)
    and each of its stages may take. resources: what a trial needs. folder: where relative paths are looked for;
    None: the folder of the suite's file, or of a shipped suite the working folder."""

    name: str
    path: Path
    text: str
    question: str = ""
    takes: str = ""
    published: tuple[PublishedRow, ...] = ()
    measure: Measure | None = None
    timeout: Mapping[str, float] = field(default_factory=dict)
    target: Target | None = None
    thresholds: Thresholds | None = None
    resources: Resources = field(default_factory=Resources)
    dropped: tuple[Dropped, ...] = ()
    all_trials: tuple[Trial, ...] = ()
    folder: Path | None = None

    def use_its_folder(self) -> None:
        """From now on, relative paths are looked for in the suite's folder."""
        own = None if self.path in shipped().values() else self.path.parent
        set_suite_folder(own if self.folder is None else self.folder)

    def trials(self, only: Sequence[str] = ()) -> tuple[Trial, ...]:
        """The trials, those that share work together; of a suite with a target: its methods, as they stand.

        only: filters ``axis=value,...``; BadInput if none is left.
        """
        return select(self.all_trials, only)

    def schedule(self, only: Sequence[str] = (), registry: Registry | None = None) -> Schedule:
        """The schedule of a run: the whole grid, or a search if the suite has a target."""
        trials = self.trials(only)
        if self.target is None:
            return GridSchedule(trials)
        return TargetSchedule(trials, self.target, installed() if registry is None else registry)


def select(trials: tuple[Trial, ...], filters: Sequence[str]) -> tuple[Trial, ...]:
    """The trials that ``--only`` keeps; all of them without a filter."""
    if not filters:
        return trials
    vocabulary = Vocabulary(installed(), "--only")
    modern = vocabulary.filters(filters)
    vocabulary.tell()
    return only(trials, modern)


def load(
    path_or_name: str | Path,
    *,
    profile: str | None = None,
    sets: Sequence[str] = (),
    registry: Registry | None = None,
    folder: Path | None = None,
) -> Suite:
    """Read and validate a suite file, or a shipped suite by name, and expand it into trials.

    profile, sets: as on the command line. folder: of relative paths, where it is not the suite file's.
    Raises SuiteError with file, line and key.
    """
    registry = installed() if registry is None else registry
    path = find(path_or_name)
    document, text = read(path)
    vocabulary = Vocabulary(registry, document.source)
    vocabulary.document(document)
    if profile is not None:
        apply_profile(document, profile)
    if sets:
        apply_sets(document, sets, vocabulary)
        vocabulary.document(document)
    vocabulary.tell()
    spec = check_shape(document)
    expansion = _expand(spec, Reader(document, registry))
    try:
        expansion.check()
    except SuiteError as error:
        raise SuiteError(f"{document.source}: {error}") from None
    trials = expansion.ordered()
    if not trials:
        reasons = "; ".join(f"{d.count} x {d.reason}" for d in expansion.reasons() if d.count)
        raise SuiteError(f"{document.source}: no trial is left: {reasons}")
    suite = Suite(
        name=spec.name or path.stem,
        path=path,
        text=_as_run(document, text, profile, sets),
        question=spec.question,
        takes=spec.takes,
        published=published_rows(document, spec.published, path),
        measure=spec.measure,
        timeout=_deadlines(spec.timeout, document),
        target=_with_baseline(spec.target, document, trials),
        thresholds=_checked(spec.thresholds, document, trials, registry),
        resources=spec.resources.resources(),
        dropped=expansion.reasons(),
        all_trials=trials,
        folder=folder,
    )
    suite.use_its_folder()
    return suite


def metrics_of(trials: Sequence[Trial], registry: Registry) -> list[str]:
    """The names of the metrics that the models of these trials have."""
    models = [choice.make(registry) for choice in dict.fromkeys(trial.model for trial in trials)]
    return [metric.name for model in models if isinstance(model, Model) for metric in model.metrics()]


def _checked(
    thresholds: Thresholds | None, document: Document, trials: Sequence[Trial], registry: Registry
) -> Thresholds | None:
    """The thresholds, or a SuiteError where they name a metric that no model of the suite has."""
    named = [] if thresholds is None else list(thresholds.metrics)
    known = metrics_of(trials, registry) if named else []
    for name in named:
        if name not in known:
            hint = did_you_mean(name, known) or "; its models have none"
            raise document.error(
                ("thresholds", "metrics", name), f"no model of the suite has the metric '{name}'{hint}"
            )
    return thresholds


def _with_baseline(target: Target | None, document: Document, trials: Sequence[Trial]) -> Target | None:
    """The target, or a SuiteError where no method of the suite is called as its baseline."""
    if target is None or target.baseline is None:
        return target
    known = list(dict.fromkeys(choice.name for trial in trials for choice in trial.choices() if choice.kind != "model"))
    if first_name(target.baseline) not in known:
        hint = did_you_mean(target.baseline, known)
        raise document.error(("target", "baseline"), f"no method of the suite is called '{target.baseline}'{hint}")
    return target


def _deadlines(timeout: Mapping[str, float], document: Document) -> Mapping[str, float]:
    """Seconds by stage, or a SuiteError for a stage that there is not."""
    for name in timeout:
        if name not in PLACES:
            raise document.error(("timeout", name), f"unknown stage '{name}'{did_you_mean(name, list(PLACES))}")
    return timeout


def _expand(spec: SuiteSpec, reader: Reader) -> Expansion:
    """The union of the suite's own grid and the included ones, less what is excluded."""
    document = reader.document
    expansion = Expansion(reader.registry)
    own = {key: getattr(spec, key) for key in Axes.model_fields}
    if not spec.include or _whole(own):
        expansion.add(_grid(reader, own, dict.fromkeys(own, ())))
    listed = document.has(("include", 0))
    for index, part in enumerate(spec.include):
        at: KeyPath = ("include", index) if listed else ("include",)
        overridden = {key: getattr(part, key) for key in part.model_fields_set}
        roots: dict[str, KeyPath] = {key: at if key in overridden else () for key in own}
        expansion.add(_grid(reader, own | overridden, roots))
    listed = document.has(("exclude", 0))
    for index, wanted in enumerate(spec.exclude):
        test = matcher(reader, ("exclude", index) if listed else ("exclude",), wanted)
        expansion.exclude(f"excluded by exclude[{index}]", test)
    return expansion


def _whole(axes: dict[str, Any]) -> bool:
    """Whether the axes say enough for a grid."""
    return axes["models"] is not None and (axes["quantizers"] is not None or axes["codecs"] is not None)


def _grid(reader: Reader, axes: dict[str, Any], roots: dict[str, KeyPath]) -> Grid:
    """Look up the plugins of one grid. roots: under which path of the document each axis was written."""
    document: Document = reader.document
    if axes["models"] is None:
        raise document.error(roots["models"], "'models' is required: the networks to compress")
    if not _whole(axes):
        raise document.error(roots["quantizers"], "'quantizers' (or 'codecs') is required: the methods to compare")

    def each_once(values: list[Any]) -> list[Any]:
        return list(dict.fromkeys(values))

    def at(axis: str) -> KeyPath:
        return (*roots[axis], axis)

    def chosen(axis: str, kind: str) -> list[Choice]:
        return [c for c in reader.choices(kind, at(axis), axes[axis] or ()) if c is not None]

    pruners = reader.choices("pruner", at("pruners"), axes["pruners"])
    codes = axes["quantizers"] is not None
    # a default that nothing needs is not looked up: a suite without pruning works without any positions installed
    writes_positions = codes and (any(pruners) or document.has(at("positions")))
    positions: list[Choice | None] = [*chosen("positions", "positions")] if writes_positions else [None]
    return Grid(
        models=chosen("models", "model"),
        pruners=pruners,
        sensitivities=reader.choices("sensitivity", at("sensitivities"), axes["sensitivities"]),
        granularities=each_once(axes["granularities"]),
        quantizers=chosen("quantizers", "quantizer"),
        trainings=reader.chains(at("trainings"), axes["trainings"]),
        positions=positions,
        coders=chosen("coders", "coder") if codes else (),
        codecs=chosen("codecs", "codec"),
        streams=each_once(axes["streams"]),
        seeds=each_once(axes["seeds"]),
        unquantized=each_once(axes["unquantized"]),
        fold_batchnorm=each_once(axes["fold_batchnorm"]),
        loss_increase=axes["loss_increase"],
        nonfinite=axes["nonfinite"],
        judged_by=axes["judged_by"],
    )


def _as_run(document: Document, text: str, profile: str | None, sets: Sequence[str]) -> str:
    """The text of the file; if the command line changed the suite, YAML of the changed suite."""
    if profile is None and not sets:
        return text
    options = [f"--profile {profile}"] if profile is not None else []
    options += [f"--set {item}" for item in sets]
    data = {key: value for key, value in document.data.items() if key != "profiles"}
    return f"# {called(document.source)} with {' '.join(' '.join(options).split())}\n{dump(data)}"
