"""The lines of a figure, named where they end: which methods get a colour, what each is called, where its name stands.

A reader tells six colours apart and reads a name beside a line faster than a legend. So six methods are drawn in colour
and named: the first ranked of each quantizer, and if those are fewer, the next of them all. The others are there in
grey, with their names at a touch.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from nqbench.report.data import ReportData
from nqbench.results.labels import digits, short
from nqbench.results.leaderboard import Row
from nqbench.results.methods import MethodRow
from nqbench.results.record import Record
from nqbench.results.telling import KNOB, knob_of, telling

NAMED = 6
OTHERS = "others"
HEIGHT = 400
"""Pixels of the whole figure."""
_INNER = 330
"""Of them, about, what lies between the axes."""
_LINE = 15
"""Pixels from name to name."""
_LONGEST = 34
"""Characters of a name."""
_CUT = 12
"""Characters of a word in a name that is too long."""


def prominent(data: ReportData, model: str) -> dict[str, str]:
    """Method -> what its line is called, of the ``NAMED`` methods that are drawn in colour, as they are ranked: what
    tells them from one another, the quantizer first, and the knob where a grey line of it has another. No two names are
    equal."""
    ranked = _coloured(data, data.methods[model])
    drawn = [_parts(data.by_key[row.best.keys[0]]) for row in data.methods[model]]
    words = _telling([data.by_key[row.best.keys[0]] for row in ranked], drawn)
    found: dict[str, str] = {}
    for row, own in zip(ranked, words, strict=True):
        name = own if len(own) <= _LONGEST else f"{own[: _LONGEST - 1]}…"
        taken = [other for other in found.values() if other.partition(" #")[0] == name]
        found[row.method] = f"{name} #{len(taken) + 1}" if taken else name
    return found


def _coloured(data: ReportData, ranked: Sequence[MethodRow]) -> list[MethodRow]:
    """Of many settings of one quantizer the first stands for all, while others are not shown at all."""
    quantizers = [record.quantizer or record.codec for record in (data.by_key[row.best.keys[0]] for row in ranked)]
    places = sorted(range(len(ranked)), key=lambda place: quantizers[place] in quantizers[:place])[:NAMED]
    return [ranked[place] for place in sorted(places)]


def _telling(records: Sequence[Record], drawn: Sequence[_Parts]) -> list[str]:
    """For each of these records of different methods, in a few words, how it differs from the others. drawn: the parts
    of all methods of the figure."""
    parts = [_parts(record) for record in records]
    kinds = [kind for kind in (*_ORDER, *_SETTINGS) if len({repr(p.get(kind)) for p in parts}) > 1]
    names = [[_named(kind, place, parts, drawn) for kind in kinds] for place in range(len(parts))]
    return [name or parts[place]["quantizer"][0] or "" for place, name in enumerate(shortened(names, _LONGEST))]


def shortened(names: Sequence[Sequence[str]], longest: int) -> list[str]:
    """Names of words at the same places, of at most so many characters if that can be had without making two alike:
    parameters go first, those of the last words before those of the first, then the ends of long words, then words."""
    joined = _joined(names)
    for shorter in (_plain, _cut, _nothing):
        for place in reversed(range(len(names[0]) if names else 0)):
            if max(map(len, joined)) <= longest:
                return joined
            fewer = [[*words[:place], shorter(words[place]), *words[place + 1 :]] for words in names]
            if len(set(_joined(fewer))) == len(set(joined)) and all(_joined(fewer)):
                names, joined = fewer, _joined(fewer)
    return joined


def _plain(word: str) -> str:
    """Without parameters."""
    return word.partition("(")[0]


def _cut(word: str) -> str:
    return word if len(word) <= _CUT or "(" in word else f"{word[: _CUT - 1]}…"


def _nothing(word: str) -> str:
    return ""


def _joined(names: Sequence[Sequence[str]]) -> list[str]:
    return [" ".join(filter(None, words)) for words in names]


_ORDER = ("quantizer", "codec", "training", "coder", "granularity", "positions", "sensitivity", "pruner")
_SETTINGS = ("streams", "unquantized", "fold_batchnorm", "device")


_Parts = Mapping[str, tuple[str, Mapping[str, Any]]]


def _parts(record: Record) -> _Parts:
    """Kind -> name and parameters, with ``KNOB`` for the knob's value."""
    found: dict[str, tuple[str, dict[str, Any]]] = {}
    for kind in _ORDER:
        name, given = getattr(record, kind, None), getattr(record, f"{kind}_params", None) or {}
        if kind == "training":
            links = enumerate(given)
            name, given = ("" if name == "none" else name), {f"{i}.{k}": v for i, one in links for k, v in one.items()}
        found[kind] = name or "", {k: KNOB if k == record.knob else v for k, v in given.items()}
    return found | {name: (f"{name}={short(getattr(record, name))}", {}) for name in _SETTINGS}


def _named(kind: str, place: int, parts: Sequence[_Parts], drawn: Sequence[_Parts]) -> str:
    """The plugin with those parameters that tell it from those of its name."""
    name, own = parts[place][kind]
    versions = {repr(given): _version(given) for given in (p[kind][1] for p in parts if p[kind][0] == name)}
    told = dict(zip(versions, telling(list(versions.values())), strict=True))[repr(own)]
    if len({knob_of(p[kind][1]) for p in drawn if p[kind][0] == name}) > 1:
        told |= knob_of(own)
    places = {k: digits(p[kind][1].get(k) for p in parts if p[kind][0] == name) for k in told}
    shown = [_said(k, v, places[k]) for k, v in sorted(own.items(), key=lambda pair: pair[1] is not KNOB) if k in told]
    return f"{name}({', '.join(shown)})" if shown else name


def _version(given: Mapping[str, Any]) -> dict[str, object]:
    """What ``telling`` compares; of parameters that tell as much the first, and a share or a step says more than a
    count."""
    ordered = sorted(given, key=lambda parameter: not isinstance(given[parameter], float))
    return {parameter: KNOB if given[parameter] is KNOB else repr(given[parameter]) for parameter in ordered}


def _said(parameter: str, value: object, places: int) -> str:
    name = parameter.partition(".")[2] or parameter
    return name if value is KNOB else f"{name}={short(value, places)}"


def logarithmic(rows: Sequence[Row]) -> bool:
    """Whether the metric of these rows is a distance from the float network, which spans decades: zero for that network
    itself, and more for all others."""
    known = [row for row in rows if row.metric is not None]
    return bool(known) and all(row.is_distance and (row.metric or 0.0) > 0 for row in known)


def span(rows: Sequence[Row], reach: float) -> tuple[float, float] | None:
    """The vertical range of a figure of the metric: without networks that lost more than ``reach``, which would squeeze
    the rest into a line. None where no row has a metric."""
    known = [row for row in rows if row.metric is not None and row.drop is not None]
    shown = [row.metric or 0.0 for row in known if (row.drop or 0.0) <= reach]
    if len(shown) < 3:
        shown = [row.metric or 0.0 for row in known]
    if not shown:
        return None
    if logarithmic(rows):
        return min(shown) / 1.25, max(shown) * 1.25
    shown += [row.metric_float for row in known[:1] if row.metric_float is not None]
    margin = 0.06 * ((max(shown) - min(shown)) or 1.0)
    return min(shown) - margin, max(shown) + margin


def names(data: ReportData, model: str, named: Mapping[str, str]) -> list[dict[str, Any]]:
    """For each named line: where it ends (``file_bytes``, ``metric``), and at which height its name stands (``at``), so
    that names do not cover one another."""
    rows = data.by_model[model]
    frame = span(rows, data.reach(model))
    if frame is None:
        return []
    low, high = frame
    ends = []
    for method, name in named.items():
        inside = [row for row in rows if row.method == method and row.metric is not None and low <= row.metric <= high]
        if inside:
            last = max(inside, key=lambda row: row.file_bytes)
            ends.append({"model": model, "line": name, "file_bytes": last.file_bytes, "metric": last.metric})
    ends.sort(key=lambda end: float(str(end["metric"])))
    heights, bottom, top = [float(str(end["metric"])) for end in ends], low, high
    if logarithmic(rows):
        heights, bottom, top = [math.log(height) for height in heights], math.log(low), math.log(high)
    places = spread(heights, bottom, top, _LINE * (top - bottom) / _INNER)
    if logarithmic(rows):
        places = [math.exp(place) for place in places]
    return [{**end, "at": place} for end, place in zip(ends, places, strict=True)]


def spread(wanted: Sequence[float], low: float, high: float, apart: float) -> list[float]:
    """Rising places, each at least ``apart`` from the next and, where there is room, within [low, high]: pushed up from
    below where they are too near, then down again from the top."""
    places: list[float] = []
    for value in wanted:
        places.append(max(value, places[-1] + apart) if places else max(value, low))
    top = high
    for index in range(len(places) - 1, -1, -1):
        places[index] = min(places[index], top)
        top = places[index] - apart
    return places
