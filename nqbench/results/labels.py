"""Short names of configurations: a plugin with those of its parameters that tell records apart."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from nqbench.results.record import KINDS, Record
from nqbench.results.telling import KNOB, telling

_SINGLE = tuple(kind for kind in KINDS if kind != "training")
_DIGITS = 6
_EXACT = 17
"""Significant digits that tell any two floats apart."""


class Labels:
    """Labels within one set of records, or of trials that are still to run (``Record.planned``): those parameters are
    shown that tell a plugin's records apart (``nqbench.results.telling``), and the knob always; of a method, the knob's
    name alone, and only beside methods with another knob. Two different configurations of the set never get the same
    label."""

    def __init__(self, records: Iterable[Record]) -> None:
        self._seen: dict[tuple[str, str], dict[_Key, dict[str, object]]] = defaultdict(dict)
        self._told: dict[tuple[str, str], dict[_Key, frozenset[str]]] = {}
        self._values: dict[tuple[str, str, str], dict[str, object]] = defaultdict(dict)
        self._digits: dict[tuple[str, str, str], int] = {}
        self._settings: dict[str, set[object]] = {field: set() for field in (*_SETTINGS, "seed")}
        self.add(records)

    def add(self, records: Iterable[Record]) -> None:
        """Further members of the set, as a search comes to them."""
        for record in records:
            for kind, name, parameters in _plugins(record):
                version = _version(parameters, _knob(record, kind))
                seen = self._seen[kind, name]
                if (key := _key(version)) not in seen:
                    seen[key] = version
                    self._told.pop((kind, name), None)
                for field, value in parameters.items():
                    values = self._values[place := (kind, name, field)]
                    if (text := repr(value)) not in values:
                        values[text] = value
                        self._digits.pop(place, None)
            for field, known in self._settings.items():
                known.add(getattr(record, field))

    def _telling(self, kind: str, name: str, version: dict[str, object]) -> frozenset[str]:
        seen = self._seen.get((kind, name), {})
        if (kind, name) not in self._told:
            self._told[kind, name] = dict(zip(seen, telling(list(seen.values())), strict=True))
        return self._told[kind, name].get(_key(version), frozenset())

    def _short(self, kind: str, name: str, field: str, value: object) -> str:
        place = (kind, name, field)
        if place not in self._digits:
            self._digits[place] = digits(self._values.get(place, {}).values())
        return short(value, self._digits[place])

    def plugin(self, record: Record, kind: str, *, knob: bool = True) -> str:
        """``uniform(step=0.1)``; empty where the record has none of that kind. knob: False leaves its value out."""
        if kind == "training":
            if record.training == "none":
                return ""
            names = record.training.split("+")
            pairs = zip(names, record.training_params, strict=False)
            return "+".join(self._one("training", name, parameters, record, True) for name, parameters in pairs)
        name = getattr(record, kind)
        return self._one(kind, name, getattr(record, f"{kind}_params") or {}, record, knob) if name else ""

    def _one(self, kind: str, name: str, parameters: Mapping[str, Any], record: Record, knob: bool) -> str:
        own = _knob(record, kind)
        apart = self._telling(kind, name, _version(parameters, own))
        shown = [] if knob or own is None or own not in apart else [own]
        shown += [
            f"{field}={self._short(kind, name, field, value)}"
            for field, value in parameters.items()
            if (knob if field == own else field in apart)
        ]
        return f"{name}({', '.join(shown)})" if shown else name

    def method(self, record: Record) -> str:
        """Everything but model, knob and seed: ``kmeans layer huffman``. What a curve is named."""
        return self._line(record, knob=False)

    def configuration(self, record: Record) -> str:
        """Everything but model and seed, on one line."""
        return self._line(record, knob=True)

    def coding(self, record: Record) -> str:
        """What quantizes and writes the weights, on one line: ``configuration`` less pruner, sensitivity and training,
        which tables show in columns of their own."""
        return self._line(record, knob=True, without=("pruner", "sensitivity", "training"))

    def trial(self, record: Record) -> str:
        """Everything that tells a trial from the others of the set: model, configuration and, where they vary, seed."""
        seed = f"seed={record.seed}" if record.seed is not None and len(self._settings["seed"]) > 1 else ""
        words = (self.plugin(record, "model"), self.configuration(record), seed)
        return " ".join(word for word in words if word)

    def _line(self, record: Record, *, knob: bool, without: Collection[str] = ()) -> str:
        kinds = [kind for kind in KINDS if kind != "model"]
        words = ["" if kind in without else self.plugin(record, kind, knob=knob) for kind in kinds]
        words.insert(3, record.granularity or "")  # after pruner, sensitivity, quantizer
        varied = (field for field in _SETTINGS if len(self._settings[field]) > 1)
        words += [f"{field}={short(getattr(record, field))}" for field in varied]
        return " ".join(word for word in words if word)


_SETTINGS = ("streams", "unquantized", "fold_batchnorm", "device")


def configuration_key(record: Record, *, knob: bool = True, seed: bool = False) -> str:
    """Text that is equal for equal configurations. Without the knob: one text for a whole curve. With the seed: one
    for each repeat."""
    fields: dict[str, Any] = {}
    for kind in _SINGLE:
        parameters = getattr(record, f"{kind}_params")
        if not knob and kind in ("quantizer", "codec") and parameters and record.knob:
            parameters = {name: value for name, value in parameters.items() if name != record.knob}
        fields[kind] = (getattr(record, kind), parameters)
    fields["training"] = (record.training, record.training_params)
    fields["settings"] = (record.granularity, *(getattr(record, field) for field in _SETTINGS))
    if seed:
        fields["seed"] = record.seed
    return json.dumps(fields, sort_keys=True)


def knob_value(record: Record) -> float | int | str | None:
    """The value of the record's knob; None where it has none."""
    parameters = record.quantizer_params or record.codec_params or {}
    value = parameters.get(record.knob or "")
    return value if isinstance(value, int | float | str) else None


def first_name(text: str) -> str:
    """The plugin's name that the text of a method, or of a part of one, begins with."""
    return text.partition(" ")[0].partition("(")[0]


def digits(values: Iterable[object]) -> int:
    """The significant digits that tell these values apart for ``short``: six, or as many more as it takes."""
    known = list(values)
    most = len({short(value, _EXACT) for value in known})
    return next(n for n in range(_DIGITS, _EXACT + 1) if len({short(value, n) for value in known}) == most)


def short(value: object, digits: int = _DIGITS) -> str:
    """A parameter's value for a label, its floats with so many significant digits."""
    if isinstance(value, bool) or value is None:
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:.{digits}g}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(short(v, digits) for v in value) + "]"
    if isinstance(value, dict):
        return json.dumps(value, sort_keys=True)
    return str(value)


def _knob(record: Record, kind: str) -> str | None:
    return record.knob if kind in ("quantizer", "codec") else None


def _version(parameters: Mapping[str, Any], knob: str | None) -> dict[str, object]:
    return {field: KNOB if field == knob else repr(value) for field, value in parameters.items()}


_Key = tuple[tuple[str, object], ...]


def _key(version: Mapping[str, object]) -> _Key:
    return tuple(sorted(version.items(), key=lambda item: item[0]))


def _plugins(record: Record) -> list[tuple[str, str, Mapping[str, Any]]]:
    found = [(k, getattr(record, k), getattr(record, f"{k}_params") or {}) for k in _SINGLE if getattr(record, k)]
    names = record.training.split("+")
    found += [("training", name, p) for name, p in zip(names, record.training_params, strict=False)]
    return found
