"""The example on a plugin's page is one: it stands in the suite that it names, and a suite with it loads."""

from __future__ import annotations

import re
from pathlib import Path

import pluggy
import pytest
from pydantic import Field
from ruamel.yaml import YAML

from nqbench.api import Pruner, Quantizer
from nqbench.cli._example import AXES, example_of
from nqbench.registry import KINDS, Registered, Registry, registry
from nqbench.suite import load, shipped

BUILT_IN = [entry for entry in registry().all() if entry.distribution == "nqbench" and entry.cls.kind in AXES]
OWN = {"hf", "module", "timm"}
"""Models that need a name or a folder of the user's."""
REST = {"models": ["synthetic"], "quantizers": ["uniform"]}
WHAT_TAKES_IT = {"second-moments": ["gptq"]}


def test_every_kind_that_a_suite_names_has_its_axis() -> None:
    assert AXES.keys() == KINDS.keys() - {"engine"}


@pytest.mark.parametrize("entry", BUILT_IN, ids=lambda e: f"{e.cls.kind}-{e.cls.name}")
def test_a_suite_with_the_example_loads_and_uses_the_plugin(entry: Registered, tmp_path: Path) -> None:
    example = example_of(entry)
    assert example is not None
    if example.suite:
        assert entry.cls.name in shipped()[example.suite].read_text(encoding="utf-8")
    if entry.cls.name in OWN:
        assert re.fullmatch(r"models:\n  - \w+: {[a-z]+: [A-Z]+}", example.text)
        return
    suite = {**REST, **YAML(typ="safe").load(example.text)}
    if entry.cls.kind == "sensitivity":
        suite["quantizers"] = WHAT_TAKES_IT.get(entry.cls.name, suite["quantizers"])
    if entry.cls.kind == "codec":
        del suite["quantizers"]
    path = tmp_path / "example.yaml"
    YAML().dump(suite, path)
    assert load(path).name == "example"  # every plugin of it is there, and takes these parameters


class Needs(Quantizer, name="needs"):
    """Has parameters without a default."""

    share: float = Field(examples=[0.5])
    names: tuple[str, ...] = Field(examples=[["a.weight", "yes", "4"]])
    free: int = 3


class Mute(Pruner, name="mute"):
    """Says no example of what it needs."""

    must: int


def test_a_strangers_example_has_what_is_required_and_no_more() -> None:
    found = Registry(pluggy.PluginManager("nqbench"))
    entry = found.found["quantizer", "needs"] = Registered(Needs, "acme", "1")
    example = example_of(entry)
    assert example is not None
    assert (example.text, example.suite) == (
        'quantizers:\n  - needs: {share: 0.5, names: [a.weight, "yes", "4"]}', ""
    )  # fmt: skip
    parsed = YAML(typ="safe").load(example.text)["quantizers"][0]["needs"]
    assert parsed == {"share": 0.5, "names": ["a.weight", "yes", "4"]}


def test_what_cannot_be_told_is_left_out() -> None:
    assert example_of(Registered(Mute, "acme", "1")) is None
