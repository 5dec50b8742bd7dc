"""The page of figures over the nights: ``history.html``, self-contained, drawn as inline SVG."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from nqbench.report.comparison import number
from nqbench.report.html import asset, templates
from nqbench.results.history import Series, changed

WIDTH, HEIGHT, PAD = 420, 72, 8


@dataclass(frozen=True)
class Drawing:
    """A line over the nights. dots: (x, y, text); marks: (x, verdict) of the steps."""

    path: str
    dots: tuple[tuple[float, float, str], ...]
    marks: tuple[tuple[float, str], ...]


def draw(series: Series) -> Drawing:
    values = [point.value for point in series.points]
    finite = [v for v in values if math.isfinite(v)] or [0.0]
    low, high = min(finite), max(finite)
    across = (WIDTH - 2 * PAD) / max(1, len(values) - 1)

    def place(index: int, value: float) -> tuple[float, float]:
        share = (value - low) / (high - low) if high > low and math.isfinite(value) else 0.5
        return PAD + across * index, HEIGHT - PAD - share * (HEIGHT - 2 * PAD)

    dots = []
    for index, point in enumerate(series.points):
        x, y = place(index, point.value)
        dots.append((round(x, 1), round(y, 1), f"{point.started[:10]} {point.revision[:12]}: {number(point.value)}"))
    path = " ".join(f"{x},{y}" for x, y, _ in dots)
    marks = tuple((round(PAD + across * (step.at - 0.5), 1), step.verdict) for step in series.steps)
    return Drawing(path, tuple(dots), marks)


def describe(series: Series) -> list[str]:
    """One sentence a step, with the revisions between which it happened."""
    sentences = []
    for step in series.steps:
        old, new = (
            f"{p.revision[:12] or 'unknown'} ({p.started[:10]})"
            for p in (series.points[step.since], series.points[step.at])
        )
        change = f" ({100 * (step.after / step.before - 1):+.2f} %)" if step.before else ""
        between = f"between {old} and {new}"
        sentences.append(f"{step.verdict}: {number(step.before)} → {number(step.after)}{change}, {between}")
    return sentences


def history_page(suite: str, found: Sequence[Series]) -> str:
    """Changed figures first, with their change points; then those that drift; then those that never moved."""
    from markupsafe import Markup

    groups: dict[str, list[Series]] = {}
    for series in found:
        if not series.steps and not series.constant:
            groups.setdefault(f"{series.model} {series.configuration}", []).append(series)
    constant = [series for series in found if series.constant]
    nights = max((len(series.points) for series in found), default=0)
    return (
        templates()
        .get_template("history.html")
        .render(
            suite=suite,
            nights=nights,
            changed=changed(found),
            moving=groups,
            constant=constant,
            draw=draw,
            describe=describe,
            number=number,
            width=WIDTH,
            height=HEIGHT,
            style=Markup(asset("style.css")),
        )
    )
