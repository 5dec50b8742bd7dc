"""Defines conformance checks and runs them; the checks themselves are in the other modules.

A check is a function of one plugin instance that returns nothing, or raises. Its name is its stable id, and the first
line of its docstring says what it requires of a plugin. Any exception is a failure, except ``DataMissing``: then the
check could not be run here.
"""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from nqbench.api import BadInput, DataMissing, Plugin

P = TypeVar("P", bound=Plugin)
Status = Literal["passed", "failed", "skipped", "expected"]

_CHECKS: dict[str, list[Check]] = {}


class Failed(AssertionError):
    """A plugin violates its contract; one line says how."""


def require(condition: object, reason: str) -> None:
    """Raises ``Failed`` with the reason unless the condition holds."""
    if not condition:
        raise Failed(reason)


@dataclass(frozen=True)
class Check:
    """One check of one kind of plugin. ``when`` says to which instances it applies."""

    id: str
    run: Callable[[Any], None]
    when: Callable[[Any], bool]

    @property
    def about(self) -> str:
        """What it requires, in one line."""
        return (inspect.getdoc(self.run) or "").partition("\n")[0]


def check(
    kind: str, when: Callable[[Any], bool] = lambda plugin: True
) -> Callable[[Callable[[P], None]], Callable[[P], None]]:
    """Adds the decorated function to the list of a kind's checks (kind ``""``: of every plugin's)."""

    def add(function: Callable[[P], None]) -> Callable[[P], None]:
        known = _CHECKS.setdefault(kind, [])
        name = function.__name__
        assert all(name != other.id for other in known), f"two checks of the kind '{kind}' are called '{name}'"
        known.append(Check(name, function, when))
        return function

    return add


@dataclass(frozen=True)
class Result:
    """One check's outcome. reason: empty for a pass; seconds: how long it took."""

    check: str
    status: Status
    reason: str
    seconds: float


@dataclass(frozen=True)
class BoundCheck:
    """A check of one configured plugin. Call it, and it passes or raises."""

    check: Check
    plugin: Plugin
    expected_failure: str = ""

    @property
    def id(self) -> str:
        """``kmeans(k=4)-round_trip``."""
        return f"{self.plugin}-{self.check.id}"

    def __call__(self) -> None:
        self.check.run(self.plugin)

    def result(self) -> Result:
        """The outcome, whatever the plugin does short of ending the process."""
        start = time.perf_counter()
        status, reason = self._outcome()
        return Result(self.check.id, status, reason, time.perf_counter() - start)

    def _outcome(self) -> tuple[Status, str]:
        try:
            self()
        except DataMissing as error:
            return "skipped", one_line(error)
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # noqa: BLE001 - a stranger's plugin may raise anything; that is a failed check
            if self.expected_failure:
                return "expected", self.expected_failure
            return "failed", one_line(error)
        if self.expected_failure:
            return "failed", f"passes, though it is expected to fail: {self.expected_failure}"
        return "passed", ""


def checks_for(target: type[Plugin] | Plugin, expected_failures: Mapping[str, str] | None = None) -> list[BoundCheck]:
    """Every check that applies to a plugin: to an instance, or to a class with each of its ``configurations``.

    expected_failures: check id -> reason, beside those the class itself states in a class variable of that name.
    Raises BadInput for an unknown id, so that a reason cannot outlive its check.
    """
    instances = [target] if isinstance(target, Plugin) else configurations(target)
    kind = target.kind
    known = [*_CHECKS.get("", []), *_CHECKS.get(kind, [])]
    expected = {**getattr(target, "expected_failures", {}), **(expected_failures or {})}
    stray = sorted(expected.keys() - {one.id for one in known})
    if stray:
        raise BadInput(f"no check of the kind '{kind}' is called '{stray[0]}'; known: {', '.join(c.id for c in known)}")
    return [
        BoundCheck(one, instance, expected.get(one.id, ""))
        for instance in instances
        for one in known
        if _concerns(one, instance)
    ]


def _concerns(one: Check, plugin: Plugin) -> bool:
    try:
        return one.when(plugin)
    except Exception:  # noqa: BLE001 - the check itself will run into the same error, and report it
        return True


def configurations(cls: type[Plugin]) -> list[Plugin]:
    """The instances that stand for a class: its defaults, then each of ``json_schema_extra["examples"]``.

    A field without a default takes the first of its ``Field(examples=[...])``. Raises BadInput where it has none.
    """
    defaults: dict[str, Any] = {}
    for name, info in cls.model_fields.items():
        if info.is_required():
            if not info.examples:
                raise BadInput(
                    f"{cls.kind} '{cls.name}': its parameter '{name}' has no default; check an instance, "
                    f"or give the field an example: Field(examples=[...])"
                )
            defaults[name] = info.examples[0]
    extra = cls.model_config.get("json_schema_extra")
    examples = extra.get("examples", []) if isinstance(extra, Mapping) else []
    assert isinstance(examples, list)
    made: list[Plugin] = []
    for changes in ({}, *examples):
        assert isinstance(changes, Mapping)
        one = cls.model_validate({**defaults, **changes})
        if one not in made:
            made.append(one)
    return made


def run_checks(target: type[Plugin] | Plugin) -> Iterable[tuple[BoundCheck, Result]]:
    """Runs every check of a plugin, one after the other; a failure stops nothing."""
    for bound in checks_for(target):
        yield bound, bound.result()


def parametrize(
    *targets: type[Plugin] | Plugin,
    expected_failures: Mapping[str, str] | None = None,
    only: Iterable[str] | None = None,
    argument: str = "check",
) -> Any:
    """A pytest decorator: one test id for each check of each plugin (or for each whose id is in ``only``).

    Use::

        @parametrize(MyQuantizer, expected_failures={"knob_direction": "k has no effect on ..."})
        def test_conformance(check):
            check()
    """
    import pytest  # an optional dependency: the command line does without

    chosen = None if only is None else set(only)
    parameters = []
    for target in targets:
        for bound in _checks_or_complaint(target, expected_failures):
            if chosen is None or bound.check.id in chosen:
                reason = bound.expected_failure
                marks = [pytest.mark.xfail(reason=reason, strict=True)] if reason else []
                parameters.append(pytest.param(_skipping(bound), id=f"{target.kind}-{bound.id}", marks=marks))
    return pytest.mark.parametrize(argument, parameters)


def _checks_or_complaint(
    target: type[Plugin] | Plugin, expected_failures: Mapping[str, str] | None
) -> list[BoundCheck]:
    """``checks_for``; for a class that cannot be configured, one check that fails, so that the others are collected."""
    try:
        return checks_for(target, expected_failures)
    except BadInput as error:
        reason = str(error)

    def configurable(plugin: Plugin) -> None:
        """It can be made without being told its parameters."""
        raise Failed(reason)

    return [BoundCheck(Check("configurable", configurable, lambda plugin: True), _Unconfigured(of=target.name))]


class _Unconfigured(Plugin):
    """Stands for a plugin of which no instance can be made."""

    of: str

    def __str__(self) -> str:
        return self.of


def _skipping(bound: BoundCheck) -> Callable[[], None]:
    def run() -> None:
        import pytest

        try:
            bound()
        except DataMissing as error:
            pytest.skip(one_line(error))

    return run


def one_line(error: BaseException) -> str:
    """An error as one line: the text alone where it was written for a reader, else with its type."""
    text = " ".join(str(error).split())
    if isinstance(error, Failed) and text:
        return text
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
