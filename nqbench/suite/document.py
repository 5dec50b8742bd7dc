"""A suite file as plain values, each with its position in the file, so that every error names file, line and key."""

from __future__ import annotations

import io
import itertools
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq
from ruamel.yaml.constructor import DuplicateKeyError
from ruamel.yaml.error import MarkedYAMLError, YAMLError

from nqbench.api.errors import NqbenchError

KeyPath = tuple[str | int, ...]
"""The way to a value: keys of mappings and indexes of lists, from the top."""

MOST_VALUES = 100_000
"""More values than any suite has; a file whose aliases unfold to more is refused before they fill the memory."""

MOST_DEPTH = 40
"""Deeper than any suite nests its values."""


class SuiteError(NqbenchError):
    """A suite cannot be used: ``suites/x.yaml:14: quantizers[1].kmeans.k: must be ...``."""


@dataclass
class Document:
    """data: plain dicts, lists and scalars. places: where each value was written (``file:line`` or ``--set ...``)."""

    source: str
    data: Any
    places: dict[KeyPath, str] = field(default_factory=dict)

    def place(self, path: KeyPath) -> str:
        """Where the value, or the nearest one around it, was written."""
        for length in range(len(path), -1, -1):
            if path[:length] in self.places:
                return self.places[path[:length]]
        return self.source

    def error(self, path: KeyPath, message: str) -> SuiteError:
        """One line: place, key, what is wrong."""
        # a scalar stands for a list of one: it has no index to name
        while path and isinstance(path[-1], int) and not self.has(path):
            path = path[:-1]
        key = dotted(path)
        return SuiteError(f"{self.place(path)}: {key + ': ' if key else ''}{message}")

    def existing(self, path: KeyPath) -> KeyPath:
        """The path as far as the document goes."""
        while path and not self.has(path):
            path = path[:-1]
        return path

    def has(self, path: KeyPath) -> bool:
        """Whether the document has a value at this path."""
        value = self.data
        for part in path:
            inside = part < len(value) if isinstance(value, list) and isinstance(part, int) else False
            if not inside and not (isinstance(value, Mapping) and part in value):
                return False
            value = value[part]
        return True

    def value(self, path: KeyPath) -> Any:
        """The value at a path that exists."""
        value = self.data
        for part in path:
            value = value[part]
        return value

    def put(self, path: KeyPath, value: Any) -> None:
        """Another value in place of one that has no parts, where it was written."""
        if path:
            self.value(path[:-1])[path[-1]] = value
        else:
            self.data = value

    def rename(self, path: KeyPath, key: str) -> None:
        """Another key in the place of the last one of a path. Raises SuiteError if it is there already."""
        container = self.value(path[:-1])
        if key in container:
            raise self.error(path, f"is now called '{key}', and both are given: remove one of them")
        entries = [(key if name == path[-1] else name, value) for name, value in container.items()]
        container.clear()
        container.update(entries)
        moved = self.below(path)
        self.places = {p: where for p, where in self.places.items() if p[: len(path)] != path}
        self.places.update({(*path[:-1], key, *below): where for below, where in moved.items()})

    def graft(self, path: KeyPath, value: Any, places: Mapping[KeyPath, str]) -> None:
        """Put a value at a path whose container exists; ``places`` are those of the value, relative to it."""
        container = self.data
        for part in path[:-1]:
            container = container[part]
        if isinstance(container, list) and path[-1] == len(container):
            container.append(value)
        else:
            container[path[-1]] = value
        for old in [p for p in self.places if p[: len(path)] == path]:
            del self.places[old]
        self.places.update({(*path, *below): where for below, where in places.items()})

    def below(self, path: KeyPath) -> dict[KeyPath, str]:
        """The places under a path, relative to it."""
        return {p[len(path) :]: where for p, where in self.places.items() if p[: len(path)] == path}


def dotted(path: KeyPath) -> str:
    """``quantizers[1].kmeans.k``."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else str(part)
    return text


_MOST_BITS = 1023
"""Of an integer: what a floating-point number can hold."""
_MOST_BRACKETS = 5 * MOST_DEPTH
"""ruamel takes half a minute to find out that it cannot read a few thousand."""
_TOO_DEEP = f"is nested more than {MOST_DEPTH} levels deep; a suite needs fewer than ten"


_SLIPS = (AttributeError, IndexError, KeyError, TypeError, AssertionError, NotImplementedError)
"""What ruamel raises beside errors of its own for some documents that are no YAML."""


def read(path: Path) -> tuple[Document, str]:
    """The document in a file and its text. Raises SuiteError."""
    name = str(path)
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise SuiteError(f"{name}: is not UTF-8 text (byte {error.start}); save it as UTF-8") from None
    except OSError as error:
        raise SuiteError(f"{name}: cannot be read: {error.strerror}") from None
    return parse(text, name), text


def parse(text: str, source: str) -> Document:
    """YAML 1.2 text as a document. Raises SuiteError: invalid YAML, duplicate keys, values that YAML alone knows."""
    if _brackets(text) > _MOST_BRACKETS:
        raise SuiteError(f"{source}: {_TOO_DEEP}")
    yaml = YAML(typ="rt", pure=True)
    try:
        loaded = list(yaml.load_all(io.StringIO(text)))
    except DuplicateKeyError as error:
        raise SuiteError(f"{_at(source, error)}: {_duplicate(error)}") from None
    except MarkedYAMLError as error:
        problem = " ".join(" ".join(part for part in (error.context, error.problem) if part).split())
        raise SuiteError(f"{_at(source, error)}: invalid YAML: {problem}") from None
    except (YAMLError, ValueError) as error:
        raise SuiteError(f"{source}: invalid YAML: {_flat(error)}") from None
    except RecursionError:
        raise SuiteError(f"{source}: {_TOO_DEEP}") from None
    except _SLIPS as error:
        where = "a tag, an anchor or a merge key in a place where it means nothing"
        raise SuiteError(f"{source}: invalid YAML: {where} ({type(error).__name__}: {_flat(error)})") from None
    if len(loaded) > 1:
        raise SuiteError(f"{source}: holds {len(loaded)} YAML documents; one was expected")
    document = Document(source, None)
    document.data = _plain(loaded[0] if loaded else None, (), f"{source}:1", document, [])
    return document


def _brackets(text: str) -> int:
    """How many brackets are open at once, at most: counted in quotes and comments, too, where hundreds are none."""
    opened = [1 if bracket in "[{" else -1 for bracket in re.findall(r"[\[\]{}]", text)]
    return max(itertools.accumulate(opened), default=0)


def value_of(text: str) -> Any:
    """One YAML value, as ``--set`` takes it."""
    return parse(text, "value").data


def dump(data: Any) -> str:
    """Plain data as YAML."""
    yaml = YAML(typ="safe", pure=True)
    yaml.default_flow_style = None
    yaml.sort_base_mapping_type_on_output = False  # type: ignore[assignment]
    yaml.width = 120
    stream = io.StringIO()
    yaml.dump(data, stream)
    return stream.getvalue()


def _plain(value: Any, path: KeyPath, where: str, document: Document, around: list[int]) -> Any:
    """ruamel's values as plain Python, noting the line of each."""
    document.places[path] = where
    if len(document.places) > MOST_VALUES:
        raise SuiteError(f"{document.source}: has more than {MOST_VALUES} values once its aliases are unfolded")
    if id(value) in around:
        raise SuiteError(f"{where}: an alias contains itself")
    if len(around) > MOST_DEPTH:
        raise SuiteError(f"{where}: {_TOO_DEEP}")
    if isinstance(value, CommentedMap):
        return {
            _key(key, where): _plain(item, (*path, key), _line(value, key, where), document, [*around, id(value)])
            for key, item in value.items()
        }
    if isinstance(value, CommentedSeq):
        return [
            _plain(item, (*path, index), _line(value, index, where), document, [*around, id(value)])
            for index, item in enumerate(value)
        ]
    return _scalar(value, where)


def _scalar(value: Any, where: str) -> Any:
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int) and value.bit_length() > _MOST_BITS:
        raise SuiteError(f"{where}: an integer of {value.bit_length():,} bits cannot be used here")
    for plain in (int, float, str):  # ruamel's scalars remember their notation; ours need not
        if isinstance(value, plain):
            return bool(value) if type(value).__name__ == "ScalarBoolean" else plain(value)
    if isinstance(value, date):
        return value.isoformat()
    raise SuiteError(f"{where}: a value of the YAML type {type(value).__name__} cannot be used here")


def _key(key: Any, where: str) -> str:
    if not isinstance(key, str):
        raise SuiteError(f"{where}: keys are text, not {key!r}; put it in quotes")
    return str(key)


def _line(container: Any, key: Any, where: str) -> str:
    """``file:line`` of an entry; a merged key (``<<``) has no line of its own."""
    try:
        line = container.lc.key(key)[0] if isinstance(container, CommentedMap) else container.lc.item(key)[0]
    except (KeyError, TypeError, AttributeError):
        return where
    return f"{where.rpartition(':')[0]}:{line + 1}"


def _at(source: str, error: MarkedYAMLError) -> str:
    mark = error.problem_mark or error.context_mark
    return f"{source}:{mark.line + 1}" if mark else source


def _duplicate(error: MarkedYAMLError) -> str:
    """ruamel says ``found duplicate key "k" with value ...``; the key is what matters."""
    problem = str(error.problem or "duplicate key")
    key = problem.split('"')[1] if problem.count('"') >= 2 else ""
    return f"{key}: duplicate key; it may be given once" if key else _flat(error)


def _flat(error: Exception) -> str:
    return " ".join(str(error).split())
