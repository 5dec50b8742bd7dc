"""Published reference rows: quoted from papers, shown next to the measured results and never ranked with them.

A suite gives them inline (``{paper, network, method, accuracy | error, ratio}``; of any other metric ``value`` with the
metric's name as ``metric``, and its ``unit``), or selects them from
``published.yaml`` (``{paper: "arXiv:1612.01543, Table 1", network: lenet5}``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from pydantic import Field, ValidationError, model_validator

from nqbench.registry import did_you_mean
from nqbench.suite.document import Document, KeyPath, SuiteError, read
from nqbench.suite.find import published_file
from nqbench.suite.spec import Strict, first_fault

Shape = TypeVar("Shape", bound=Strict)


@dataclass(frozen=True)
class PublishedRow:
    """One method's published figures. accuracy, error: top-1, in %; value: of the metric that ``metric`` names, in
    ``unit``; ratio: as the paper counts it."""

    paper: str
    network: str
    method: str
    accuracy: float | None = None
    error: float | None = None
    ratio: float | None = None
    data: str | None = None
    metric: str | None = None
    value: float | None = None
    unit: str | None = None


class _Figures(Strict):
    method: str
    value: float | None = None
    accuracy: float | None = Field(None, ge=0, le=100)
    error: float | None = Field(None, ge=0, le=100)
    ratio: float | None = Field(None, gt=0)


class _Inline(_Figures):
    paper: str
    network: str
    data: str | None = None
    metric: str | None = None
    unit: str | None = None

    @model_validator(mode="after")
    def _named(self) -> _Inline:
        _check_named(self.metric, [self])
        return self


class _Block(Strict):
    paper: str
    network: str
    data: str | None = None
    metric: str | None = None
    unit: str | None = None
    parameters: int | None = Field(None, gt=0)
    rows: list[_Figures] = Field(min_length=1)

    @model_validator(mode="after")
    def _named(self) -> _Block:
        _check_named(self.metric, self.rows)
        return self


def _check_named(metric: str | None, rows: Sequence[_Figures]) -> None:
    """ValueError for a value that nobody says the metric of."""
    if metric is None and any(row.value is not None for row in rows):
        raise ValueError("gives a 'value' without the 'metric' that it is of, such as metric: perplexity")


class _Selector(Strict):
    paper: str | None = None
    network: str | None = None
    data: str | None = None

    @model_validator(mode="after")
    def _something(self) -> _Selector:
        if self.paper is None and self.network is None and self.data is None:
            raise ValueError("must name a paper or a network to select, or give a row with 'method'")
        return self


def published_rows(document: Document, entries: list[dict[str, Any]], suite: Path | None) -> tuple[PublishedRow, ...]:
    """The rows that a suite's ``published`` stands for. Raises SuiteError."""
    rows: list[PublishedRow] = []
    listed = document.has(("published", 0))
    for index, entry in enumerate(entries):
        path: KeyPath = ("published", index) if listed else ("published",)
        if "rows" in entry:
            rows += _rows(_valid(document, path, entry, _Block))
        elif "method" in entry:
            rows.append(PublishedRow(**_valid(document, path, entry, _Inline).model_dump()))
        else:
            rows += _selected(document, path, _valid(document, path, entry, _Selector), suite)
    return tuple(dict.fromkeys(rows))


def _selected(document: Document, path: KeyPath, selector: _Selector, suite: Path | None) -> list[PublishedRow]:
    file = published_file(suite)
    if file is None:
        raise document.error(path, "selects published rows, but there is no published.yaml beside the suite")
    rows = list(published_in(file.resolve()))
    for key, value in selector.model_dump(exclude_none=True).items():
        known = list(dict.fromkeys(str(getattr(row, key)) for row in rows))
        rows = [row for row in rows if getattr(row, key) == value]
        if not rows:
            hint = did_you_mean(value, known)
            raise document.error((*path, key), f"{file.name} has no rows with the {key} '{value}'{hint}")
    return rows


@cache
def published_in(file: Path) -> tuple[PublishedRow, ...]:
    """Every row of a published.yaml: a list of blocks, each with its paper, network and rows. Raises SuiteError."""
    document, _ = read(file)
    if not isinstance(document.data, list):
        raise SuiteError(f"{file}: must be a list of blocks with paper, network and rows")
    blocks = [_valid(document, (index,), block, _Block) for index, block in enumerate(document.data)]
    return tuple(row for block in blocks for row in _rows(block))


def _rows(block: _Block) -> list[PublishedRow]:
    shared = block.model_dump(exclude={"rows", "parameters"})
    return [PublishedRow(**shared, **figures.model_dump()) for figures in block.rows]


def _valid(document: Document, path: KeyPath, value: Any, shape: type[Shape]) -> Shape:
    try:
        return shape.model_validate(value)
    except ValidationError as error:
        raise first_fault(document, path, error, shape) from None
