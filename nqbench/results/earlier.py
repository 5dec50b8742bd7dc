"""Records of earlier schema versions in the words of today, so that old runs compare with new ones.

Version 1 called the fields ``granularity`` and ``unquantized`` ``scope`` and ``others``. Plugins are named as their
classes say today (``Plugin.formerly``, ``Plugin.former_fields``), with the parameters that they have got since at their
defaults. A plugin that is not installed, or that no longer takes the old parameters, stays as it was written.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from typing import Any

from nqbench.api.errors import BadInput, NotRegistered
from nqbench.digest import configuration_digest
from nqbench.registry import registry

FIELDS = {"scope": "granularity", "others": "unquantized"}
"""Fields of version 1 by their names of today."""
SINGLE = ("model", "pruner", "sensitivity", "quantizer", "positions", "coder", "codec")
_PLAIN = ("training", "training_params", "streams", "seed", "fold_batchnorm")


def modern(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a record of version 1 as one of version 2 has them."""
    new = {FIELDS.get(name, name): value for name, value in fields.items()}
    for kind in SINGLE:
        if new.get(kind) is not None:
            new[kind], new[f"{kind}_params"] = _plugin(kind, new[kind], new.get(f"{kind}_params") or {})
    names, parameters = str(new.get("training", "none")).split("+"), new.get("training_params") or []
    if len(names) == len(parameters):
        links = [_plugin("training", name, given) for name, given in zip(names, parameters, strict=True)]
        new["training"], new["training_params"] = "+".join(name for name, _ in links), [given for _, given in links]
    new["knob"] = _knob(new, fields)
    new["trial"] = _renamed_trial(fields, new)
    new["schema_version"] = 2
    return new


def _plugin(kind: str, name: str, parameters: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    today, text = _validated(kind, name, json.dumps(dict(parameters), sort_keys=True))
    return today, json.loads(text)


@cache
def _validated(kind: str, name: str, parameters: str) -> tuple[str, str]:
    """Name and JSON of today; what is not known, or not valid, as it is."""
    try:
        plugin = registry().make(kind, name, parameters)
    except (BadInput, NotRegistered):
        return name, parameters
    return plugin.name, plugin.canonical_json()


def _knob(new: Mapping[str, Any], old: Mapping[str, Any]) -> str | None:
    knob = old.get("knob")
    method = next(((kind, new[kind]) for kind in ("quantizer", "codec") if new.get(kind)), None)
    if knob is None or method is None or method not in registry().found:
        return knob
    former = registry().found[method].cls.former_fields.get(knob)
    return former.field if former else knob


def _renamed_trial(old: Mapping[str, Any], new: Mapping[str, Any]) -> Any:
    """The configuration's name as today's words give it. The old name tells whether the loss increase was asked for,
    which a record does not say; where neither answer gives the old name, it stays."""
    for asked in (False, True):
        if configuration_digest(_config(old, asked, *FIELDS)) == old.get("trial"):
            return configuration_digest(_config(new, asked, *FIELDS.values()))
    return old.get("trial")


def _config(fields: Mapping[str, Any], loss_increase: bool, *renamed: str) -> dict[str, Any]:
    """What ``Trial.config`` gave the record."""
    names = [*SINGLE, *(f"{kind}_params" for kind in SINGLE), *_PLAIN, *renamed]
    return {**{name: fields.get(name) for name in names}, "loss_increase": loss_increase}
