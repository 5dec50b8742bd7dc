"""A plugin's parameters and habits in readable words, from its JSON schema and its contract."""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from nqbench.api import Codec, Model, NqbenchError, Plugin, Positions, Pruner, Quantizer, Sensitivity, Training
from nqbench.registry import Registered

Schema = Mapping[str, Any]

_TYPES = {"integer": "int", "number": "float", "string": "text", "boolean": "true or false", "null": "none"}
_BOUNDS = (
    ("minimum", ">= {}"),
    ("exclusiveMinimum", "> {}"),
    ("maximum", "<= {}"),
    ("exclusiveMaximum", "< {}"),
    ("multipleOf", "multiple of {}"),
    ("minItems", "at least {} entries"),
    ("maxItems", "at most {} entries"),
    ("minLength", "at least {} characters"),
    ("maxLength", "at most {} characters"),
    ("pattern", "matches {}"),
)


@dataclass(frozen=True)
class Parameter:
    """One parameter as ``nqbench show`` prints it. default: None with ``required`` where it has none."""

    name: str
    type: str
    default: Any
    required: bool
    bounds: str
    meaning: str


def former(cls: type[Plugin]) -> dict[str, str]:
    """What the plugin and its parameters were called before; nothing where that never changed."""
    fields = (f"{old} (now {new.field})" for old, new in cls.former_fields.items())
    words = "; ".join(filter(None, (", ".join(cls.formerly), ", ".join(fields))))
    return {"formerly": words} if words else {}


def shorthand(cls: type[Plugin]) -> str | None:
    """The parameter that ``--model NAME:VALUE`` sets: the first required one, or ``data``, or the class's own first."""
    required = [name for name, field in cls.model_fields.items() if field.is_required()]
    own = [name for name in inspect.get_annotations(cls) if name in cls.model_fields]
    return next(iter([*required, *(["data"] if "data" in cls.model_fields else []), *own, *cls.model_fields]), None)


def parameters_of(cls: type[Plugin]) -> list[Parameter]:
    """The parameters in the order of their declaration."""
    schema = cls.model_json_schema()
    definitions = schema.get("$defs", {})
    rows, meanings = [], cls.meanings()
    for name, field in schema.get("properties", {}).items():
        required = name in schema.get("required", [])
        meaning = " ".join(meanings[name].split())
        kind, bounds = _type(field, definitions), ", ".join(_bounds(field, definitions))
        rows.append(Parameter(name, kind, field.get("default"), required, bounds, meaning))
    return rows


def _type(field: Schema, definitions: Schema) -> str:
    field = _resolved(field, definitions)
    if "enum" in field:
        return " | ".join(_value(value) for value in field["enum"])
    if "const" in field:
        return _value(field["const"])
    if "anyOf" in field:
        return " or ".join(_type(option, definitions) for option in field["anyOf"])
    if field.get("type") == "array":
        if "prefixItems" in field:
            return "(" + ", ".join(_type(item, definitions) for item in field["prefixItems"]) + ")"
        return f"list of {_type(field['items'], definitions)}" if "items" in field else "list"
    if field.get("type") == "object":
        return "mapping"
    return _TYPES.get(str(field.get("type")), "any")


def _bounds(field: Schema, definitions: Schema) -> list[str]:
    """Bounds of the value itself, of a union's members, and of a list's entries."""
    field = _resolved(field, definitions)
    found = [text.format(_value(field[key], bare=True)) for key, text in _BOUNDS if key in field]
    if "prefixItems" in field:  # a tuple's length is in its type already
        found = []
    for option in field.get("anyOf", ()):
        found += _bounds(option, definitions)
    if isinstance(field.get("items"), Mapping):
        found += [f"entries {bound}" for bound in _bounds(field["items"], definitions)]
    return list(dict.fromkeys(found))


def _resolved(field: Schema, definitions: Schema) -> Schema:
    reference = field.get("$ref", "")
    return definitions.get(reference.rpartition("/")[2], field) if reference else field


def _value(value: Any, *, bare: bool = False) -> str:
    """A value as a suite would have it."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_value(entry) for entry in value) + "]"
    return str(value) if bare or value != "" else "''"


def default_text(parameter: Parameter) -> str:
    """The default as a suite would have it."""
    return "(required)" if parameter.required else _value(parameter.default)


def document(entry: Registered) -> str:
    """The class's docstring, without what it inherits."""
    return inspect.cleandoc(entry.cls.__doc__ or "")


def specification(entry: Registered) -> dict[str, str]:
    """Module -> docstring: the plugin's module, and the modules of its package that this names, one after another.

    A module opens with what a method is and, where bytes are written, with what each of them means.
    """
    package = entry.cls.__module__.partition(".")[0]
    told: dict[str, str] = {}
    asked = [entry.cls.__module__]
    for name in asked:
        module = None if name in told else _module(name)
        if module is not None and module.__doc__:
            told[name] = inspect.cleandoc(module.__doc__)
            asked += re.findall(rf"``({package}(?:\.\w+)+)``", module.__doc__)
    return told


def _module(name: str) -> ModuleType | None:
    try:
        return importlib.import_module(name)
    except ImportError:  # a name of something else in a module
        return None


def habits(cls: type[Plugin]) -> dict[str, str]:
    """What a plugin takes, uses and says of itself, at its default parameters: label -> words."""
    from nqbench.testing import configurations

    told: dict[str, str] = {}
    if issubclass(cls, Quantizer):
        told["takes sensitivity"] = ", ".join(sorted(cls.takes))
    if issubclass(cls, Training) and cls.quantizers:
        told["works with quantizer"] = ", ".join(sorted(cls.quantizers))
    if issubclass(cls, Sensitivity):
        told["form"] = cls.form
    if issubclass(cls, Model) and (first := shorthand(cls)):
        told[f"--model {cls.name}:VALUE"] = f"sets {first}"
    if issubclass(cls, Pruner):
        told["prunes"] = "yes" if cls.prunes else "no"
    if issubclass(cls, Positions):
        told["positions"] = "merged into the weights' own stream" if cls.merges else "a stream of their own"
    try:
        plugin = configurations(cls)[0]
    except NqbenchError:
        return told
    told["uses the seed"] = "yes" if plugin.uses_seed() else "no"
    if isinstance(plugin, Quantizer):
        told["uses the coder's rate"] = "yes" if plugin.uses_rate() else "no"
    if isinstance(plugin, Quantizer | Codec):
        told["knob"] = _knob(plugin)
    if isinstance(plugin, Model):
        metric = plugin.metric()
        better = "higher" if metric is None or metric.higher_is_better else "lower"
        told["metric"] = f"{metric.name} ({metric.unit}), {better} is better" if metric else "none: it has no data"
    return told


def _knob(plugin: Quantizer | Codec) -> str:
    """The knob's field and direction; its range depends on the source, so it is not told."""
    from nqbench.testing.movement import knob_of

    try:
        knob = knob_of(plugin) if isinstance(plugin, Quantizer) else plugin.knob()
    except Exception as error:  # noqa: BLE001 - a stranger's plugin must not keep its own page from being printed
        return f"cannot be told: {type(error).__name__}: {error}"
    if knob is None:
        return "none"
    return f"{knob.field} ({'larger' if knob.more_bytes == 'up' else 'smaller'} values give more bytes)"
