# ruff: noqa: T201 - a script that prints its table
"""Bytes of each method at equal loss, against one of them: what the findings of the frontier suites quote.

    python benchmarks/equal_loss.py OUTPUT_OR_RECORDS --at 0.032 [0.15 ...] [--against "gptq(step, beam_width=1)"]

Between two files of a method, log bytes are interpolated linearly over the log of what is lost (a divergence is lost
as it is). A method with one file is compared at its own loss. Brackets: 95 % intervals, the test examples drawn again,
the same for both sides, where the records have them. ``--model`` names one of several.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "plugins")]

import numpy as np  # noqa: E402

from nqbench.results.curves import Curve, Estimate, estimate  # noqa: E402
from nqbench.results.exports import read_side  # noqa: E402
from nqbench.results.labels import Labels  # noqa: E402
from nqbench.results.leaderboard import Row, leaderboard  # noqa: E402
from nqbench.results.redrawn import Redrawn  # noqa: E402


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--at", type=float, nargs="+", required=True, help="losses, in the metric's unit")
    parser.add_argument("--against", default="", help="a part of the other side's name; else the first")
    parser.add_argument("--model", default="")
    given = parser.parse_args(argv)
    records = read_side(given.run).records
    known = {record.key: record for record in records}
    rows = [row for row in leaderboard(records, labels=Labels(records)) if row.drop is not None and row.drop > 0]
    rows = [row for row in rows if row.model.startswith(given.model)]
    models = sorted({row.model for row in rows})
    if len(models) != 1:
        sys.exit(f"{given.run} has the models {', '.join(models) or 'none'}: name one by --model")
    methods: dict[str, list[Row]] = {}
    for row in rows:
        methods.setdefault(row.method, []).append(row)
    names = [name for name in methods if given.against in name]
    if not names:
        sys.exit(f"no method is named like {given.against!r}; there are: {'; '.join(methods)}")
    anchor, draws = methods[names[0]], Redrawn(rows, known)
    for loss in given.at:
        print(f"at {loss:g}, against {names[0]}{'' if covers(_curve(anchor), loss) else ', beyond its files'}:")
        for name, points in _by_bytes(methods, loss):
            here = bytes_at(_curve(points), loss)
            change = _text(_compared(anchor, points, partial(_change, loss=loss), draws))
            print(f"  {here:>12,.0f} bytes  {change:30} {name}")
    print(f"methods with one file, against {names[0]} at their own loss:")
    for name, points in methods.items():
        if len(points) == 1 and points is not anchor:
            change = _text(_compared(anchor, points, _change_at_own, draws))
            print(f"  {points[0].file_bytes:>12,.0f} bytes  {change:30} {name}, loss {points[0].drop:.4g}")


def _by_bytes(methods: dict[str, list[Row]], loss: float) -> list[tuple[str, list[Row]]]:
    covered = {name: _curve(points) for name, points in methods.items() if covers(_curve(points), loss)}
    return [(name, methods[name]) for name in sorted(covered, key=lambda name: bytes_at(covered[name], loss) or 0.0)]


def covers(curve: Curve, loss: float) -> bool:
    return len(curve) > 1 and min(-q for _, q in curve) <= loss <= max(-q for _, q in curve)


def bytes_at(curve: Curve, loss: float) -> float | None:
    """By the two files next to the loss, beyond the last ones too: a curve that covers it need not when the examples
    are drawn again. None where a file loses nothing."""
    points = sorted((-quality, size) for size, quality in curve)
    if len(points) < 2 or points[0][0] <= 0:
        return None
    losses, sizes = np.log(np.array(points).T)
    at = min(max(int(np.searchsorted(losses, math.log(loss))) - 1, 0), len(points) - 2)
    rise = (sizes[at + 1] - sizes[at]) / (losses[at + 1] - losses[at]) if losses[at + 1] > losses[at] else 0.0
    return math.exp(sizes[at] + rise * (math.log(loss) - losses[at]))


def _change(anchor: Curve, test: Curve, loss: float) -> float | None:
    ours, theirs = bytes_at(anchor, loss), bytes_at(test, loss)
    return None if ours is None or theirs is None else theirs / ours - 1


def _change_at_own(anchor: Curve, test: Curve) -> float | None:
    ((size, quality),) = test
    ours = bytes_at(anchor, -quality) if quality < 0 else None
    return None if ours is None else size / ours - 1


def _compared(anchor: Sequence[Row], test: Sequence[Row], compare, draws: Redrawn) -> Estimate | None:  # type: ignore[no-untyped-def]
    both = draws.of(anchor), draws.of(test)
    again = None if both[0] is None or both[1] is None else (both[0], both[1])
    if len(test) == 1 and not covers(_curve(anchor), -_curve(test)[0][1]):
        return None
    return estimate(_curve(anchor), _curve(test), compare, again)


def _curve(rows: Sequence[Row]) -> Curve:
    return [(row.file_bytes, -row.drop) for row in rows if row.drop is not None]


def _text(found: Estimate | None) -> str:
    if found is None:
        return "-"
    ends = f" ({100 * found.low:+.1f} to {100 * found.high:+.1f})" if found.known else ""
    return f"{100 * found.change:+.1f} %{ends}"


if __name__ == "__main__":
    main(sys.argv[1:])
