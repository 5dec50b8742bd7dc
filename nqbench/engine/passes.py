"""Measures times in several passes over the trials, so that a disturbance of the machine affects a few samples of many
trials instead of all samples of one trial."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

MEDIAN = ("quantize",)
"""Stages whose seconds are the median of their samples; for the others it is the minimum."""


def merged(outcomes: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Merge the outcomes of a trial's passes: all samples, with seconds, speeds and memory from them; the rest is that
    of the last pass."""
    last = dict(outcomes[-1])
    if len(outcomes) == 1:
        return last
    samples = {stage: [s for outcome in outcomes for s in outcome["samples"][stage]] for stage in last["samples"]}
    middle = {stage: statistics.median(values) if stage in MEDIAN else min(values) for stage, values in samples.items()}
    speeds = {
        name: max((outcome.get(name) or 0.0 for outcome in outcomes), default=0.0)
        for name in ("encode_msym_s", "decode_msym_s")
        if last.get(name) is not None
    }
    peaks = [outcome["peak_bytes"] for outcome in outcomes if outcome.get("peak_bytes") is not None]
    last |= {"samples": samples, "seconds": {**last["seconds"], **middle}, **speeds}
    return last | ({"peak_bytes": max(peaks)} if peaks else {})
