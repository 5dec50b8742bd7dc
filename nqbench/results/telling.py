"""Which of its parameters tell the versions of one plugin apart, and no more of them.

Versions are split by one field at a time, first by the one that leaves the fewest others to tell: what is equal in all
versions with the same values so far says nothing about them. Of three ways to round, by layer, by channel, and by group
with two kinds of scales, the kind of scales is told of the last alone.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

KNOB = object()
"""In place of the value of a parameter that is told apart from the others: along it a version's records are a curve."""
Version = Mapping[str, object]
"""Field -> its value's text, or ``KNOB``."""


def telling(versions: Sequence[Version]) -> list[frozenset[str]]:
    """For each of these distinct versions the fields that tell it from the others; of the ``KNOB`` not even the field
    is to be told."""
    found: list[frozenset[str]] = [frozenset()] * len(versions)
    _split(versions, range(len(versions)), frozenset(), found)
    if len({_shown(v, fields) for v, fields in zip(versions, found, strict=True)}) < len(versions):
        every = frozenset(_varying(versions))  # a field that some versions lack, or that is the knob of some
        return [every] * len(versions)
    return found


def _split(
    versions: Sequence[Version], members: Sequence[int], told: frozenset[str], found: list[frozenset[str]]
) -> None:
    among = [versions[member] for member in members]
    varying = _varying(among)
    if not varying:
        for member in members:
            found[member] = told
        return
    field = min(varying, key=lambda name: (_left(among, name), any(v.get(name) is KNOB for v in among)))
    branches: dict[object, list[int]] = defaultdict(list)
    for member in members:
        branches[versions[member].get(field)].append(member)
    for branch in branches.values():
        _split(versions, branch, told | {field}, found)


def _varying(versions: Sequence[Version]) -> list[str]:
    fields = list(dict.fromkeys(field for version in versions for field in version))
    return [field for field in fields if len({version.get(field) for version in versions}) > 1]


def _left(versions: Sequence[Version], field: str) -> int:
    """How much there still is to tell once a field is known: the varying fields of each branch."""
    branches: dict[object, list[Version]] = defaultdict(list)
    for version in versions:
        branches[version.get(field)].append(version)
    return sum(len(_varying(branch)) for branch in branches.values())


def _shown(version: Version, fields: frozenset[str]) -> frozenset[tuple[str, object]]:
    return frozenset((field, version[field]) for field in fields if version.get(field, KNOB) is not KNOB)
