"""A record: the result of one trial. Field names are the same in the store, the JSON, the CSV and the hooks.

``from_dict(to_dict(r)) == r``. A record is written once and never edited; tables, comparisons and pages are made from
records.

A record with status ok has finite figures. If its metric or size is nan or infinite, it is read as a failed record with
an error that says so: it cannot be ranked, but must not prevent a report on the others.
"""

from __future__ import annotations

import base64
import math
import zlib
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from nqbench.api.errors import BadInput
from nqbench.api.evaluation import Statistic
from nqbench.api.toolkit.parsing import parse_json
from nqbench.results.earlier import modern

SCHEMA_VERSION = 2
"""Of a record's fields. A reader refuses a newer one and reads every older one."""

Status = Literal["ok", "failed", "timeout", "crashed", "lost"]
FINITE = (
    "metric", "metric_float", "metric_delta", "ratio", "file_ratio", "bits_per_weight", "entropy", "efficiency", "mse",
    "weighted_mse", "encode_msym_s", "decode_msym_s",
)  # fmt: skip
"""Figures of a record with status ok that are finite where they are there: what rankings and comparisons go by."""
EQUAL = 1e-6
"""Two ways to count a share of answers differ by less, in points."""
KINDS = ("model", "pruner", "sensitivity", "quantizer", "training", "positions", "coder", "codec")


class _Part(BaseModel):
    model_config = ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=True, ser_json_inf_nan="strings"
    )


class Parts(_Part):
    """Bytes of the file by purpose; framing and checksums count as header. They sum to ``file_bytes``."""

    header: int = Field(0, ge=0)
    codebook: int = Field(0, ge=0)
    scales: int = Field(0, ge=0)
    coder_table: int = Field(0, ge=0)
    positions: int = Field(0, ge=0)
    symbols: int = Field(0, ge=0)
    raw_parameters: int = Field(0, ge=0)
    raw_buffers: int = Field(0, ge=0)

    @property
    def total(self) -> int:
        return sum(getattr(self, name) for name in PARTS)


PARTS = tuple(Parts.model_fields)


class LossIncrease(_Part):
    """Increase of the training loss by compression: three predictions and the measured value. d = deployed -
    trained."""

    linear: float | None = None
    """g^T d"""
    diagonal: float | None = None
    """1/2 sum h d^2, h the Gauss-Newton diagonal, whatever sensitivity the quantizer used"""
    gauss_newton: float | None = None
    """1/2 d^T G d"""
    measured: float | None = None


class Record(_Part):
    """One trial's result. Sizes in bytes, times in seconds, entropy in bits per symbol; None: does not apply."""

    schema_version: int = SCHEMA_VERSION
    run: str
    """Id of the run that wrote it."""
    time: str = Field(default_factory=lambda: utc_now())
    """When the trial ended: ISO 8601, UTC."""
    suite: str
    status: Status
    key: str
    """Content key, of configuration, code and versions: by it, another run finds the record."""
    trial: str
    """16 hex digits, of the configuration alone: by it, runs with different code are compared."""

    model: str
    model_params: dict[str, Any] | None = None
    pruner: str | None = None
    pruner_params: dict[str, Any] | None = None
    sensitivity: str | None = None
    sensitivity_params: dict[str, Any] | None = None
    granularity: Literal["global", "layer"] | None = None
    quantizer: str | None = None
    quantizer_params: dict[str, Any] | None = None
    training: str = "none"
    """Names joined by '+'."""
    training_params: list[dict[str, Any]] = []
    positions: str | None = None
    positions_params: dict[str, Any] | None = None
    coder: str | None = None
    coder_params: dict[str, Any] | None = None
    codec: str | None = None
    codec_params: dict[str, Any] | None = None
    streams: str = "auto"
    unquantized: str = "float32"
    fold_batchnorm: bool = False
    seed: int | None = None
    """None: the trial is deterministic."""
    device: str = "cpu"
    knob: str | None = None
    """The quantizer's (or codec's) parameter that trades bytes for quality: a method's curve is swept over it."""

    file: str | None = None
    """The .nqz file, relative to the output folder."""
    file_bytes: int | None = Field(None, ge=0)
    parts: Parts | None = None
    weights: int | None = None
    """Entries of the compressible tensors, pruned ones too."""
    kept: int | None = None
    """Of these, how many were quantized."""
    batchnorm_bytes: int | None = Field(None, ge=0)
    """Of raw_buffers, batch norms' running means, variances and counters. None: a record of before, whose ratio left
    out all of raw_buffers."""
    ratio: float | None = None
    """4 bytes x every parameter / all bytes of the file but ``batchnorm_bytes``."""
    file_ratio: float | None = None
    """float32 state / file on disk."""
    own_ratio: float | None = None
    """The state in its own dtypes / file on disk: half of ``file_ratio`` for a bfloat16 network; for one that came
    quantized (a GGUF), its file / file on disk."""
    bits_per_weight: float | None = None
    entropy: float | None = None
    """Zeroth-order entropy of the symbols, bits per symbol."""
    efficiency: float | None = None
    """Entropy / measured bits per symbol."""
    mse: float | None = None
    weighted_mse: float | None = None
    statistics: dict[str, float] = {}
    """The quantizer's own figures (iterations, H(Q|U), J), averaged over its groups by their weights."""

    notes: dict[str, str] = {}
    """Tensors that were treated in another way than the method says, and why."""

    metric_name: str | None = None
    metric_unit: str = "%"
    metric_higher_is_better: bool = True
    metric_float: float | None = None
    metric: float | None = None
    metric_delta: float | None = None
    """metric - metric_float"""
    metrics_float: dict[str, float] = {}
    metrics: dict[str, float] = {}
    """Every metric of the model, before and after."""
    selected_on: str | None = None
    """Which split a search looked at; None: no search."""
    judged_by: str | None = None
    """The metric that the suite named in place of the model's own headline."""
    correct: str | None = Field(None, repr=False)
    """Per-example correctness on the test split: base64 of packed bits, see ``pack_correct``. Not in the CSV."""
    values: str | None = Field(None, repr=False)
    """In its place for any other metric: the values that it follows from, see ``pack_values``. Not in the CSV."""
    statistic: Statistic | None = None
    """How the metric follows from ``values`` or ``correct``."""
    examples: int | None = None
    """How many examples ``correct`` or ``values`` are of."""
    evaluated_in: dict[str, Any] = {}
    """In which batches the networks were evaluated, and on the CPU with how many ``threads``, and ``float_threads``
    where the float network's were others: outputs differ between those by rounding, and an evaluation from the cache
    may be of other threads than the environment has."""
    loss_increase: LossIncrease | None = None

    seconds: dict[str, float] = {}
    """By stage; 0 for a stage whose result came from the cache."""
    measured: bool = False
    """Whether the seconds are measurements: neither from a cache nor beside parallel workers."""
    samples: dict[str, list[float]] = {}
    """Raw seconds of every repeat, by stage, where the suite measures."""
    cached: list[str] = []
    """Stages whose results came from the cache."""
    encode_msym_s: float | None = None
    decode_msym_s: float | None = None
    peak_bytes: int | None = None
    file_sha256: str | None = None
    """Of the .nqz file; checked when a file comes from another machine."""
    decoded_sha256: str | None = None
    """Of the decoded tensors: what ``nqbench verify`` compares with."""
    network_sha256: str | None = None
    """Of the trained network that it began with, in the same way."""
    error: str | None = None
    """Traceback or signal of a trial that did not end well."""
    environment: dict[str, Any] = {}

    @model_validator(mode="after")
    def _sound(self) -> Record:
        if self.schema_version > SCHEMA_VERSION:
            raise ValueError(
                f"has schema version {self.schema_version}; this nqbench reads up to {SCHEMA_VERSION}: upgrade nqbench"
            )
        if self.status != "ok":
            return self
        if self.file_bytes is None or self.parts is None:
            raise ValueError("a record with status ok needs file_bytes and parts")
        if self.parts.total != self.file_bytes:
            raise ValueError(f"the parts sum to {self.parts.total} bytes, the file has {self.file_bytes}")
        strange = self._not_finite()
        return self.model_copy(update={"status": "failed", "error": strange}) if strange else self

    def _not_finite(self) -> str:
        """A sentence about a figure that must be finite and is not; empty if all are finite."""
        for name in FINITE:
            value = getattr(self, name)
            if value is not None and not math.isfinite(value):
                whose = "the float network" if name == "metric_float" else "the decoded network"
                what = f"the metric '{self.metric_name}' of {whose}" if name.startswith("metric") else f"the {name}"
                return f"{what} is {value}: it must be a finite number, since files are ranked by it"
        return ""

    # -- forms ---------------------------------------------------------------------------------------------------
    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Record:
        """Raises BadInput with the first field that does not fit."""
        if not isinstance(fields, Mapping):
            raise BadInput(f"not a record: expected its fields by name, found {type(fields).__name__}")
        version = fields.get("schema_version", SCHEMA_VERSION)
        if isinstance(version, int) and version > SCHEMA_VERSION:
            # said before its unknown fields are
            raise BadInput(
                f"a record has schema version {version}; this nqbench reads up to {SCHEMA_VERSION}: upgrade nqbench"
            )
        if isinstance(version, int) and version < SCHEMA_VERSION:
            fields = modern(fields)
        try:
            return cls.model_validate(dict(fields))
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(str(part) for part in first["loc"])
            raise BadInput(f"not a record: {place + ': ' if place else ''}{first['msg']}") from None

    def to_dict(self) -> dict[str, Any]:
        """Plain values in the fields' order, as records.json has them."""
        return self.model_dump(mode="python")

    @classmethod
    def from_json(cls, text: str) -> Record:
        """As ``from_dict``, but faster if the text is valid and of this version."""
        try:
            record = cls.model_validate_json(text)
            if record.schema_version == SCHEMA_VERSION:
                return record
        except ValidationError:
            pass  # from_dict says what is wrong
        try:
            return cls.from_dict(parse_json(text))
        except ValueError as error:
            raise BadInput(f"not a record: {error}") from None

    def to_json(self) -> str:
        """One line of JSON; NaN and infinities are strings, which ``from_json`` and ``from_dict`` read again."""
        return self.model_dump_json()

    @classmethod
    def for_trial(cls, config: Mapping[str, Any], **fields: Any) -> Record:
        """A record of the trial whose ``Trial.config()`` is given. ``loss_increase`` there says whether it was asked
        for; here it is what came out, so the former is left out."""
        named = {k: v for k, v in config.items() if k != "loss_increase" and k in cls.model_fields}
        return cls.from_dict({**named, **fields})

    @classmethod
    def planned(cls, config: Mapping[str, Any]) -> Record:
        """A record for a trial that has not run, which has only its configuration; used for labels."""
        return cls.for_trial(config, run="", suite="", status="failed", key="", trial="")

    # -- derived -------------------------------------------------------------------------------------------------
    @property
    def ok(self) -> bool:
        return self.status == "ok"

    @property
    def counted_bytes(self) -> int:
        """The bytes of the file that ``ratio`` counts."""
        left_out = self.batchnorm_bytes
        if left_out is None:
            left_out = self.parts.raw_buffers if self.parts else 0
        return (self.file_bytes or 0) - left_out

    @property
    def drop(self) -> float | None:
        """How much worse the compressed network is, in the metric's unit; negative: better than the float network."""
        if self.metric is None or self.metric_float is None:
            return None
        return self.metric_float - self.metric if self.metric_higher_is_better else self.metric - self.metric_float

    def where_selected(self, name: str) -> float | None:
        """A figure of the compressed network on the split that the record's search looked at; without a search, on the
        test's."""
        return self.metrics.get(on_split(name, self.selected_on))

    @property
    def metric_where_selected(self) -> float | None:
        """The metric on the split that the record's search looked at; without a search, on the test's."""
        found = self.where_selected(str(self.metric_name))
        return self.metric if found is None and self.selected_on in (None, "test") else found

    @property
    def float_where_selected(self) -> float | None:
        """The float network's metric on that split."""
        if self.selected_on in (None, "test"):
            return self.metric_float
        return self.metrics_float.get(on_split(str(self.metric_name), self.selected_on))

    @property
    def drop_where_selected(self) -> float | None:
        """``drop`` on the split that the record's search looked at; without a search, on the test's."""
        if self.selected_on in (None, "test") or self.metric_name is None:
            return self.drop
        name = on_split(self.metric_name, self.selected_on)
        if name not in self.metrics or name not in self.metrics_float:
            return None
        fall = self.metrics_float[name] - self.metrics[name]
        return fall if self.metric_higher_is_better else -fall

    def hits(self) -> np.ndarray | None:
        """(examples,) bool: the test examples whose share is the metric, which the compressed network got right or, of
        an error, wrong; None where not recorded. Records of before kept the right ones of an error, too."""
        if self.correct is None or self.examples is None:
            return None
        kept = unpack_correct(self.correct, self.examples)
        if self.metric is None or self.metric_unit != "%" or not self.examples:
            return kept
        share = 100 * float(kept.mean())
        others = abs(share - self.metric) >= EQUAL and abs(100 - share - self.metric) < EQUAL
        return ~kept if others else kept

    def per_example(self) -> tuple[np.ndarray, Statistic] | None:
        """The values that the metric follows from, (examples,) or (examples, 2), and how; None where not recorded."""
        if self.values is None or self.examples is None or self.statistic is None:
            return None
        return unpack_values(self.values, self.examples), self.statistic


def on_split(name: str, split: str | None) -> str:
    """What a figure of this split is called in ``metrics`` and ``metrics_float``; None: the test split."""
    return name if split in (None, "test") else f"{split}.{name}"


def pack_correct(correct: Iterable[bool] | np.ndarray) -> str:
    """(examples,) bool -> base64 of its bits, first example in the highest bit of the first byte."""
    bits = np.packbits(np.asarray(correct, dtype=bool))
    return base64.b64encode(bits.tobytes()).decode("ascii")


def unpack_correct(text: str, examples: int) -> np.ndarray:
    """The inverse of ``pack_correct``: (examples,) bool."""
    try:
        raw = np.frombuffer(base64.b64decode(text), dtype=np.uint8)
    except ValueError as error:
        raise BadInput(f"the correctness of {examples} examples is no base64: {error}") from None
    if raw.size != (examples + 7) // 8:
        raise BadInput(f"the correctness of {examples} examples takes {(examples + 7) // 8} bytes, not {raw.size}")
    return np.unpackbits(raw, count=examples).astype(bool)


def pack_values(values: np.ndarray) -> str:
    """(examples,) or (examples, 2) -> base64 of deflated float32, column after column, rounded to 12 bits."""
    bits = np.ascontiguousarray(np.asarray(values, dtype=np.float32).T).view(np.uint32)
    # to the nearest of 12 bits of mantissa: what comes after is noise to any test, and most of the bytes
    rounded = np.where(np.isfinite(bits.view(np.float32)), (bits + np.uint32(1 << 11)) & np.uint32(0xFFFFF000), bits)
    return base64.b64encode(zlib.compress(rounded.astype("<u4").tobytes(), 9)).decode("ascii")


def unpack_values(text: str, examples: int) -> np.ndarray:
    """The inverse of ``pack_values``, up to its rounding: (examples,) or (examples, 2) float64. Raises BadInput."""
    try:
        raw = zlib.decompressobj().decompress(base64.b64decode(text), 8 * examples + 4)
        numbers = np.frombuffer(raw, dtype="<f4").astype(np.float64)
    except (ValueError, zlib.error) as error:
        raise BadInput(f"the values of {examples} examples cannot be read: {error}") from None
    if not examples or numbers.size not in (examples, 2 * examples):
        raise BadInput(f"the values of {examples} examples are {numbers.size} numbers")
    columns = numbers.reshape(-1, examples)
    return columns[0] if len(columns) == 1 else columns.T


def utc_now() -> str:
    """ISO 8601 with microseconds, so that records sort by time as text."""
    return datetime.now(UTC).isoformat(timespec="microseconds")


def after(earlier: str | None, time: str) -> str:
    """A time of ``utc_now``'s form; where what was earlier says a later one, since a clock was set back, the next after
    that."""
    if earlier is None or earlier <= time:
        return time
    return (datetime.fromisoformat(earlier) + timedelta(microseconds=1)).isoformat(timespec="microseconds")
