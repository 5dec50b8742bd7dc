"""Translates former names in suites and on the command line to those of today, before anything else reads them.

The core's own words are the tables below; a plugin's former names and parameters are declared by its class
(``Plugin.formerly``, ``Plugin.former_fields``). Each translation is reported in one line.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from nqbench.api.errors import Note
from nqbench.registry import Registry
from nqbench.suite.document import Document, KeyPath

KEYS = {"scopes": "granularities", "others": "unquantized"}
"""A suite's keys."""
AXES = {"scope": "granularity", "others": "unquantized"}
"""A trial's axes, in ``exclude`` and ``--only``."""
PLUGIN_KEYS = {
    "models": "model",
    "pruners": "pruner",
    "sensitivities": "sensitivity",
    "quantizers": "quantizer",
    "trainings": "training",
    "positions": "positions",
    "coders": "coder",
    "codecs": "codec",
}
"""Which kind of plugin a suite's key lists."""


class OldWord(Note):
    """Something is called by a name that the next version will not know."""


@dataclass
class Vocabulary:
    """Translates for one suite, or one command line, and keeps what it has translated. where: its name for the user."""

    registry: Registry
    where: str
    renamed: dict[str, str] = field(default_factory=dict)

    def tell(self) -> None:
        """Warn of all old words that were met since the last time, in one line."""
        if self.renamed:
            words = ", ".join(f"'{old}' is now '{new}'" for old, new in self.renamed.items())
            warnings.warn(
                f"{self.where}: {words}; the old words will not be read by the next version", OldWord, stacklevel=3
            )
        self.renamed = {}

    # -- documents -----------------------------------------------------------------------------------------------
    def document(self, document: Document) -> None:
        """Every key, name and parameter of a suite. Raises SuiteError where an old word stands beside the new one."""
        self._keys(document, ())

    def _keys(self, document: Document, path: KeyPath) -> None:
        """A mapping with a suite's keys: the suite, a profile, an entry of ``include``."""
        if not isinstance(document.value(path), dict):
            return
        for key in list(document.value(path)):
            if key in KEYS:
                document.rename((*path, key), self._said(key, KEYS[key]))
        for key in document.value(path):
            at = (*path, key)
            if key in PLUGIN_KEYS:
                self._entries(document, PLUGIN_KEYS[key], at)
            elif key == "include":
                for below in _each(document, at):
                    self._keys(document, below)
            elif key == "exclude":
                for below in _each(document, at):
                    self._matcher(document, below)
            elif key == "profiles" and isinstance(document.value(at), dict):
                for name in document.value(at):
                    self._keys(document, (*at, name))
            elif key == "target" and isinstance(document.value(at), dict) and "baseline" in document.value(at):
                for kind in ("quantizer", "codec"):
                    self._entries(document, kind, (*at, "baseline"))

    def _matcher(self, document: Document, path: KeyPath) -> None:
        if not isinstance(document.value(path), dict):
            return
        for axis in list(document.value(path)):
            if axis in AXES:
                document.rename((*path, axis), self._said(axis, AXES[axis]))
        for axis in document.value(path):
            if axis in PLUGIN_KEYS.values():
                self._entries(document, axis, (*path, axis))

    def _entries(self, document: Document, kind: str, path: KeyPath) -> None:
        """A name, a name with parameters, or a list of them, or of lists."""
        value = document.value(path)
        if isinstance(value, list):
            for below in _each(document, path):
                self._entries(document, kind, below)
        elif isinstance(value, str):
            document.put(path, self.name(kind, value))
        elif isinstance(value, dict):
            for name in list(value):
                today = self.name(kind, name)
                if today != name:
                    document.rename((*path, name), today)
                self._parameters(document, kind, (*path, today))

    def _parameters(self, document: Document, kind: str, path: KeyPath) -> None:
        given = document.value(path)
        entry = self.registry.found.get((kind, str(path[-1])))
        if entry is None or not isinstance(given, dict):
            return
        for key in [key for key in given if key in entry.cls.former_fields]:
            former = entry.cls.former_fields[key]
            document.put((*path, key), former.value(given[key]))
            document.rename((*path, key), self._said(key, former.field))

    # -- one word ------------------------------------------------------------------------------------------------
    def name(self, kind: str, text: str) -> str:
        """A plugin's name; of trainings also a chain, ``one+other``."""
        return "+".join(self._said(one, self.registry.current(kind, one)) for one in text.split("+"))

    def assignment(self, path: KeyPath, value: Any) -> tuple[KeyPath, Any]:
        """The path and the value of ``--set``. What the value itself holds is the document's to translate."""
        parts: list[str | int] = []
        kind, entry = "", None
        for part in path:
            new: str | int = part
            if isinstance(part, str) and not kind:
                if not parts or parts[0] in ("include", "profiles"):
                    new = self._said(part, KEYS.get(part, part))
                kind = PLUGIN_KEYS.get(str(new), "")
            elif isinstance(part, str) and entry is None:
                new = self.name(kind, part)
                entry = self.registry.found.get((kind, new))
            elif isinstance(part, str) and entry is not None and part in entry.cls.former_fields:
                former = entry.cls.former_fields[part]
                new, value = self._said(part, former.field), former.value(value)
            parts.append(new)
        return tuple(parts), value

    def filters(self, filters: Sequence[str]) -> list[str]:
        """Those of ``--only``: ``axis=value[,axis=value...]``."""
        return [",".join(self._filter(part) for part in text.split(",")) for text in filters]

    def _filter(self, text: str) -> str:
        left, equals, value = text.strip().partition("=")
        axis, dot, parameter = left.partition(".")
        axis = self._said(axis, AXES.get(axis, axis))
        if axis in PLUGIN_KEYS.values() and not parameter:
            value = self.name(axis, value)
        for entry in self.registry.all(axis) if parameter else ():
            if parameter in entry.cls.former_fields and parameter not in entry.cls.model_fields:
                former = entry.cls.former_fields[parameter]
                parameter, value = self._said(parameter, former.field), _written(former.value(value))
        return f"{axis}{dot}{parameter}{equals}{value}"

    def _said(self, old: str, new: str) -> str:
        if old != new:
            self.renamed[old] = new
        return new


def _each(document: Document, path: KeyPath) -> list[KeyPath]:
    """The paths of a list's entries; a lone entry stands for a list of one."""
    value = document.value(path)
    return [(*path, index) for index in range(len(value))] if isinstance(value, list) else [path]


def _written(value: Any) -> str:
    """As in YAML."""
    return str(value).lower() if isinstance(value, bool) else str(value)
