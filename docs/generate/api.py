"""The reference of what Python code imports: ``nqbench``, and ``nqbench.api`` for authors of plugins."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from pathlib import Path

import nqbench
from generate import rst
from nqbench import api, in_memory

KINDS = ("Quantizer", "Coder", "Model", "Pruner", "Sensitivity", "Training", "Positions", "Codec", "Engine")
GROUPS: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "kinds": ("The kinds of plugins", (*KINDS, "Plugin", "Former", "hookimpl", "API_VERSION")),
    "quantizers": (
        "What a quantizer is given, and gives",
        ("Source", "SourceTensor", "Diagonal", "SecondMoments", "Rate", "Quantized", "Knob", "Structure", "Array",
         "Per", "Placed", "gaussian_step", "dither", "deployed"),
    ),
    "coders": (
        "What a coder is given, and gives",
        ("Stream", "StreamSpec", "StreamTensor", "Encoded", "check_decoded"),
    ),
    "networks": (
        "What models, pruners and trainings are given, and give",
        ("Network", "Task", "Pruned", "QuantizedModel", "Group", "Moments", "Metric", "Evaluation", "as_outputs",
         "hits", "device_of", "to_device", "begin"),
    ),
    "errors": ("Errors", ("NqbenchError", "BadInput", "CorruptFile", "DataMissing", "NotRegistered", "Note")),
}  # fmt: skip


def pages(root: Path) -> Mapping[str, str]:
    groups = _groups()
    made = {f"api/{key}.rst": "\n".join(_group(*group)) for key, group in groups.items()}
    return {"api/index.rst": "\n".join(_index(list(groups))), **made}


def _groups() -> Mapping[str, tuple[str, tuple[str, ...]]]:
    """With whatever class or function is new and has no place yet."""
    rest = tuple(sorted(n for n in unlisted() if inspect.isclass(v := getattr(api, n)) or inspect.isfunction(v)))
    return {**GROUPS, **({"more": ("And more", rest)} if rest else {})}


def _index(keys: list[str]) -> Iterator[str]:
    yield rst.title("From Python")
    yield "The same as the commands do, in a process of yours. What a plugin imports is in ``nqbench.api``:\n"
    yield ".. toctree::\n   :maxdepth: 2\n"
    yield "\n".join(f"   {key}" for key in keys) + "\n"
    for name in nqbench.__all__:
        if not name.startswith("_") and name != "compress":
            yield f".. autofunction:: nqbench.{name}\n"
    yield ".. autofunction:: nqbench.compress\n"
    yield ".. autofunction:: nqbench.in_memory.compress\n"
    yield f".. autoclass:: nqbench.in_memory.{in_memory.Compressed.__name__}\n"


def _group(heading: str, names: tuple[str, ...]) -> Iterator[str]:
    yield rst.title(heading)
    for name in names:
        value = getattr(api, name)
        yield rst.section(name)
        if inspect.isclass(value):
            members = [m for m, v in vars(value).items() if _is_public_method(m, v)]
            yield f".. autoclass:: nqbench.api.{name}"
            if members:
                yield f"   :members: {', '.join(members)}"
            yield ""
        elif callable(value) and getattr(value, "__doc__", None) and inspect.isfunction(value):
            yield f".. autofunction:: nqbench.api.{name}\n"
        else:
            yield f".. autodata:: nqbench.api.{name}\n   :no-value:\n"


def _is_public_method(name: str, value: object) -> bool:
    inner = value.__func__ if isinstance(value, classmethod | staticmethod) else value
    return (
        not name.startswith("_") and (inspect.isfunction(inner) or isinstance(value, property)) and bool(inner.__doc__)
    )


def unlisted() -> set[str]:
    """Public names that no group of ``GROUPS`` has."""
    return set(api.__all__) - {name for _, names in GROUPS.values() for name in names}
