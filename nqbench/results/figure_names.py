"""What a record's figures are called where two runs are compared."""

from __future__ import annotations

EXACT = {"file_bytes": False, "ratio": True, "mse": False, "weighted_mse": False}
"""Figures without chance in them, and whether larger is better."""
SECONDS = "seconds."
"""What the figures of stages' times begin with."""


def metric_figure(name: str | None) -> str:
    """A metric's name among a record's figures: a network may be judged by an ``mse`` of its own."""
    name = name or "metric"
    return f"metric {name}" if name in EXACT or name.startswith(SECONDS) else name
