"""Which trials a matcher picks: the entries of ``exclude``, and ``--only``.

A matcher names axes and, for each, one value or several, of which any may hold; all axes must hold. A value is a
plugin's name (``*`` and ``?`` stand for any text), ``none``, or a name with parameters: ``{kmeans: {k: [4, 8]}}``.
``training`` holds if any link of the chain does, or the whole chain written ``finetune+batchnorm``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fnmatch import fnmatchcase
from typing import Any

from nqbench.api.errors import BadInput
from nqbench.pipeline.trial import Choice, Trial
from nqbench.registry import did_you_mean
from nqbench.suite.document import KeyPath
from nqbench.suite.entries import NONE, Reader

PLUGIN_AXES = ("model", "pruner", "sensitivity", "quantizer", "training", "positions", "coder", "codec")
PLAIN_AXES = ("granularity", "streams", "seed", "unquantized", "fold_batchnorm")
AXES = (*PLUGIN_AXES, *PLAIN_AXES)

Test = Callable[[Trial], bool]


def matcher(reader: Reader, path: KeyPath, wanted: dict[str, Any]) -> Test:
    """The test that one entry of ``exclude`` describes. Raises SuiteError for axes, plugins or parameters unknown."""
    document = reader.document
    if not wanted:
        raise document.error(path, "is empty and would match every trial; name at least one axis, as in 'coder: lzw'")
    tests: list[Test] = []
    for axis, value in wanted.items():
        if axis not in AXES:
            raise document.error((*path, axis), f"unknown axis '{axis}'{did_you_mean(axis, list(AXES))}")
        values = value if isinstance(value, list) else [value]
        several = [_value_test(reader, axis, _at(path, axis, i, value), item) for i, item in enumerate(values)]
        tests.append(_any(several))
    return _all(tests)


def _at(path: KeyPath, axis: str, index: int, value: Any) -> KeyPath:
    return (*path, axis, index) if isinstance(value, list) else (*path, axis)


def _value_test(reader: Reader, axis: str, path: KeyPath, value: Any) -> Test:
    if axis in PLAIN_AXES:
        return lambda trial: fnmatchcase(_plain(trial, axis), _text(value))
    if isinstance(value, str):
        if not _is_pattern(value) and value != NONE:
            for link in value.split("+") if axis == "training" else [value]:
                reader.plugin(axis, path, link)
        return lambda trial: _named(trial, axis, value)
    if not isinstance(value, dict) or len(value) != 1:
        raise reader.document.error(path, "must be a name or 'name: {parameter: value}'")
    ((name, parameters),) = value.items()
    cls = reader.plugin(axis, (*path, name), name)
    if parameters is not None and not isinstance(parameters, dict):
        raise reader.document.error((*path, name), "must be '{parameter: value}'")
    for key in parameters or {}:
        if key not in cls.model_fields:
            hint = did_you_mean(key, list(cls.model_fields))
            raise reader.document.error((*path, name, key), f"{axis} '{name}' has no parameter '{key}'{hint}")
    return lambda trial: any(c.name == name and _agrees(c, parameters or {}) for c in _choices(trial, axis))


def _agrees(choice: Choice, wanted: dict[str, Any]) -> bool:
    """Whether the parameters are as wanted; a list is a value of its own, or any of its elements."""
    has = choice.parameters
    return all(
        has[key] == value or (isinstance(value, list) and any(has[key] == element for element in value))
        for key, value in wanted.items()
    )


def only(trials: Sequence[Trial], filters: Sequence[str]) -> tuple[Trial, ...]:
    """The trials that ``--only`` keeps. filters: ``axis=value[,axis=value...]``; values of one axis are alternatives,
    axes must all hold. ``quantizer.k=8`` asks for a parameter. Raises BadInput: unknown axis, nothing left."""
    wanted: dict[str, list[str]] = {}
    for part in (part.strip() for text in filters for part in text.split(",")):
        axis, equals, value = part.partition("=")
        name, _, parameter = axis.partition(".")
        if not equals or not value:
            raise BadInput(f"--only {part}: must be axis=value, as in quantizer=kmeans")
        if name not in AXES:
            raise BadInput(f"--only {part}: unknown axis '{name}'{did_you_mean(name, list(AXES))}")
        if parameter and name not in PLUGIN_AXES:
            raise BadInput(f"--only {part}: '{name}' has no parameters")
        wanted.setdefault(axis, []).append(value)
    for axis, values in wanted.items():
        left = tuple(trial for trial in trials if any(_holds(trial, axis, value) for value in values))
        if not left:
            have = sorted({text for trial in trials for text in _texts(trial, axis)})
            raise BadInput(f"--only {axis}={','.join(values)}: no trial is left{did_you_mean(values[0], have)}")
        trials = left
    return tuple(trials)


def _holds(trial: Trial, axis: str, value: str) -> bool:
    return any(fnmatchcase(text, value) for text in _texts(trial, axis))


def _texts(trial: Trial, axis: str) -> list[str]:
    """What a filter on this axis is compared with."""
    name, _, parameter = axis.partition(".")
    if parameter:
        return [_text(c.parameters[parameter]) for c in _choices(trial, name) if parameter in c.parameters]
    return [_plain(trial, name)] if name in PLAIN_AXES else _names(trial, name)


def _named(trial: Trial, axis: str, pattern: str) -> bool:
    return any(fnmatchcase(name, pattern) for name in _names(trial, axis))


def _names(trial: Trial, axis: str) -> list[str]:
    names = [choice.name for choice in _choices(trial, axis)]
    return [*names, "+".join(names)] if len(names) > 1 else names or [NONE]


def _choices(trial: Trial, axis: str) -> tuple[Choice, ...]:
    value = getattr(trial, axis)
    if isinstance(value, tuple):
        return value
    return () if value is None else (value,)


def _plain(trial: Trial, axis: str) -> str:
    return _text(getattr(trial, axis))


def _text(value: Any) -> str:
    """A value as one writes it in YAML."""
    if value is None:
        return NONE
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value)


def _is_pattern(text: str) -> bool:
    return any(mark in text for mark in "*?[")


def _any(tests: Sequence[Test]) -> Test:
    return lambda trial: any(test(trial) for test in tests)


def _all(tests: Sequence[Test]) -> Test:
    return lambda trial: all(test(trial) for test in tests)
