"""Discovery of plugins: pluggy over the entry-point group ``nqbench``, tolerant of what is broken.

The registry knows names, not methods. A package that fails to import, states an API version that this core does not
serve, or registers a name twice, is listed as broken with its reason, and bricks nothing else.

nqbench's own distribution is read first, the others by name: whoever registers a name that is taken is the one who is
refused, so that installing a package never changes what an older suite means.
"""

from __future__ import annotations

import difflib
import importlib.metadata
import inspect
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import pluggy
from pydantic import ValidationError

from nqbench.api.codec import Codec
from nqbench.api.coder import Coder, Positions
from nqbench.api.engine import Engine
from nqbench.api.errors import BadInput, NotRegistered
from nqbench.api.hooks import PROJECT, Hooks
from nqbench.api.model import Model
from nqbench.api.plugin import API_VERSION, Plugin
from nqbench.api.pruner import Pruner
from nqbench.api.quantizer import Quantizer
from nqbench.api.sensitivity import Sensitivity
from nqbench.api.training import Training

GROUP = "nqbench"
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
"""What a plugin may be called: names stand in suites, file names, and lists with ``,``, ``=`` and ``+``."""
KINDS: dict[str, type[Plugin]] = {
    cls.kind: cls for cls in (Model, Pruner, Sensitivity, Quantizer, Training, Positions, Coder, Codec, Engine)
}


@dataclass(frozen=True)
class Registered:
    """A plugin class and the distribution it came from."""

    cls: type[Plugin]
    distribution: str
    version: str

    @property
    def summary(self) -> str:
        """First line of the class's docstring."""
        return inspect.cleandoc(self.cls.__doc__ or "").partition("\n")[0]


@dataclass(frozen=True)
class Broken:
    """What could not be used: an entry point, or one plugin of it, and why."""

    what: str
    distribution: str
    version: str
    reason: str


@dataclass(frozen=True)
class Absent:
    """A plugin that is left out because a distribution that it needs is not installed."""

    kind: str
    name: str
    requires: str
    install: str
    """What brings it: ``pip install 'nqbench[peers]'``."""

    @property
    def reason(self) -> str:
        return f"needs the package {self.requires}, which is not installed: {self.install}"


@dataclass
class Registry:
    manager: pluggy.PluginManager
    found: dict[tuple[str, str], Registered] = field(default_factory=dict)
    broken: list[Broken] = field(default_factory=list)
    absent: dict[tuple[str, str], Absent] = field(default_factory=dict)

    def names(self, kind: str) -> list[str]:
        return sorted(name for k, name in self.found if k == kind)

    def all(self, kind: str | None = None) -> list[Registered]:
        """Every plugin, by kind and name."""
        return [self.found[key] for key in sorted(self.found) if kind in (None, key[0])]

    def current(self, kind: str, name: str) -> str:
        """The name of today of a plugin that had another one; any other name as it is."""
        if (kind, name) in self.found:
            return name
        return next(
            (other for (k, other), entry in self.found.items() if k == kind and name in entry.cls.formerly), name
        )

    def modern(self, kind: str, name: str, parameters: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
        """Name and parameters as they are called today. A name that nobody registers comes back as it is."""
        today = self.current(kind, name)
        entry = self.found.get((kind, today))
        former = entry.cls.former_fields if entry else {}
        return today, {
            former[key].field if key in former else key: former[key].value(value) if key in former else value
            for key, value in parameters.items()
        }

    def registered(self, kind: str, name: str) -> Registered:
        """By its name of today or a former one. Raises NotRegistered with the nearest name, or with what to install."""
        try:
            return self.found[kind, self.current(kind, name)]
        except KeyError:
            if (kind, name) in self.absent:
                raise NotRegistered(f"{kind} '{name}' {self.absent[kind, name].reason}") from None
            failed = len({b.distribution for b in self.broken})
            tail = f"; {failed} installed package(s) could not be loaded in full: see nqbench list" if failed else ""
            near = did_you_mean(name, self.names(kind))
            raise NotRegistered(f"unknown {kind} '{name}'{near}{tail}") from None

    def get(self, kind: str, name: str) -> type[Plugin]:
        return self.registered(kind, name).cls

    def make(self, kind: str, name: str, parameters: Mapping[str, Any] | str = "{}") -> Plugin:
        """A validated plugin from its parameters, given as a mapping or as JSON, by names of today or former ones.
        Raises NotRegistered or BadInput."""
        cls = self.get(kind, name)
        try:
            if cls.former_fields:
                given = json.loads(parameters) if isinstance(parameters, str) else parameters
                parameters = self.modern(kind, name, given)[1]
            # JSON mode: lists become tuples, as in a YAML file
            text = parameters if isinstance(parameters, str) else json.dumps(dict(parameters))
            return cls.model_validate_json(text)
        except ValidationError as error:
            raise BadInput(f"{kind} '{name}': {_complaint(cls, error)}") from None
        except TypeError as error:
            raise BadInput(f"{kind} '{name}': parameters are numbers, strings and lists of them: {error}") from None

    def sensitivity_of(self, pruner: Plugin | None) -> Sensitivity | None:
        """The sensitivity that a pruner asks, with its defaults; None for any plugin that asks none. Raises
        NotRegistered."""
        named = pruner.sensed_by() if isinstance(pruner, Pruner) else None
        found = None if named is None else self.make("sensitivity", named)
        assert found is None or isinstance(found, Sensitivity)
        return found

    def notify(self, hook: str, **arguments: Any) -> list[str]:
        """Call a hook of every package that implements it. One that raises stops neither the others nor the caller:
        the complaints come back, a line each."""
        complaints = []
        for implementation in getattr(self.manager.hook, hook).get_hookimpls():
            try:
                implementation.function(*(arguments[name] for name in implementation.argnames))
            except KeyboardInterrupt:
                raise
            except BaseException as error:  # noqa: BLE001 - a stranger's exporter may raise anything
                complaints.append(f"{implementation.plugin_name}: {hook} failed: {_line(error)}")
        return complaints

    def distribution_of(self, plugin: Plugin | type[Plugin]) -> tuple[str, str]:
        """(name, version) of the distribution that registered a plugin."""
        entry = self.registered(plugin.kind, plugin.name)
        return entry.distribution, entry.version


def did_you_mean(name: str, known: list[str]) -> str:
    """``; did you mean 'x'?`` or ``; known: a, b`` or nothing: the tail of an error about an unknown name."""
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    if near:
        return f"; did you mean '{near[0]}'?"
    return f"; known: {', '.join(known)}" if known else ""


@cache
def registry() -> Registry:
    """The plugins of this environment, found once a process."""
    return discover()


def discover() -> Registry:
    """Reads every installed distribution's entry points; only those of the group ``nqbench`` are imported."""
    manager = pluggy.PluginManager(PROJECT)
    manager.add_hookspecs(Hooks)
    result = Registry(manager)
    # of a distribution that is found twice (an editable install beside its source tree) only the first counts
    entries = [(entry, *_origin(entry)) for entry in importlib.metadata.entry_points(group=GROUP)]
    for entry, distribution, version in sorted(entries, key=lambda e: (e[1] != GROUP, e[1], e[0].name)):
        _load(result, entry, distribution, version)
    return result


def _origin(entry: importlib.metadata.EntryPoint) -> tuple[str, str]:
    """(name, version) of the distribution that an entry point belongs to; ``?`` for what its metadata do not say."""
    metadata = entry.dist.metadata if entry.dist is not None else None
    name, version = (((metadata.get_all(field) if metadata else None) or ["?"])[0] for field in ("Name", "Version"))
    return name, version


def _load(result: Registry, entry: importlib.metadata.EntryPoint, distribution: str, version: str) -> None:
    def broken(what: str, reason: str) -> None:
        result.broken.append(Broken(what, distribution, version, reason))

    try:
        module = entry.load()
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # noqa: BLE001 - a stranger's import may raise anything, or try to exit
        missing = error.name if isinstance(error, ModuleNotFoundError) else None
        extra = missing and _extra(distribution, missing)
        broken(
            entry.value, f"cannot be imported: {_line(error)}" + (f"; {_install(distribution, extra)}" if extra else "")
        )
        return
    stated = getattr(module, "nqbench_api_version", API_VERSION)
    if stated != API_VERSION:
        broken(entry.value, f"was written for plugin API {stated}; this nqbench speaks {API_VERSION}")
        return
    try:
        classes = _register(result.manager, module, f"{distribution}:{entry.name}")
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # noqa: BLE001 - as above
        broken(entry.value, f"cannot be registered: {_line(error)}")
        return
    for cls in classes:
        reason = _objection(result, cls)
        if reason:
            broken(f"{entry.value}:{getattr(cls, '__name__', cls)}", reason)
        elif cls.requires and not _installed(cls.requires):
            extra = _extra(distribution, cls.requires)
            install = _install(distribution, extra) if extra else f"pip install {cls.requires}"
            result.absent[cls.kind, cls.name] = Absent(cls.kind, cls.name, cls.requires, install)
        else:
            result.found[cls.kind, cls.name] = Registered(cls, distribution, version)


def _installed(distribution: str) -> bool:
    try:
        importlib.metadata.distribution(distribution)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def _extra(distribution: str, needed: str) -> str:
    """The extra of a distribution that brings another, by its metadata; empty where none does."""
    try:
        requirements = importlib.metadata.requires(distribution) or []
    except importlib.metadata.PackageNotFoundError:
        return ""
    for requirement in requirements:
        name = re.match(r"[A-Za-z0-9._-]+", requirement)
        extra = re.search(r"""extra\s*==\s*["']([^"']+)["']""", requirement)
        if name and extra and _same(name.group(), needed):
            return extra.group(1)
    return ""


def _same(one: str, other: str) -> bool:
    """Whether two names are one distribution's (PEP 503)."""
    return re.sub(r"[-_.]+", "-", one).lower() == re.sub(r"[-_.]+", "-", other).lower()


def _install(distribution: str, extra: str) -> str:
    return f"pip install '{distribution}[{extra}]'"


def _register(manager: pluggy.PluginManager, module: Any, name: str) -> list[Any]:
    """The classes that a module declares. If anything of it raises, none of its hooks stays registered."""
    try:
        manager.register(module, name=name)
        declare = getattr(module, "nqbench_plugins", None)
        return list(declare()) if declare else []
    except BaseException:
        if manager.get_plugin(name) is not None:
            manager.unregister(name=name)
        raise


def _objection(result: Registry, cls: Any) -> str:
    """Why a class cannot be registered; empty if it can."""
    if not (isinstance(cls, type) and issubclass(cls, Plugin)):
        return "is not a subclass of nqbench.api.Plugin"
    if cls.kind not in KINDS or not issubclass(cls, KINDS[cls.kind]):
        return f"has the unknown kind '{cls.kind}'; known: {', '.join(KINDS)}"
    if not cls.name:
        return 'has no name: write class MyPlugin(Quantizer, name="mine")'
    if not NAME.fullmatch(cls.name):
        return f"has the name {cls.name!r}: letters, digits, '.', '_' and '-' are allowed"
    if (cls.kind, cls.name) in result.found:
        other = result.found[cls.kind, cls.name]
        return f"registers the {cls.kind} '{cls.name}' again; {other.distribution} {other.version} has it already"
    return ""


def _line(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _complaint(cls: type[Plugin], error: ValidationError) -> str:
    """The first thing wrong with a plugin's parameters, in a line."""
    # a misspelled name first: it explains the missing one, too
    first = min(error.errors(), key=lambda one: one["type"] != "extra_forbidden")
    place = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden" and len(first["loc"]) == 1:
        return f"unknown parameter '{place}'{did_you_mean(place, list(cls.model_fields))}"
    if first["type"] == "missing":
        return f"{place}: is required; nqbench show {cls.name} tells what it takes"
    message: str = first["msg"].removeprefix("Value error, ")
    return f"{place}: {message}" if place else message
