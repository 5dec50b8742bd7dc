"""Which of its parameters tell the versions of one plugin apart, and no more of them.

Curves along different parameters are told by these: fixed ``bits`` beside grids of a ``step``. Versions of one knob are
split by one field at a time, first by the one that leaves the fewest others to tell, and of those by a single value
rather than a list: what is equal in all versions with the same values so far says nothing about them. Of three ways to
round, by layer, by channel, and by group with two kinds of scales, the kind of scales is told of the last alone.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

KNOB = object()
"""In place of the value of a parameter that is told apart from the others: along it a version's records are a curve."""
Version = Mapping[str, object]
"""Field -> its value's text, or ``KNOB``."""


def knob_of(version: Version) -> frozenset[str]:
    """The field of the version's knob; nothing where it has none."""
    return frozenset(field for field, value in version.items() if value is KNOB)


def telling(versions: Sequence[Version]) -> list[frozenset[str]]:
    """For each of these distinct versions the fields that tell it from the others. The field of its ``KNOB`` is among
    them, as a name without a value, where others have another knob."""
    found: list[frozenset[str]] = [frozenset()] * len(versions)
    curves: dict[frozenset[str], list[int]] = defaultdict(list)
    for member, version in enumerate(versions):
        curves[knob_of(version)].append(member)
    for knob, members in curves.items():
        _split(versions, members, knob if len(curves) > 1 else frozenset(), found)
    if len({_shown(v, fields) for v, fields in zip(versions, found, strict=True)}) < len(versions):
        every = frozenset(_varying(versions))  # a field that some versions lack
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
    field = min(varying, key=lambda name: (_left(among, name), _is_list(among, name)))
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


def _is_list(versions: Sequence[Version], field: str) -> bool:
    """Whether a value of the field is a list or a mapping, longer to read than a number that tells as much."""
    return any(str(version.get(field, "")).startswith(("[", "{")) for version in versions)


def _shown(version: Version, fields: frozenset[str]) -> frozenset[tuple[str, object]]:
    return frozenset((field, version[field]) for field in fields if field in version)
