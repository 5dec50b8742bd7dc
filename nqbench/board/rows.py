"""A row of a board: what was submitted, what the board found, and when it was looked at again."""

from __future__ import annotations

import hashlib
import json
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from nqbench.api.errors import BadInput
from nqbench.api.evaluation import DIVERGENCE, Statistic
from nqbench.api.toolkit.parsing import parse_json
from nqbench.board.manifest import AnyRecord, Distribution, Sha256, Text, objection
from nqbench.engine.checking import allowed
from nqbench.results.record import Record

VERSION = 1
_UNCHECKED = (
    "entropy", "efficiency", "mse", "weighted_mse", "encode_msym_s", "decode_msym_s", "loss_increase", "peak_bytes",
)  # fmt: skip


class _Kept(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)


class Found(_Kept):
    """What a board measured itself, from the file alone. Only these figures rank a row."""

    file_bytes: int
    parts: dict[str, int]
    decoded_sha256: Sha256
    batchnorm_bytes: int | None = None
    """None: of a row from before it was kept."""
    ratio: float
    file_ratio: float
    own_ratio: float
    bits_per_weight: float
    metric: float
    metrics: dict[str, float]
    metric_float: float
    """Of the board's own float network."""
    metric_name: str | None = None
    """Which metric that is, with its unit and direction: the network's headline. None: the record's."""
    metric_unit: str | None = None
    metric_higher_is_better: bool | None = None
    correct: str | None = None
    values: str | None = None
    statistic: Statistic | None = None
    examples: int | None = None
    """These four as a record has them."""
    same_network: bool = False
    """Whether the row was made of the network that the board has, to the bit."""

    @property
    def as_before(self) -> Found:
        """As it was found when ratios left out all buffers, and nothing was said of batch norms' bytes."""
        numbers = round(self.ratio * (self.file_bytes - (self.batchnorm_bytes or 0)))
        ratio = numbers / (self.file_bytes - self.parts["raw_buffers"])
        return self.model_copy(update={"ratio": ratio, "batchnorm_bytes": None})

    def allowed(self, name: str | None, value: float, unit: str | None) -> float:
        """How far a figure of this name may lie from ``value``, found in another environment."""
        return allowed(value, unit, from_another=name == DIVERGENCE.name and not self.same_network)


class Check(_Kept):
    """One time that a row was decoded and evaluated, and held."""

    time: str
    where: str
    """Versions and processor."""
    nqbench: str
    exact: bool
    """Whether that was in the submitter's own environment, where every digit has to agree."""


class BoardRow(_Kept):
    board_row: int = VERSION
    id: Annotated[str, Field(pattern=r"^[0-9a-f]{16}$")]
    """16 hex digits of network and file: the row's name for good."""
    record: AnyRecord
    """As submitted."""
    file: Sha256
    suite: Sha256 | None = None
    """Of the suite's text, which the board keeps."""
    who: Text | None = None
    licence: str
    created: str
    """When it was submitted."""
    added: str
    """When the board took it."""
    bundle: Sha256
    """Of the submission that it came in."""
    distributions: tuple[Distribution, ...] = ()
    code: tuple[Text, ...] = ()
    """Plugins of others than nqbench that decoding it needs: taken by permission."""
    found: Found
    checks: tuple[Check, ...] = Field(min_length=1)
    """The last of each environment, latest last."""

    def to_text(self) -> str:
        """As the board keeps it: readable, a field a line."""
        content: dict[str, Any] = json.loads(self.model_dump_json())
        return json.dumps(content, indent=1, ensure_ascii=True) + "\n"

    @property
    def metric_name(self) -> str:
        """Of the metric that ranks the row."""
        return self.found.metric_name or self.record.metric_name or ""

    @property
    def metric_unit(self) -> str:
        return (self.found.metric_unit if self.found.metric_name else self.record.metric_unit) or ""

    @property
    def shown(self) -> Record:
        """The record that ranks: the board's own figures; what it could not check is left out."""
        found = self.found.model_dump(exclude={"same_network"})
        for name in ("metric_name", "metric_unit", "metric_higher_is_better"):
            if found[name] is None:  # of a row from before it was kept
                del found[name]
        delta = {"metric_delta": self.found.metric - self.found.metric_float}
        said = self.record.to_dict() | dict.fromkeys(_UNCHECKED) | found | delta
        return Record.from_dict(
            said | {"key": self.id, "selected_on": None, "metrics_float": {}, "measured": False, "statistics": {}}
        )


def row_id(record: Record, file: str) -> str:
    """The name of a row: a row is a file of a network. Two submissions of one file are one row, whatever they say of
    how it was made."""
    return hashlib.sha256(f"{record.model} {file}".encode()).hexdigest()[:16]


def read_row(text: str | bytes, where: str) -> BoardRow:
    """A row from its file. Raises BadInput with one line."""
    try:
        row = BoardRow.model_validate(parse_json(text))
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise BadInput(f"{where}: is no row of a board: {place}: {first['msg']}".replace("\n", " ")) from None
    except ValueError as error:
        raise BadInput(f"{where}: is no row of a board: {error}") from None
    if why := objection(row.record):
        raise BadInput(f"{where}: is no row of a board: {why}")
    if row.id != row_id(row.record, row.file):
        raise BadInput(f"{where}: its name is not that of its network and file: it was edited")
    return row


def checked_again(row: BoardRow, check: Check) -> BoardRow:
    """The row with one more check: of each environment the last is kept."""
    others = [old for old in row.checks if old.where != check.where]
    return row.model_copy(update={"checks": tuple(sorted([*others, check], key=lambda one: one.time))})
