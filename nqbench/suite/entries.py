"""A suite's entries for plugins -> validated choices, swept over lists of parameters.

``kmeans`` is a plugin with its defaults; ``kmeans: {k: [4, 8, 16]}`` three of them. A value is first tried as it is;
only if the parameter does not take it and it is a list are its elements swept: so ``fixed: [0]`` is one value where
``fixed`` takes a list, and ``fixed: [[0], [0, 1]]`` two. The entry ``none`` is the absence of a plugin, as is any
pruner that does not prune and any sensitivity of the form ``none``.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from pydantic import ValidationError

from nqbench.api.plugin import Plugin
from nqbench.api.pruner import Pruner
from nqbench.api.sensitivity import Sensitivity
from nqbench.pipeline.trial import Choice
from nqbench.registry import Broken, Registry, did_you_mean
from nqbench.suite.document import Document, KeyPath
from nqbench.suite.spec import refused

NONE = "none"
MAY_BE_ABSENT = ("pruner", "sensitivity", "training")


@dataclass(frozen=True)
class Reader:
    """Reads entries of one document against one registry."""

    document: Document
    registry: Registry

    def choices(self, kind: str, path: KeyPath, entries: Sequence[Any]) -> list[Choice | None]:
        """All plugins with parameters that the entries of an axis describe, in order, each once. None: no plugin of
        that kind."""
        found: list[Choice | None] = []
        for where, entry in self._located(path, entries):
            found += self._entry(kind, where, entry)
        return list(dict.fromkeys(found))

    def chains(self, path: KeyPath, entries: Sequence[Any]) -> list[tuple[Choice, ...]]:
        """As ``choices`` for trainings: a list inside the list is a chain, run in order."""
        found: list[tuple[Choice, ...]] = []
        for where, entry in self._located(path, entries):
            links = entry if isinstance(entry, list) else [entry]
            inside = isinstance(entry, list)
            swept = [self._entry("training", (*where, i) if inside else where, link) for i, link in enumerate(links)]
            found += [tuple(c for c in chain if c is not None) for chain in itertools.product(*swept)]
        return list(dict.fromkeys(found))

    def _located(self, path: KeyPath, entries: Sequence[Any]) -> list[tuple[KeyPath, Any]]:
        """Each entry with its own path; a lone entry that stands for a list of one has the axis's path."""
        listed = self.document.has((*path, 0))
        return [((*path, i) if listed else path, entry) for i, entry in enumerate(entries)]

    def _entry(self, kind: str, path: KeyPath, entry: Any) -> list[Choice | None]:
        name, parameters, below = self._split(kind, path, entry)
        if name == NONE and kind in MAY_BE_ABSENT and not parameters and (kind, name) not in self.registry.found:
            return [None]
        cls = self.plugin(kind, path if isinstance(entry, str) else below, name)
        instances = [self._make(cls, below, values) for values in self._sweep(cls, below, parameters)]
        for plugin in instances:
            if isinstance(plugin, Pruner):
                self._check_sensed(plugin, below)
        return [None if is_absence(plugin) else Choice.of(plugin) for plugin in instances]

    def _check_sensed(self, pruner: Pruner, path: KeyPath) -> None:
        """Raises SuiteError unless the sensitivity that a pruner uses exists and has a form that it takes."""
        named = pruner.sensed_by()
        if named is None:
            return
        at = (*path, "sensitivity")
        form = cast(type[Sensitivity], self.plugin("sensitivity", at, named)).form
        if form not in pruner.takes:
            taken = " or ".join(sorted(pruner.takes))
            raise self.document.error(at, f"pruner '{pruner.name}' takes {taken}, not '{named}' ({form})")

    def _split(self, kind: str, path: KeyPath, entry: Any) -> tuple[str, dict[str, Any], KeyPath]:
        """name, parameters and the path of the parameters of ``name`` or ``name: {parameters}``."""
        if isinstance(entry, str):
            return entry, {}, path
        if not isinstance(entry, dict) or not entry:
            raise self.document.error(path, f"must be the name of a {kind}, or 'name: {{parameter: value}}'")
        if len(entry) > 1:
            first, second, *_ = entry
            message = f"stands beside '{first}', where one name with its parameters was expected: {first}: {{...}}"
            raise self.document.error((*path, second), f"{message} (check the indentation)")
        ((name, parameters),) = entry.items()
        if parameters is not None and not isinstance(parameters, dict):
            raise self.document.error((*path, name), f"must be a mapping of parameters to values, not {parameters!r}")
        return name, parameters or {}, (*path, name)

    def plugin(self, kind: str, path: KeyPath, name: str) -> type[Plugin]:
        """The class, or a SuiteError that suggests a name or tells which package is broken."""
        if (kind, name) in self.registry.found:
            return self.registry.found[kind, name].cls
        raise self.document.error(path, f"unknown {kind} '{name}'{self._hint(kind, name)}")

    def _hint(self, kind: str, name: str) -> str:
        """A broken package that speaks of the name; else the nearest name; else any broken package; else all names."""
        if (kind, name) in self.registry.absent:
            return f": it {self.registry.absent[kind, name].reason}"
        wanted = _squash(name)
        broken = self.registry.broken
        speaking = [b for b in broken if wanted in _squash(f"{b.what} {b.distribution} {b.reason}")]
        near = did_you_mean(name, self.registry.names(kind))
        if speaking or (broken and not near.startswith("; did")):
            return f"; {_tell(speaking or broken)}"
        return near

    def _sweep(self, cls: type[Plugin], path: KeyPath, parameters: dict[str, Any]) -> list[dict[str, Any]]:
        """The product over the parameters that are lists where the plugin takes no list."""
        axes = [[(key, value) for value in self._values(cls, path, key, parameters[key])] for key in parameters]
        return [dict(combination) for combination in itertools.product(*axes)]

    def _values(self, cls: type[Plugin], path: KeyPath, key: str, value: Any) -> list[Any]:
        if key not in cls.model_fields:
            known = list(cls.model_fields)
            hint = did_you_mean(key, known) if known else "; it takes no parameters"
            raise self.document.error((*path, key), f"{cls.kind} '{cls.name}' has no parameter '{key}'{hint}")
        fault = _fault(cls, key, value)
        if fault is None:
            return [value]
        if not isinstance(value, list):
            raise refused(self.document, (*path, key), fault)
        if not value:
            raise self.document.error((*path, key), "is an empty list; there is nothing to sweep")
        faults = [_fault(cls, key, element) for element in value]
        if all(faults) and _is_one_list(value, fault, faults):
            raise refused(self.document, (*path, *fault["loc"]), fault)
        for index, wrong in enumerate(faults):
            if wrong is not None:
                raise refused(self.document, (*path, key, index), wrong)
        return list(value)

    def _make(self, cls: type[Plugin], path: KeyPath, parameters: dict[str, Any]) -> Plugin:
        try:
            return validated(cls, parameters)
        except ValidationError as error:
            fault = error.errors(include_url=False)[0]
            raise refused(self.document, (*path, *fault["loc"]), dict(fault)) from None


def is_absence(plugin: Plugin) -> bool:
    """Whether the plugin stands for having none of its kind."""
    if isinstance(plugin, Pruner):
        return not plugin.prunes
    if isinstance(plugin, Sensitivity):
        return plugin.form == "none"
    return plugin.kind == "training" and plugin.name == NONE


def validated(cls: type[Plugin], parameters: dict[str, Any]) -> Plugin:
    """The plugin with these parameters, as YAML gives them; no number is guessed from text. ValidationError."""
    # JSON mode takes lists for tuples; strict mode takes neither "4" nor true for 4
    return cls.model_validate_json(json.dumps(_whole(parameters)), strict=True)


def _whole(value: Any) -> Any:
    """1e3 is a float in YAML; where a parameter counts something it should pass for 1000."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, list):
        return [_whole(item) for item in value]
    if isinstance(value, dict):
        return {key: _whole(item) for key, item in value.items()}
    return value


def _fault(cls: type[Plugin], key: str, value: Any) -> dict[str, Any] | None:
    """What is wrong with the value of one parameter, the others aside."""
    try:
        validated(cls, {key: value})
    except ValidationError as error:
        for fault in error.errors(include_url=False):
            if fault["loc"][:1] == (key,):
                return dict(fault)
    return None


def _is_one_list(value: Sequence[Any], fault: Mapping[str, Any], faults: Sequence[Mapping[str, Any] | None]) -> bool:
    """Whether a faulty list was meant as one value of a parameter that takes a list, and not as a sweep. fault: what is
    wrong with it as one value; faults: with its elements."""
    if all(found is not None and found["type"] in ("list_type", "tuple_type") for found in faults):
        return True
    inside = fault["loc"][1:]
    # lists in a list of other things are a sweep of which an element is wrong
    nested = all(isinstance(element, list) for element in value) and not any(isinstance(at, int) for at in inside[1:])
    return bool(inside) and not nested


def _tell(broken: Sequence[Broken]) -> str:
    first = broken[0]
    more = f" ({len(broken) - 1} more: nqbench list)" if len(broken) > 1 else ""
    return f"{first.distribution} {first.version} ({first.what}) is installed but broken: {first.reason}{more}"


def _squash(text: str) -> str:
    return text.lower().replace("-", "").replace("_", "")
