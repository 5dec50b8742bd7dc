"""Whether a row's own figures are still those that checking its file finds: what ranks a row could be edited later."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from nqbench.api.errors import BadInput
from nqbench.board.rows import BoardRow, Found
from nqbench.engine.checking import allowed
from nqbench.results.record import unpack_correct

_OF_THE_FILE = (
    "file_bytes", "parts", "decoded_sha256", "batchnorm_bytes", "ratio", "file_ratio", "own_ratio", "bits_per_weight",
)  # fmt: skip
"""What follows from the file and the network's form: the same wherever it is found."""
_OF_THE_EXAMPLES = ("correct", "values", "same_network")
"""What only the environment that found it finds again to the last digit."""


def edits(row: BoardRow, has: Found, *, exact: bool) -> Iterator[str]:
    """Where the board's own figures are not what was found now, a sentence each. exact: found in an environment that
    the row was found to hold in before."""
    kept = row.found
    of_file = has.as_before if kept.batchnorm_bytes is None else has
    for name in _OF_THE_FILE:
        yield from _same(name, getattr(kept, name), getattr(of_file, name))
    for name in ("metric_name", "metric_unit", "metric_higher_is_better"):
        said = getattr(kept, name)
        # a row of before these were kept shows its record's
        yield from _same(name, getattr(row.record, name) if said is None else said, getattr(has, name))
    yield from _same("examples", kept.examples, has.examples)
    if kept.statistic is not None:  # nor had they this
        yield from _same("statistic", kept.statistic, has.statistic)
    # a metric that a row lacks says nothing: the model may have got it since
    units = {row.record.metric_name: row.record.metric_unit, has.metric_name: has.metric_unit}
    figures: list[tuple[str, float, float | None, str | None]]
    figures = [(name, value, has.metrics.get(name), units.get(name)) for name, value in kept.metrics.items()]
    figures += [(name, getattr(kept, name), getattr(has, name), has.metric_unit) for name in ("metric", "metric_float")]
    for name, figure, value, unit in figures:
        within = 0.0 if exact else has.allowed(has.metric_name if name == "metric" else name, figure, unit)
        if value is None or abs(value - figure) > within:
            yield f"the board's own {name} is {_short(figure)}, it is {_short(value)} (allowed: {within:g})"
    if exact:
        for name in _OF_THE_EXAMPLES:
            yield from _same(name, getattr(kept, name), getattr(has, name))
    else:
        shares = [_share(one) for one in (kept, has)]
        if abs(shares[1] - shares[0]) > allowed(shares[0], "%"):
            yield f"the board's own correct examples are {shares[0]:.6g} %, they are {shares[1]:.6g} %"


def _share(found: Found) -> float:
    """Percent of the examples that are answered right; -1 where that is not kept, or cannot be read."""
    try:
        answers = unpack_correct(found.correct or "", found.examples or 0)
    except BadInput:
        return -1.0
    return 100 * float(answers.mean()) if answers.size else -1.0


def _same(name: str, said: Any, value: Any) -> Iterator[str]:
    if said != value:
        yield f"the board's own {name} was edited: it is {_short(said)}, the file gives {_short(value)}"


def _short(value: Any) -> str:
    text = f"{value:.6g}" if isinstance(value, float) else str(value)
    return text if len(text) <= 40 else f"{text[:40]}..."
