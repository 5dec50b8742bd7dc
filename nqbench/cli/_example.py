"""A plugin as a suite would have it: from a shipped suite where one uses it, else its smallest entry."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any

from nqbench.api import Plugin, Quantizer, Sensitivity, Training
from nqbench.registry import Registered, registry

AXES = {
    "model": "models", "pruner": "pruners", "sensitivity": "sensitivities", "quantizer": "quantizers",
    "training": "trainings", "positions": "positions", "coder": "coders", "codec": "codecs",
}  # fmt: skip
"""The key of a suite that holds plugins of a kind."""


@dataclass(frozen=True)
class Example:
    """A few lines of a suite. text: YAML, the axis and one entry. suite: the shipped suite that has it, by its name, or
    nothing."""

    text: str
    suite: str


def example_of(entry: Registered) -> Example | None:
    """None where a required parameter has no example to give, and for a kind that a suite does not name. A text that
    only the user knows stands in capitals."""
    from nqbench.suite import shipped

    if entry.cls.kind not in AXES:
        return None
    for name, path in sorted(shipped().items(), key=lambda item: (item[0] != "quickstart", item[0])):
        for found in _uses(entry.cls, path):
            return Example(_text(entry.cls, found) + _beside(entry.cls), name)
    least = _least(entry.cls)
    return None if least is None else Example(_text(entry.cls, least) + _beside(entry.cls), "")


def _beside(cls: type[Plugin]) -> str:
    """The sensitivity, or the quantizer, without which there would be no trial."""
    if issubclass(cls, Training) and cls.quantizers:
        known = [entry.cls for entry in registry().all("quantizer") if entry.cls.name in cls.quantizers]
        entries = [(quantizer, least) for quantizer in known if (least := _least(quantizer)) is not None]
        return f"\n{_text(*entries[0])}" if entries else ""
    if not issubclass(cls, Quantizer) or "none" in cls.takes:
        return ""
    sensitivities = (entry.cls for entry in registry().all("sensitivity"))
    fitting = (s.name for s in sensitivities if issubclass(s, Sensitivity) and s.form in cls.takes)
    return "".join(f"\n{AXES['sensitivity']}:\n  - {name}" for name in islice(fitting, 1))


def _least(cls: type[Plugin]) -> Any:
    """The entry with what the plugin requires, and no more."""
    required: dict[str, Any] = {}
    for name, field in cls.model_fields.items():
        if not field.is_required():
            continue
        if not field.examples and field.annotation is not str:
            return None
        required[name] = field.examples[0] if field.examples else name.upper()
    return {cls.name: required} if required else cls.name


def _uses(cls: type[Plugin], path: Path) -> Iterator[Any]:
    """The entries of a suite's own axis that name the plugin by today's name, those with parameters first."""
    if not re.search(rf"(?<![\w-]){re.escape(cls.name)}(?![\w-])", path.read_text(encoding="utf-8")):
        return
    entries = list(_entries(_document(path), AXES[cls.kind]))
    named = [entry for entry in entries if isinstance(entry, Mapping) and list(entry) == [cls.name]]
    yield from [*named, *(entry for entry in entries if entry == cls.name)]


@cache
def _document(path: Path) -> Any:
    """A shipped suite as plain values, read once for all pages."""
    from ruamel.yaml import YAML

    return YAML(typ="safe").load(path)


def _entries(document: Any, axis: str) -> Iterator[Any]:
    """What stands under an axis anywhere in a suite: in profiles and in more grids too; links of chains one by one."""
    if isinstance(document, Mapping):
        for key, value in document.items():
            if key == axis:
                for entry in value if isinstance(value, list) else [value]:
                    yield from entry if isinstance(entry, list) else [entry]
            elif key in ("profiles", "include") or isinstance(value, Mapping | list):
                yield from _entries(value, axis)
    elif isinstance(document, list):
        for value in document:
            yield from _entries(value, axis)


def _text(cls: type[Plugin], entry: Any) -> str:
    """YAML of one axis with one entry; JSON is YAML, so parameters are written as that, without needless quotes."""
    if isinstance(entry, Mapping):
        inside = ", ".join(f"{name}: {_flow(value)}" for name, value in (entry[cls.name] or {}).items())
        return f"{AXES[cls.kind]}:\n  - {cls.name}: {{{inside}}}"
    return f"{AXES[cls.kind]}:\n  - {entry}"


def _flow(value: Any) -> str:
    if isinstance(value, list):
        return "[" + ", ".join(_flow(one) for one in value) + "]"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_flow(k)}: {_flow(v)}" for k, v in value.items()) + "}"
    plain = isinstance(value, str) and re.fullmatch(r"[A-Za-z][\w./-]*", value) and value not in _NOT_TEXT
    return str(value) if plain else json.dumps(value)


_NOT_TEXT = {"true", "false", "null", "yes", "no", "on", "off", "y", "n"}
