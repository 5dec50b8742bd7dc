"""What the command line changes of a suite before it is validated: ``--profile small`` and ``--set key=value``."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

from nqbench.registry import did_you_mean
from nqbench.suite.document import MOST_DEPTH, Document, KeyPath, SuiteError, dotted, parse
from nqbench.suite.spec import SuiteSpec
from nqbench.suite.vocabulary import PLUGIN_KEYS, Vocabulary

SUITE_KEYS = tuple(SuiteSpec.model_fields)


def apply_profile(document: Document, name: str) -> None:
    """Replace the suite's top-level keys by those of one of its profiles, in place."""
    data = document.data if isinstance(document.data, dict) else {}
    profiles = data.get("profiles")
    if not isinstance(profiles, dict) or name not in profiles:
        hint = did_you_mean(name, list(profiles)) if isinstance(profiles, dict) else "; the suite has none"
        raise SuiteError(f"{document.source}: profiles: there is no profile '{name}'{hint}")
    profile = profiles[name]
    if not isinstance(profile, dict):
        raise document.error(("profiles", name), "must be a mapping of the suite's keys to other values")
    for key, value in profile.items():
        at = ("profiles", name, key)
        if key not in SUITE_KEYS or key == "profiles":
            raise document.error(at, f"unknown key '{key}'{did_you_mean(key, list(SUITE_KEYS))}")
        document.graft((key,), copy.deepcopy(value), document.below(at))


def apply_sets(document: Document, sets: Sequence[str], vocabulary: Vocabulary) -> None:
    """Put each ``key=value`` in its place. Keys are dotted paths with names or indexes: ``quantizers.kmeans.k=[4,8]``,
    ``coders.0=lzw``."""
    for text in sets:
        key, equals, value = text.partition("=")
        where = f"--set {text}"
        if not equals or not key.strip():
            raise SuiteError(f"{where}: must be key=value, as in coders=[huffman,lzw]")
        try:
            parsed = parse(value, "value").data
        except SuiteError as error:
            raise SuiteError(f"{where}: {error}") from None
        if document.data is None:
            document.data = {}
        path, parsed = vocabulary.assignment(_path(key), parsed)
        if len(path) > MOST_DEPTH:
            raise SuiteError(f"{where[:80]}...: goes more than {MOST_DEPTH} levels deep; a suite needs fewer than ten")
        _put(document, where, path, parsed)


def _path(key: str) -> KeyPath:
    parts = key.strip().replace("[", ".").replace("]", "").split(".")
    return tuple(int(part) if part.isdecimal() and part.isascii() and len(part) < 10 else part for part in parts)


def _put(document: Document, where: str, path: KeyPath, value: Any) -> None:
    container = document.data
    path = _indexed(document.data, where, path)
    for depth, part in enumerate(path):
        _check_step(where, container, part, path[:depth], depth == len(path) - 1)
        if depth == len(path) - 1:
            document.graft(path, value, {(): where})
            return
        inner = container.get(part) if isinstance(container, dict) else container[part]
        container[part] = container = _opened(inner, path[depth + 1])


def _indexed(data: Any, where: str, path: KeyPath) -> KeyPath:
    """The path with the index of every entry that it names by its plugin: ``quantizers.kmeans.k`` is
    ``quantizers.1.kmeans.k`` where k-means is the second. Raises SuiteError where no entry, or several, have the name.
    """
    value, around, axis = data, None, ""
    done: list[str | int] = []
    for part in path:
        if isinstance(part, str) and isinstance(value, list):
            index = _entry(where, dotted(tuple(done)), value, part)
            done, around, value = [*done, index], value, value[index]
        elif axis and done and isinstance(done[-1], int) and isinstance(part, str) and part not in _names(value):
            at = dotted(tuple(done))
            known = [name for entry in around or () for name in _names(entry)]
            hint = f"; leave the index out: {'.'.join(map(str, [*done[:-1], *path[len(done) :]]))}"
            raise SuiteError(
                f"{where}: {at} is '{', '.join(_names(value))}', not '{part}'"
                f"{hint if part in known else did_you_mean(part, known)}"
            )
        axis = str(part) if part in PLUGIN_KEYS else axis if isinstance(part, int) else ""
        around, value = value if isinstance(value, list) else None, _inside(value, part)
        done = [*done, part]
    return tuple(done)


def _entry(where: str, at: str, entries: Sequence[Any], name: str) -> int:
    """The index of the one entry of that name."""
    found = [index for index, entry in enumerate(entries) if name in _names(entry)]
    if len(found) == 1:
        return found[0]
    if found:
        raise SuiteError(f"{where}: {at} has several entries '{name}'; name one by its index, such as {found[0]}")
    known = [known for entry in entries for known in _names(entry)]
    raise SuiteError(f"{where}: {at} is a list without '{name}'{did_you_mean(name, known)}; or give an entry's index")


def _inside(value: Any, part: str | int) -> Any:
    if isinstance(part, int):
        listed = value if isinstance(value, list) else [value]
        return listed[part] if part < len(listed) else None
    return value.get(part) if isinstance(value, dict) else None


def _names(entry: Any) -> list[str]:
    """What an entry for a plugin is called; a mapping of other things has several names."""
    return [entry] if isinstance(entry, str) else [str(key) for key in entry] if isinstance(entry, dict) else []


def _opened(value: Any, part: str | int) -> Any:
    """The value in a form that ``part`` can be set in, where a suite means the same by it."""
    if value is None:
        return [] if isinstance(part, int) else {}
    if isinstance(part, int) and not isinstance(value, list):
        return [value]
    if value == part:  # `kmeans` is `kmeans: {}`
        return {part: {}}
    return value


def _check_step(where: str, container: Any, part: str | int, done: KeyPath, last: bool) -> None:
    """Whether ``part`` can be a key or an index of the value at ``done``."""
    at = ".".join(str(p) for p in done) or "the suite"
    if isinstance(container, list):
        if not isinstance(part, int):
            raise SuiteError(f"{where}: {at} is a list; name an entry by its index, 0 to {len(container) - 1}")
        if part > len(container) or (part == len(container) and not last):
            raise SuiteError(f"{where}: {at} has no [{part}]; its last entry is [{len(container) - 1}]")
    elif not isinstance(container, dict):
        raise SuiteError(f"{where}: {at} is {container!r}, which has no '{part}'")
    elif not done and part not in SUITE_KEYS:
        raise SuiteError(f"{where}: unknown key '{part}'{did_you_mean(str(part), list(SUITE_KEYS))}")
