"""The keys of a suite, their types and their defaults.

Plugins' entries stay as they were written here; ``nqbench.suite.entries`` looks them up.
"""

from __future__ import annotations

import math
import re
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, field_validator, model_validator

from nqbench.api.engine import Resources
from nqbench.pipeline.stage import TRIAL
from nqbench.pipeline.trial import Nonfinite, Unquantized
from nqbench.registry import did_you_mean
from nqbench.results.figure_names import metric_figure
from nqbench.suite.document import Document, KeyPath, SuiteError


def _listed(value: Any) -> Any:
    """A scalar, or one mapping, stands for a list of one."""
    return value if isinstance(value, list) or value is None else [value]


Axis = Annotated[list[Any], BeforeValidator(_listed), Field(min_length=1)]
"""Plugins, or matchers, as written."""

Seeds = Annotated[list[Annotated[int, Field(ge=0, lt=2**63)]], BeforeValidator(_listed), Field(min_length=1)]


_SIZE = re.compile(r"([0-9]*\.?[0-9]+)\s*(?:([kKMGT])?(iB|B)?)")


class Strict(BaseModel):
    # strict: YAML has types of its own, so nothing needs to be guessed from text
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class Axes(Strict):
    """What a suite varies. Every entry of ``include`` overrides some of these."""

    models: Axis | None = None
    pruners: Axis = ["none"]
    sensitivities: Axis = ["none"]
    granularities: Annotated[list[Literal["global", "layer"]], BeforeValidator(_listed), Field(min_length=1)] = [
        "global"
    ]
    quantizers: Axis | None = None
    trainings: Axis = ["none"]
    positions: Axis = ["zero"]
    coders: Axis = ["huffman"]
    codecs: Axis | None = None
    streams: Annotated[list[Literal["auto", "joint", "per-tensor"]], BeforeValidator(_listed), Field(min_length=1)] = [
        "auto"
    ]
    seeds: Seeds = [0]
    unquantized: Annotated[list[Unquantized], BeforeValidator(_listed), Field(min_length=1)] = ["float32"]
    fold_batchnorm: Annotated[list[bool], BeforeValidator(_listed), Field(min_length=1)] = [False]
    loss_increase: bool = False
    nonfinite: Nonfinite = "refuse"
    judged_by: str | None = None


class Measure(Strict):
    """For suites that measure times: the cache is not used, trials run alone, and code is compiled before.

    repeats: the least number of samples of a stage. They are taken in ``rounds`` passes over the trials on one network,
    so that a short disturbance of the machine affects a few samples of many trials. warmup: untimed runs before each
    pass.
    """

    repeats: int = Field(7, ge=1)
    warmup: int = Field(1, ge=0)
    exclusive: bool = True
    rounds: int = Field(1, ge=1)

    @property
    def per_round(self) -> int:
        """Samples of one pass."""
        return -(-self.repeats // self.rounds)


class Target(Strict):
    """What a search for operating points is to hold, one of four: a fall of the metric by at most ``drop`` points, or
    by a ``share`` (percent) of the float network's (``drop: 1%`` says the same); a ``metric`` to reach; or a file of at
    most so many ``bytes``, of which the one with the best metric is wanted. divergence: what that of a file's outputs
    from the float network's may be at most besides, in nats, where the search looks. split: where that is. report:
    whether ``all`` points are evaluated on the test split, or the ``chosen`` ones alone, once, at the end, or ``none``
    (of a model that has no such split)."""

    drop: float | None = Field(None, ge=0)
    share: float | None = Field(None, ge=0)
    metric: float | None = None
    bytes: int | None = Field(None, ge=1)
    divergence: float | None = Field(None, gt=0)
    split: Literal["train", "validation", "test"] = "test"
    report: Literal["all", "chosen", "none"] = "all"
    trials: int = Field(12, ge=1)
    baseline: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _percent(cls, given: Any) -> Any:
        """``drop: 1%`` is ``share: 1``."""
        drop = given.get("drop") if isinstance(given, dict) else None
        if not isinstance(drop, str):
            return given
        number, percent, rest = drop.partition("%")
        try:
            share = float(number)
        except ValueError:
            share = math.nan
        if not percent or rest.strip() or math.isnan(share):
            raise ValueError(f"drop is '{drop}': write points (0.5) or a share of the float network's metric (1%)")
        return {**given, "drop": None, "share": share}

    @model_validator(mode="after")
    def _one_of_them(self) -> Target:
        if sum(goal is not None for goal in (self.drop, self.share, self.metric, self.bytes)) != 1:
            raise ValueError(
                "give one of 'drop' (points, or percent, below the float network), 'metric' (to reach) and 'bytes'"
            )
        if self.report != "all" and self.split == "test":
            when = "only at the end" if self.report == "chosen" else "never"
            raise ValueError(
                f"'report: {self.report}' evaluates the test split {when}: give 'split' another value than 'test'"
            )
        return self

    @property
    def goal(self) -> str:
        """The target in words."""
        besides = "" if self.divergence is None else f", at a divergence of at most {self.divergence:g} nats"
        if self.bytes is not None:
            return f"the best metric in at most {self.bytes:,} bytes{besides}"
        if self.metric is not None:
            return f"the smallest file with a metric of {self.metric:g}{besides}"
        lost = f"{self.drop:g} points" if self.drop is not None else f"{self.share:g} % of the metric"
        return f"the smallest file with at most {lost} lost{besides}"


class Needs(Strict):
    """What a trial needs of the machine that runs it: devices, main memory (bytes, or text as 16GiB), cores."""

    gpu: int = Field(0, ge=0)
    memory: Annotated[int, Field(gt=0)] | None = None
    cpus: int | None = Field(None, ge=1)

    @field_validator("memory", mode="before")
    @classmethod
    def _bytes(cls, value: Any) -> Any:
        """``16GiB``, ``16G`` (both 2^34), ``16GB`` (16 x 10^9)."""
        found = _SIZE.fullmatch(value.strip()) if isinstance(value, str) else None
        if found is None:
            if isinstance(value, str):
                raise ValueError(f"'{value}' is no amount of memory: write bytes, or as in 16GiB, 500M, 16GB")
            return value
        number, prefix, unit = found.groups()
        base = 1000 if unit == "B" and prefix else 1024
        return int(float(number) * base ** " KMGT".index((prefix or " ").upper()))

    def resources(self) -> Resources:
        return Resources(self.cpus, self.memory, self.gpu)


def _relative(value: Any) -> Any:
    """A number alone is a relative tolerance."""
    return {"relative": value} if isinstance(value, int | float) and not isinstance(value, bool) else value


def _whole_trial(value: Any) -> Any:
    """A number alone is for the whole trial."""
    return {TRIAL: value} if isinstance(value, int | float) and not isinstance(value, bool) else value


class Tolerance(Strict):
    """How much a figure may differ without counting as changed: relative, or in its own unit, whichever is more."""

    relative: float = Field(0.0, ge=0)
    absolute: float = Field(0.0, ge=0)


class Speed(Strict):
    """What a change of speed must exceed, both: the ratio of the medians, and the rank test's p must stay below."""

    ratio: float = Field(1.1, ge=1)
    p: float = Field(0.002, gt=0, lt=1)


Tolerated = Annotated[Tolerance, BeforeValidator(_relative)]


class Thresholds(Strict):
    """What a comparison of two runs of the suite takes for a change. metrics: by the metric's name. margin: points of
    a metric within which two networks count as equal. alpha: of each family of tests."""

    file_bytes: Tolerated | None = None
    ratio: Tolerated | None = None
    mse: Tolerated | None = None
    weighted_mse: Tolerated | None = None
    metrics: dict[str, Tolerated] = {}
    seconds: Speed = Speed()
    margin: float = Field(0.5, ge=0)
    alpha: float = Field(0.05, gt=0, lt=1)

    def as_settings(self) -> dict[str, Any]:
        """As a run keeps them and ``nqbench.results.compare.Thresholds`` reads them."""
        exact = {name: getattr(self, name) for name in ("file_bytes", "ratio", "mse", "weighted_mse")}
        figures = {name: tolerance for name, tolerance in exact.items() if tolerance is not None}
        figures |= {metric_figure(name): tolerance for name, tolerance in self.metrics.items()}
        return {
            "tolerance": {name: tolerance.relative for name, tolerance in figures.items()},
            "absolute": {name: tolerance.absolute for name, tolerance in figures.items()},
            "margin": self.margin,
            "alpha": self.alpha,
            "time_ratio": self.seconds.ratio,
            "time_p": self.seconds.p,
        }


class SuiteSpec(Axes):
    """A whole suite file."""

    name: str | None = Field(None, pattern=r"^\w[\w.+-]*$", max_length=100)
    question: str = ""
    takes: str = ""
    measure: Measure | None = None
    timeout: Annotated[dict[str, Annotated[float, Field(gt=0)]], BeforeValidator(_whole_trial)] = {}
    published: Annotated[list[dict[str, Any]], BeforeValidator(_listed)] = []
    include: Annotated[list[Axes], BeforeValidator(_listed)] = []
    exclude: Annotated[list[dict[str, Any]], BeforeValidator(_listed)] = []
    profiles: dict[str, dict[str, Any]] = {}
    target: Target | None = None
    thresholds: Thresholds | None = None
    resources: Needs = Needs()


def check_shape(document: Document) -> SuiteSpec:
    """The document as a SuiteSpec, or the SuiteError of its first fault."""
    if document.data is None or document.data == {}:
        raise SuiteError(f"{document.source}: is empty; a suite names at least 'models' and 'quantizers'")
    if not isinstance(document.data, dict):
        kind = "a list" if isinstance(document.data, list) else "a single value"
        raise SuiteError(f"{document.place(())}: a suite is a mapping of keys to values, not {kind}")
    try:
        return SuiteSpec.model_validate(document.data)
    except ValidationError as error:
        raise first_fault(document, (), error, SuiteSpec) from None


def first_fault(document: Document, around: KeyPath, error: ValidationError, model: type[BaseModel]) -> SuiteError:
    """The first fault of a value at ``around`` that is not valid as ``model``, as a SuiteError."""
    fault = error.errors(include_url=False)[0]
    path: KeyPath = (*around, *fault["loc"])
    if fault["type"] == "extra_forbidden":
        known = _keys_at(model, fault["loc"][:-1])
        return document.error(path, f"unknown key '{path[-1]}'{did_you_mean(str(path[-1]), known)}")
    return refused(document, path, dict(fault))


def refused(document: Document, path: KeyPath, fault: dict[str, Any]) -> SuiteError:
    """One of pydantic's errors about the value at ``path``, as a SuiteError."""
    # pydantic's location ends with the branch of a union, which no user wrote
    return document.error(path if fault["type"] == "missing" else document.existing(path), explain(fault))


def explain(fault: dict[str, Any]) -> str:
    """What was expected, and what was found, from one of pydantic's errors."""
    if fault["type"] == "missing":
        return "is required"
    message: str = fault["msg"]
    for before, after in _PHRASES:
        message = message.replace(before, after)
    if fault["type"] == "value_error":
        return message
    return f"{message}, not {_shown(fault['input'])}"


_PHRASES = (
    ("Input should be", "must be"),
    ("Value error, ", ""),
    ("Value should have at least 1 item after validation, not 0", "must have at least one entry"),
    ("a valid dictionary", "a mapping of keys to values"),
    ("a valid array", "a list"),
    ("a valid", "a"),
    ("a integer", "an integer"),
    ("String should", "must"),
    ("a list[", "a list ["),
)


def _shown(value: Any) -> str:
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return "true" if value else "false"
    text = f"'{value}'" if isinstance(value, str) else str(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _keys_at(model: type[BaseModel], loc: tuple[int | str, ...]) -> list[str]:
    """The keys that a nested mapping of a model may have."""
    current: type[BaseModel] = model
    for part in loc:
        if isinstance(part, str) and part in current.model_fields:
            current = _NESTED.get(part, current)
    return list(current.model_fields)


_NESTED: dict[str, type[BaseModel]] = {
    "measure": Measure,
    "target": Target,
    "resources": Needs,
    "include": Axes,
    "thresholds": Thresholds,
    "seconds": Speed,
    **dict.fromkeys(("file_bytes", "ratio", "mse", "weighted_mse", "metrics"), Tolerance),
}
