"""Records as a table: one flat row each, columns in a stable order."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

from nqbench.results.record import KINDS, PARTS, Record

if TYPE_CHECKING:
    import pandas as pd

STAGES = ("load", "prune", "sense", "quantize", "encode", "write", "decode", "check", "evaluate")
_HIDDEN = ("correct", "values")
_NESTED = {"parts", "loss_increase", "metrics_float", "metrics", "seconds"} | {f"{kind}_params" for kind in KINDS}
_AS_JSON = ("training_params", "samples", "cached", "environment")
_SPECIAL = {*_HIDDEN, *_NESTED, *_AS_JSON}


def flat(record: Record) -> dict[str, Any]:
    """Nested fields as ``parts.symbols``, ``quantizer_params.k``, ``seconds.encode``; lists as JSON."""
    row: dict[str, Any] = {}
    for name, value in vars(record).items():  # the record's fields, in order
        if name not in _SPECIAL:
            row[name] = value
        elif name in _AS_JSON:
            row[name] = json.dumps(value, sort_keys=True) if value else None
        elif name in _NESTED:
            if value is None and name == "parts":
                value = dict.fromkeys(PARTS)  # a table of failures has the same columns
            inner = vars(value) if isinstance(value, BaseModel) else value or {}
            for key, cell in inner.items():
                row[f"{name}.{key}"] = _plain(cell) if isinstance(cell, dict | list | tuple) else cell
    return row


def columns(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """The union of the rows' columns: fields in the record's order, stages in the pipeline's, the rest by name."""
    fields = {name: index for index, name in enumerate(Record.model_fields)}
    inner = {name: index for index, name in enumerate((*PARTS, *STAGES))}
    found = {column for row in rows for column in row}

    def order(column: str) -> tuple[int, int, str]:
        field, _, key = column.partition(".")
        return fields[field], inner.get(key, len(inner)), key

    return sorted(found, key=order)


def to_frame(records: Iterable[Record]) -> pd.DataFrame:
    """What ``nqbench.run`` returns: one row a record."""
    import pandas as pd

    rows = [flat(record) for record in records]
    return pd.DataFrame(rows, columns=columns(rows))


def _plain(value: Any) -> str:
    return json.dumps(value, sort_keys=True)
