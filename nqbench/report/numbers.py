"""How figures are written for people. Machines get them in full: CSV and JSON."""

from __future__ import annotations

import math
from collections.abc import Iterable


def count(value: float | None) -> str:
    """Bytes and other counts: ``12,345``; a mean over seeds keeps a decimal where it has one."""
    if value is None:
        return ""
    return f"{value:,.0f}" if float(value).is_integer() else f"{value:,.1f}"


def decimal(value: float | None, digits: int = 2) -> str:
    if value is None:
        return ""
    return f"{value:,.{digits}f}" if math.isfinite(value) else str(value)


def signed(value: float | None, digits: int = 2) -> str:
    if value is None:
        return ""
    if not math.isfinite(value):
        return str(value)
    text = f"{value:+.{digits}f}"
    return text.replace("-", "−") if float(text) else text.lstrip("+-")


def places(values: Iterable[float | None], unit: str) -> int:
    """Decimals for a column of a metric: two, and of anything but a percentage as many as give its smallest figure
    three digits (a divergence of 0.00289 nats is not 0.00), at most six."""
    sizes = [abs(v) for v in values if v is not None and math.isfinite(v) and v]
    if unit == "%" or not sizes:
        return 2
    return min(6, max(2, 2 - math.floor(math.log10(min(sizes)))))


def figure(value: float | None, unit: str) -> str:
    """One figure of a metric, with its unit."""
    return "" if value is None else f"{decimal(value, places([value], unit))} {unit}".rstrip()


def significant(value: float | None, digits: int = 3) -> str:
    return "" if value is None else f"{value:.{digits}g}"


def spread(value: float | None, deviation: float | None, digits: int = 2) -> str:
    """``98.20 ± 0.05``; without a deviation the value alone."""
    if value is None or deviation is None:
        return decimal(value, digits)
    return f"{decimal(value, digits)} ± {decimal(deviation, digits)}"


def repeats(n: int, deterministic: bool, failed: int = 0) -> str:
    """How often: ``deterministic`` or the number of seeds, and of how many where others failed."""
    if failed:
        return f"{n} of {n + failed} seeds, {failed} failed"
    return "deterministic" if deterministic else f"{n} seed{'s' if n != 1 else ''}"
