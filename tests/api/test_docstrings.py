"""What a plugin author reads: each public name says what it takes, gives and raises, with an example that runs."""

from __future__ import annotations

import dataclasses
import inspect
import re
from typing import Any

import pytest

from nqbench import api
from nqbench.api import Plugin

NAMED = {name: getattr(api, name) for name in api.__all__}
NAMED |= {f"scalar.{name}": getattr(api.scalar, name) for name in api.scalar.__all__}
PUBLIC = {
    name: obj for name, obj in NAMED.items() if getattr(obj, "__module__", "").startswith("nqbench.") and callable(obj)
}
CONTRACTS = [
    (name, method)
    for name, obj in PUBLIC.items()
    if inspect.isclass(obj)
    for method, value in vars(obj).items()
    if inspect.isfunction(value)
    and not value.__name__.startswith("_")
    and "NotImplementedError" in value.__code__.co_names
]
"""Methods that a plugin author writes."""


def sections(text: str) -> dict[str, str]:
    """The docstring's summary, under "", and what follows each of its heads."""
    parts = re.split(r"^(Args|Returns|Raises|Example):\n", inspect.cleandoc(text) + "\n", flags=re.MULTILINE)
    return {"": parts[0], **dict(zip(parts[1::2], parts[2::2], strict=True))}


def entries(text: str) -> set[str]:
    """The names that a section explains: ``name: ...``, or several at once, ``a, b: ...``."""
    found = re.findall(r"^    (\w[\w., ]*):", text, flags=re.MULTILINE)
    return {name.strip() for names in found for name in names.split(",")}


def parameters(obj: Any) -> set[str]:
    """What a call takes: a function's parameters, a dataclass's fields, an exception's own arguments."""
    if dataclasses.is_dataclass(obj):
        return {f.name for f in dataclasses.fields(obj) if f.init and not f.name.startswith("_")}
    if inspect.isclass(obj) and "__init__" not in vars(obj):
        return set()
    signature = inspect.signature(obj.__init__ if inspect.isclass(obj) else obj)
    return set(signature.parameters) - {"self", "cls"}


@pytest.mark.parametrize("name", PUBLIC)
def test_a_public_name_has_a_summary_its_arguments_and_an_example(name: str) -> None:
    obj = PUBLIC[name]
    said = sections(obj.__doc__ or "")
    summary = said[""].strip().partition("\n\n")[0]
    assert summary.endswith((".", "``.")), summary
    if not (inspect.isclass(obj) and issubclass(obj, Plugin)):
        assert parameters(obj) <= entries(said.get("Args", "")) | {"message"}
    if inspect.isfunction(obj):
        assert "Returns" in said
        assert ("Raises" in said) == bool(re.search(r"^\s+raise \w", inspect.getsource(obj), re.MULTILINE))
    assert ">>> " in said["Example"]


@pytest.mark.parametrize(("name", "method"), CONTRACTS, ids=".".join)
def test_a_method_that_an_author_writes_says_what_it_takes_and_gives(name: str, method: str) -> None:
    function = vars(PUBLIC[name])[method]
    said = sections(function.__doc__ or "")
    assert parameters(function) <= entries(said.get("Args", ""))
    assert not parameters(function) or "Returns" in said
    assert said[""].strip()


def test_the_form_is_asked_of_every_kind() -> None:
    assert len(PUBLIC) > 60
    assert {name for name, _ in CONTRACTS} >= {
        "Codec", "Coder", "Model", "Positions", "Pruner", "Quantizer", "Sensitivity", "Training",
    }  # fmt: skip
