"""The stage that a search begins with: the parameter to search (the knob), with its range for the trial's weights."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

from nqbench.api import BadInput, Codec, Knob, Quantizer
from nqbench.pipeline.preparation import quantizing_task, untouched

if TYPE_CHECKING:
    from nqbench.pipeline.context import Context


def knob(context: Context) -> Knob | None:
    """The knob of the trial's quantizer or codec; None if it has none. Raises what the plugin raises."""
    trial = context.trial
    if trial.codec is not None:
        return checked(context.plugin(trial.codec, Codec).knob(), trial.codec.name)
    quantizer, task = context.plugin(trial.quantizer, Quantizer), quantizing_task(context, untouched(context))
    with context.watch.stage("knob"):
        groups = [part for part in task.partition() if any(task.kept(n, task.parameter(n)).numel() for n in part)]
        return merged([checked(quantizer.knob(task.source(part)), quantizer.name) for part in groups])


def to_json(found: Knob | None) -> dict[str, Any]:
    return {"knob": None if found is None else asdict(found)}


def from_json(meta: Mapping[str, Any]) -> Knob | None:
    return None if meta["knob"] is None else Knob(**meta["knob"])


def checked(knob: Knob | None, name: str) -> Knob | None:
    """The knob, or BadInput if its range is not valid."""
    if knob is None:
        return None
    if not (0 if knob.scale == "log" else float("-inf")) < knob.low <= knob.high < float("inf"):
        raise BadInput(f"the knob {knob.field} of '{name}' has the range [{knob.low}, {knob.high}] ({knob.scale})")
    return knob


def merged(knobs: Iterable[Knob | None]) -> Knob | None:
    """One knob for all groups of a granularity: the range that covers the range of each; None where any has none."""
    found = list(knobs)
    first = found[0] if found else None
    if first is None or any(knob is None or knob.field != first.field for knob in found):
        return None
    low, high = min(k.low for k in found if k), max(k.high for k in found if k)
    starts = [k.start for k in found if k and k.start is not None]
    return replace(first, low=low, high=high, start=statistics.median(starts) if starts else None)
