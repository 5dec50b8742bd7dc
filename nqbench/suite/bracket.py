"""One method's search for its operating point: the smallest file that holds a target, over the method's knob.

The knob is walked on its own scale from x = 0, the largest file, to x = 1, the smallest. The search begins where the
answer is likely (``Knob.start``; the middle where none is named), doubles the knob until one point holds and a smaller
file does not, or goes less far where what is lost, taken for a power of the knob, says that this is enough. It narrows
that bracket where what is lost is likely what may be, until the files at its two ends differ by less than 2 %: no
further point could save more.

A metric need not fall with every step of the knob: a point may hold by luck. The answer is therefore *confirmed*: of it
and its two neighbours at least two must hold (their median does); where the neighbours are too far apart to tell, one
more point is asked for. A point that fails although a smaller file holds is a *violation* of monotony, and is counted.
A point whose trial failed says nothing: the search goes on around it.

Where the target is a number of bytes the search is the same, read from the other end: the largest file that holds it.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from nqbench.api.quantizer import Knob

WORTHWHILE = 0.02
"""The share of bytes that a further point must be able to save."""
RESOLUTION = 0.01
"""Relative width of a bracket below which no point is asked for (knobs with a log scale), or share of the range."""
NEIGHBOUR = 0.1
"""Files whose bytes differ by less than this share are neighbours."""
SLACK = 1e-9  # 99.0 - 98.5 is not exactly 0.5 in floating point
NO_KNOB = Knob("", 1, 1)
_NOISE = 0.1
"""The share of what may be lost below which a loss is taken for noise."""
_WITHIN, _BEYOND = 0.8, 1.25
"""The share of what may be lost that is aimed at by a point that is to hold, and by one that is not."""
_LEAST_LEAP = 1 / 16
"""The least distance of a new outermost point from the last, as a share of the first stride."""
_INNER = 0.25
"""A point inside a bracket keeps this share of its width from either end, unless little is known yet."""
_TRUSTED = 5
"""Points after which a search no longer trusts where the target is likely met."""


@dataclass(eq=False)
class Point:
    """One value of the knob: x in [0, 1]. Once it ended: by how much the target was missed (0 or less: it holds), how
    much may be lost at most (0: nothing, or unknown) and the bytes, each the mean over seeds (0: unknown); or that a
    trial failed."""

    x: float
    value: float
    missing: float | None = None
    most: float = 0.0
    bytes: float | None = None
    failed: bool = False

    @property
    def ended(self) -> bool:
        return self.failed or self.missing is not None

    @property
    def holds(self) -> bool:
        return not self.failed and self.missing is not None and self.missing <= SLACK

    @property
    def lost(self) -> float | None:
        """What is lost, as a share of what may be; None where that is not known."""
        if self.failed or self.missing is None or self.most <= 0 or not math.isfinite(self.missing):
            return None
        return self.missing / self.most + 1


def _crossing(a: Point, b: Point) -> float:
    """The share of the way from a point that holds to one that does not at which the target is likely met. Where it is
    known how much may be lost, what is lost is taken for a power of the knob (an exponential of x): errors grow with
    the square of a step, and a metric falls faster still. Losses that are no more than noise count as a tenth."""
    assert a.missing is not None
    assert b.missing is not None
    if a.lost is not None and b.lost is not None:
        low, high = math.log(max(a.lost, _NOISE)), math.log(b.lost)
        return -low / (high - low) if low <= 0 < high else 0.5
    spread = b.missing - a.missing
    return -a.missing / spread if math.isfinite(spread) and spread > 0 else 0.5


@dataclass(eq=False)
class Bracket:
    """The points of one search, in the order in which they were asked for."""

    knob: Knob
    points: list[Point] = field(default_factory=list)
    done: bool = False
    largest: bool = False
    """The target is a number of bytes, and the largest file that holds it is wanted: x = 0 is the smallest file."""

    @property
    def violations(self) -> int:
        """Points that fail although a point of a smaller file holds."""
        last = max((p.x for p in self.points if p.holds), default=-1.0)
        return sum(p.ended and not p.holds and not p.failed and p.x < last for p in self.points)

    @property
    def best(self) -> Point | None:
        """The smallest file that holds and is not refuted by its neighbours; the smallest that holds if all are."""
        held = self._held()
        return next((p for p in held if self._confirmed(p) is not False), held[0] if held else None)

    def next_points(self, budget: int) -> list[Point]:
        """The points to try now, all told ``budget`` at most; none (and ``done``) when nothing is left to learn."""
        if not all(p.ended for p in self.points):
            return []
        if len(self.points) < budget:
            for x in self._wanted():
                value = self._value_at(x)
                if all(p.value != value for p in self.points):
                    self.points.append(Point(x, value))
                    return self.points[-1:]
        self.done = True
        return []

    def stop(self) -> None:
        """Ask for nothing more, and forget the points that have not ended."""
        self.points = [p for p in self.points if p.ended]
        self.done = True

    # -- where to look next --------------------------------------------------------------------------------------
    def _wanted(self) -> list[float]:
        """Places worth a point, the best first."""
        if not self.points:
            return [0.0 if self.knob is NO_KNOB else self._x_of(self.knob.start)]
        if self.knob is NO_KNOB:
            return []
        held = self._held()
        if not held:
            return self._finer()
        for point in held:
            beyond = self._beyond(point)
            if beyond and beyond[-1].holds:  # a coarser point that gives a larger file: the search goes on from there
                continue
            last = beyond[-1] if beyond else point
            # past failed trials the search goes on, before it looks between them
            wanted = [*self._coarser(last)] if point is last or last.failed else []
            wanted += self._inside(point, beyond) if beyond else []
            if wanted:
                return wanted
            confirmed = self._confirmed(point)
            if confirmed is None:
                return self._mirrored(point, beyond)
            if confirmed:
                return []
        return []

    def _finer(self) -> list[float]:
        """Towards larger files; where trials failed on the way, between what there is."""
        first = min(self.points, key=lambda p: p.x)
        if first.x > 0:
            return [max(0.0, first.x - self._leap(first, _WITHIN))]
        short = [p.x for p in self.points if not p.failed]
        if short:
            return self._gaps(0.0, min(short))
        return self._coarser(max(self.points, key=lambda p: p.x))

    def _coarser(self, last: Point) -> list[float]:
        return [] if last.x >= 1 else [min(1.0, last.x + self._leap(last, _BEYOND))]

    def _leap(self, point: Point, aim: float) -> float:
        """How far beyond the outermost point the next one is: a stride, or less where what is lost says that a share
        ``aim`` of what may be is met before. What is lost is taken for a power of the knob, by this point and the one
        next to it; for its square, as errors of rounding are, where there is no other. Losses that are no more than
        noise say nothing."""
        told = {p.x: p.lost for p in self.points if p.lost is not None and p.lost > _NOISE}
        stride, lost = self._stride(), told.pop(point.x, None)
        if lost is None or self.largest or self.knob.integer or self.knob.scale != "log":
            return stride
        slope: float = 2 * math.log(self.knob.high / self.knob.low)
        if told:
            x = min(told, key=lambda place: abs(place - point.x))
            measured = (math.log(lost) - math.log(told[x])) / (point.x - x)
            slope = measured if measured > 0 else slope
        return float(min(stride, max(abs(math.log(lost / aim)) / slope, _LEAST_LEAP * self._first_stride())))

    def _stride(self) -> float:
        """Doubled with every point."""
        return float(self._first_stride() * 2 ** (len(self.points) - 1))

    def _first_stride(self) -> float:
        """A factor of two for a knob with a log scale, an eighth of a linear one's range."""
        k = self.knob
        if k.scale == "log":
            first = math.log(2) / math.log(k.high / k.low) if k.high > k.low else 1.0
        else:
            first = max(1 / 8, 1 / max(k.high - k.low, 1) if k.integer else 0.0)
        return float(first)

    def _inside(self, a: Point, beyond: Sequence[Point]) -> list[float]:
        """The next place between a point that holds and the ones after it that do not; none where it could save
        nothing, or where nothing can be told apart."""
        b = next((p for p in beyond if not p.failed), None)
        if b is None or beyond[0] is not b:
            return self._gaps(a.x, beyond[-1].x if b is None else b.x)
        assert a.bytes is not None
        assert b.bytes is not None
        if self._near(a, b) or abs(a.bytes - b.bytes) < WORTHWHILE * a.bytes:
            return []
        share = _crossing(a, b)
        margin = self._margin(a, b)
        # whole numbers may round the first to one of the ends
        return [a.x + (b.x - a.x) * part for part in (min(max(share, margin), 1 - margin), 0.5)]

    def _margin(self, a: Point, b: Point) -> float:
        """How near to an end of a bracket the next place may be, as a share of its width: so that, if it is the end of
        the next bracket, that one is just narrow enough. After a few points that did not do: a steep metric would
        creep."""
        assert a.bytes is not None
        assert b.bytes is not None
        if len(self.points) > _TRUSTED or min(a.bytes, b.bytes) <= 0:
            return _INNER
        return min(_INNER, 0.9 * WORTHWHILE / abs(math.log(a.bytes / b.bytes)))

    def _gaps(self, low: float, high: float) -> list[float]:
        """The middle of the widest gap between points in [low, high] that can still be told apart."""
        inside = sorted((p for p in self.points if low <= p.x <= high), key=lambda p: p.x)
        gaps = [(b.x - a.x, a, b) for a, b in itertools.pairwise(inside) if not self._near(a, b)]
        return [(a.x + b.x) / 2 for _, a, b in sorted(gaps, key=lambda gap: -gap[0])]

    def _mirrored(self, point: Point, beyond: Sequence[Point]) -> list[float]:
        """As far on the side of the larger files as the next point is on the other."""
        apart = min((p.x - point.x for p in beyond), default=self._stride() / 8)
        if self.knob.integer:
            apart = max(apart, self._unit(point))
        return [max(0.0, point.x - apart)]

    def _unit(self, point: Point) -> float:
        """The width in x of one whole number at a point of an integer knob."""
        k = self.knob
        if k.scale == "log":
            return math.log(1 + 1 / point.value) / math.log(k.high / k.low)
        return 1 / (k.high - k.low)

    # -- what the points say ---------------------------------------------------------------------------------------
    def _held(self) -> list[Point]:
        """Points that hold, the smallest file first."""
        return sorted((p for p in self.points if p.holds), key=lambda p: -p.x if self.largest else p.bytes or 0)

    def _beyond(self, point: Point) -> list[Point]:
        """The points after this one, by x, up to the first that was evaluated."""
        after = sorted((p for p in self.points if p.x > point.x), key=lambda p: p.x)
        cut = next((i for i, p in enumerate(after) if not p.failed), len(after) - 1)
        return after[: cut + 1]

    def _confirmed(self, point: Point) -> bool | None:
        """Whether of a point that holds and its two neighbours the median holds; None where one is yet to be tried."""
        others = sorted((p for p in self.points if not p.failed and p.ended), key=lambda p: p.x)
        at = others.index(point)
        if at + 1 < len(others) and others[at + 1].holds:
            return True
        if at == 0:
            return True if point.x <= 0 or len(others) == 1 else None
        before = others[at - 1]
        if at + 1 == len(others) and before.holds:
            return True
        assert before.bytes is not None
        assert point.bytes is not None
        if abs(before.bytes - point.bytes) <= NEIGHBOUR * point.bytes or self._near(before, point):
            return before.holds
        return None

    def _near(self, a: Point, b: Point) -> bool:
        """Whether nothing worth trying lies between two points."""
        if self.knob.integer:
            return abs(a.value - b.value) <= 1
        if self.knob.scale == "log":
            return abs(math.log(b.value / a.value)) < RESOLUTION
        return abs(b.value - a.value) < RESOLUTION * (self.knob.high - self.knob.low)

    # -- the knob's scale ------------------------------------------------------------------------------------------
    def _value_at(self, x: float) -> float:
        """The knob's value at x; whole where it must be."""
        k = self.knob
        t = 1 - x if self._falls else x
        value = k.low * (k.high / k.low) ** t if k.scale == "log" else k.low + (k.high - k.low) * t
        return float(round(value)) if k.integer else float(f"{value:.6g}")

    def _x_of(self, value: float | None) -> float:
        """x at a value of the knob, inside [0, 1]; the middle where there is none."""
        k = self.knob
        if value is None or k.high <= k.low:
            return 0.5
        if k.scale == "log":
            t = math.log(value / k.low) / math.log(k.high / k.low) if value > 0 else 0.0
        else:
            t = (value - k.low) / (k.high - k.low)
        t = min(max(t, 0.0), 1.0)
        return 1 - t if self._falls else t

    @property
    def _falls(self) -> bool:
        """Whether the knob's value falls as x grows."""
        return (self.knob.more_bytes == "up") != self.largest
