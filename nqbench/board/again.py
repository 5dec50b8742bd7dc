"""How a row is made again: its suite, and one command."""

from __future__ import annotations

import shlex

from nqbench.results.record import KINDS, Record


def command(record: Record, suite: str = "suite.yaml") -> str:
    """``nqbench run SUITE --only ...`` for the row's trial: the suite as it ran, and of it this configuration."""
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
    knob = record.knob
    for kind in ("quantizer", "codec"):
        given = getattr(record, f"{kind}_params") or {}
        if getattr(record, kind) and knob and isinstance(given.get(knob), int | float | str):
            wanted.append(f"{kind}.{knob}={given[knob]}")
    if record.granularity:
        wanted.append(f"granularity={record.granularity}")
    if record.seed is not None:
        wanted.append(f"seed={record.seed}")
    return f"nqbench run {shlex.quote(suite)} --only {shlex.quote(','.join(wanted))}"
