"""Checks for plugins of every kind."""

from __future__ import annotations

import pickle

from pydantic import ValidationError

from nqbench.api import Plugin
from nqbench.testing.check import check, require
from nqbench.testing.other_process import call_in_other_process


@check("")
def described(plugin: Plugin) -> None:
    """The class has a docstring, and every parameter has a description."""
    require((type(plugin).__doc__ or "").strip(), "its class has no docstring")
    bare = [name for name, meaning in type(plugin).meanings().items() if not meaning]
    require(not bare, f"no docstring below the parameter {', '.join(repr(name) for name in bare)}")


@check("")
def json_round_trip(plugin: Plugin) -> None:
    """An instance made from its canonical JSON is equal to it."""
    again = type(plugin).model_validate_json(plugin.canonical_json())
    require(again == plugin, f"comes back from its JSON as {again}")
    require(again.canonical_json() == plugin.canonical_json(), "its canonical JSON changes on the way through JSON")


@check("")
def frozen(plugin: Plugin) -> None:
    """Parameters cannot be changed, and unknown parameters are refused."""
    for name in type(plugin).model_fields:
        try:
            setattr(plugin, name, getattr(plugin, name))
        except ValidationError:
            continue
        require(False, f"its parameter '{name}' can be assigned to: keep the model frozen")
    try:
        type(plugin).model_validate({**plugin.model_dump(), "no such parameter": 1})
    except ValidationError:
        return
    require(False, "takes a parameter that it does not have: keep extra='forbid'")


@check("")
def pickles_to_a_worker(plugin: Plugin) -> None:
    """It can be pickled, and has the same configuration in another process."""
    require(pickle.loads(pickle.dumps(plugin)) == plugin, "comes back from pickle as another configuration")
    kind, name, text = call_in_other_process(_identity, plugin)
    require((kind, name) == (plugin.kind, plugin.name), f"is {kind} '{name}' in another process")
    require(text == plugin.canonical_json(), f"has other parameters in another process: {text}")


def _identity(plugin: Plugin) -> tuple[str, str, str]:
    return plugin.kind, plugin.name, plugin.canonical_json()
