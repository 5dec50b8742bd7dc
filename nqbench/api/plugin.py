"""What every plugin is: a frozen pydantic model whose fields are its parameters.

An instance *is* a validated configuration: it has a canonical JSON (the cache's and the file's name for it), it
prints itself in a leaderboard, and its JSON schema feeds ``nqbench show``. Workers receive (kind, name, JSON) and
look the class up themselves, so an instance never carries tensors or open files.
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import json
import textwrap
from collections.abc import Mapping
from itertools import pairwise
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict

API_VERSION = 1
"""The version of the contracts in this package. A plugin package states the one it was written for in a module
attribute ``nqbench_api_version`` beside its ``nqbench_plugins`` hook; the registry refuses one it cannot serve."""


@dataclasses.dataclass(frozen=True)
class Former:
    """What a parameter was called before, for suites and files that still call it so.

    Args:
        field: the parameter that has its place today.
        values: old value -> today's, where that changed.

    Example:
        >>> Former("act_order", {"natural": False, "decreasing": True}).value(["natural", "decreasing"])
        [False, True]
    """

    field: str
    values: Mapping[Any, Any] = dataclasses.field(default_factory=dict)

    def value(self, old: Any) -> Any:
        """What an old value is today; of a list, what each of its elements is."""
        if isinstance(old, list):
            return [self.value(one) for one in old]
        return self.values.get(old, old) if isinstance(old, str | int | float) else old


class Plugin(BaseModel):
    """Base of all kinds. Subclass one of the kinds, not this.

    A plugin is a frozen pydantic model: its fields are its parameters, and an instance is a validated configuration.

    Args:
        name: class keyword; registers a concrete plugin under that name. A class without one is abstract and is never
            registered.
        paper: class keyword; the source it follows.
        formerly: class keyword; names it had, which suites and files may still use.
        requires: class keyword; the distribution without which it is not there at all: it is listed with what installs
            it. Results depend on its version.
        computes_with: class keyword; further distributions on whose versions results depend, where they are installed,
            beside those of the base classes. The plugin is there without them, for what does not need them, or to say
            what is missing.

    Raises:
        pydantic.ValidationError: a parameter is unknown or out of its bounds.

    Example:
        >>> class Halves(Plugin, name="halves", paper="Nobody 1984"):
        ...     k: int = 2
        >>> str(Halves(k=4)), Halves(k=4).canonical_json()
        ('halves(k=4)', '{"k":4}')
    """

    # not use_attribute_docstrings: reading every class's source takes most of the time that importing plugins takes
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, validate_default=True)

    kind: ClassVar[str] = ""
    name: ClassVar[str] = ""
    paper: ClassVar[str] = ""
    formerly: ClassVar[tuple[str, ...]] = ()
    requires: ClassVar[str] = ""
    computes_with: ClassVar[tuple[str, ...]] = ()
    former_fields: ClassVar[Mapping[str, Former]] = {}
    """Parameters by the names they had, which suites and files may still use."""

    def __init_subclass__(
        cls,
        *,
        name: str = "",
        paper: str = "",
        formerly: tuple[str, ...] = (),
        requires: str = "",
        computes_with: tuple[str, ...] = (),
        **kwargs: Any,
    ) -> None:
        super().__init_subclass__(**kwargs)
        cls.name, cls.formerly = name, formerly
        if paper:
            cls.paper = paper
        if requires:
            cls.requires = requires
        if computes_with:
            cls.computes_with = tuple(dict.fromkeys((*cls.computes_with, *computes_with)))

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        """Class keywords are read above; pydantic passes them here as well."""

    @classmethod
    def meanings(cls) -> dict[str, str]:
        """What each parameter means: its ``Field``'s description, else the docstring below it; empty if it has none."""
        found: dict[str, str] = {}
        for base in reversed(cls.__mro__):
            found |= _docstrings(base)
        return {name: info.description or found.get(name, "") for name, info in cls.model_fields.items()}

    @classmethod
    def documented_schema(cls) -> dict[str, Any]:
        """The parameters' JSON schema, with what they mean."""
        schema = cls.model_json_schema()
        for name, meaning in cls.meanings().items():
            if meaning and name in schema.get("properties", {}):
                schema["properties"][name].setdefault("description", meaning)
        return schema

    def uses_seed(self) -> bool:
        """Whether the result depends on the trial's seed. If not, a suite with several seeds has one trial for all."""
        return False

    def __hash__(self) -> int:
        """By the parameters' JSON: a parameter may be a mapping or a list of them."""
        return hash((type(self), self.canonical_json()))

    def canonical_json(self) -> str:
        """All parameters, defaults too, as JSON with sorted keys and no spaces: equal text, equal configuration."""
        return _json(self.model_dump(mode="json"))

    def changed(self) -> tuple[str, ...]:
        """The parameters that have no default or differ from it, in the order of their definition."""
        return tuple(
            field
            for field, info in type(self).model_fields.items()
            if info.is_required() or getattr(self, field) != info.get_default(call_default_factory=True)
        )

    def short_json(self) -> str:
        """``canonical_json`` without the parameters that are at their defaults."""
        return _json(self.model_dump(mode="json", include=set(self.changed())))

    def __str__(self) -> str:
        """``name(field=value, ...)`` with the fields that differ from their defaults, as a leaderboard shows it."""
        shown = ", ".join(f"{field}={_short(getattr(self, field))}" for field in self.changed())
        return f"{self.name}({shown})" if shown else self.name


def _json(parameters: dict[str, Any]) -> str:
    return json.dumps(parameters, sort_keys=True, separators=(",", ":"), allow_nan=False)


def _docstrings(cls: type) -> dict[str, str]:
    """A class's own annotated fields with the strings below them."""
    if cls.__module__ in ("builtins", "pydantic.main"):
        return {}
    try:
        (defined,) = ast.parse(textwrap.dedent(inspect.getsource(cls))).body
    except (OSError, TypeError, SyntaxError, ValueError):  # no source to read: made at a prompt, or compiled
        return {}
    found = {}
    for field, below in pairwise(getattr(defined, "body", [])):
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and isinstance(below, ast.Expr):
            text = below.value.value if isinstance(below.value, ast.Constant) else None
            if isinstance(text, str):
                found[field.target.id] = inspect.cleandoc(text)
    return found


def _short(value: object) -> str:
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, tuple | list):
        return "[" + ", ".join(_short(v) for v in value) + "]"
    return str(value)
