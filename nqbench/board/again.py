"""How a row is made again: its suite, and one command."""

from __future__ import annotations

import json
import re
import shlex
from typing import Any

from nqbench.registry import registry
from nqbench.results.record import KINDS, Record


def command(record: Record, suite: str = "suite.yaml") -> str:
    """``nqbench run SUITE --only ...`` for the row's trial: the suite as it ran, and of it this configuration. Where a
    search chose the knob, it is the search that is made again, since its values stand in no suite."""
    wanted = []
    for kind in KINDS:
        if kind == "training":
            wanted.append(f"training={record.training}")
            continue
        name = getattr(record, kind)
        if name:
            wanted.append(f"{kind}={name}")
        elif kind in ("pruner", "sensitivity"):
            wanted.append(f"{kind}=none")
    searched = record.knob if record.selected_on is not None else None
    for kind in ("pruner", "sensitivity", "quantizer", "codec"):
        name, given = getattr(record, kind), getattr(record, f"{kind}_params") or {}
        if name:
            usual = defaults(kind, name)
            wanted += [
                f"{kind}.{key}={value}"
                for key, value in given.items()
                if key != searched and _plain(value) and (key == record.knob or value != usual.get(key, value))
            ]
    if record.granularity:
        wanted.append(f"granularity={record.granularity}")
    if record.seed is not None:
        wanted.append(f"seed={record.seed}")
    return f"nqbench run {shlex.quote(suite)} --only {shlex.quote(','.join(wanted))}"


def defaults(kind: str, name: str) -> dict[str, Any]:
    """Parameter -> its default, as records have them; of a plugin that is not installed here, none is known."""
    known = registry().found.get((kind, name))
    fields = {} if known is None else known.cls.model_fields
    plain: dict[str, Any] = json.loads(json.dumps({key: field.default for key, field in fields.items()}, default=str))
    return plain


def _plain(value: object) -> bool:
    """Whether ``--only`` can ask for a value."""
    if isinstance(value, str):
        return bool(re.fullmatch(r"[\w.+-]+", value))
    return isinstance(value, int | float) and not isinstance(value, bool)
