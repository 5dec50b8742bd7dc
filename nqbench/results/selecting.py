"""Which rows of a run are meant: what ``--rows`` says."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fnmatch import fnmatchcase

from nqbench.api.errors import BadInput
from nqbench.results.goal import DROP, Goal
from nqbench.results.leaderboard import Row, leaderboard
from nqbench.results.record import KINDS, Record

_WORDS: dict[str, Callable[[Row], bool]] = {
    "all": lambda row: True,
    "holds": lambda row: bool(row.holds),
    "front": lambda row: row.pareto,
}
_PLAIN = ("granularity", "seed", "unquantized", "streams")


def select(records: Sequence[Record], wanted: Sequence[str], *, drop: float = DROP) -> list[Record]:
    """The records that any of ``wanted`` names, in the order of the leaderboard.

    wanted: ``all``; ``holds``, those that lose at most ``drop`` points; ``front``, those on the Pareto front; the first
    eight or more digits of a key; or ``quantizer=kmeans,coder=huff*``, in which all must hold. Raises BadInput for a
    word that names none.
    """
    rows = leaderboard(records, goal=Goal.in_points(drop, records))
    by_key = {record.key: record for record in records}
    chosen: dict[str, Record] = {}
    for word in wanted:
        keys = [key for row in rows for key in row.keys if _meant(word, row, by_key[key])]
        if not keys:
            raise BadInput(f"--rows {word}: names none of the {len(records)} rows that ended well")
        chosen |= {key: by_key[key] for key in keys}
    return list(chosen.values())


def _meant(word: str, row: Row, record: Record) -> bool:
    if word in _WORDS:
        return _WORDS[word](row)
    if "=" in word:
        return all(_holds(part, record) for part in word.split(","))
    if len(word) < 8 or not set(word) <= set("0123456789abcdef"):
        raise BadInput(f"--rows {word}: expected all, holds, front, a key of 8 digits or more, or AXIS=VALUE")
    return record.key.startswith(word)


def _holds(part: str, record: Record) -> bool:
    axis, _, value = part.strip().partition("=")
    name, _, parameter = axis.partition(".")
    if name not in (*KINDS, *_PLAIN) or (parameter and name not in KINDS):
        raise BadInput(f"--rows {part}: unknown axis '{axis}'; known: {', '.join((*KINDS, *_PLAIN))}")
    if not parameter:
        has = getattr(record, name)
        return fnmatchcase("none" if has is None else str(has), value)
    given = getattr(record, f"{name}_params") or {}
    each = given if isinstance(given, list) else [given]
    return any(fnmatchcase(_text(one[parameter]), value) for one in each if parameter in one)


def _text(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)
