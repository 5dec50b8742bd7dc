"""A trial: one point of a suite. It consists of names and JSON, so that it can be sent to other processes and
hashed."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Literal

from nqbench.api.plugin import Plugin
from nqbench.digest import configuration_digest
from nqbench.registry import Registry

Unquantized = Literal["float32", "float16", "uint8", "float16-all", "uint8-all"]
"""How tensors that are not quantized are stored (``nqbench.container.raw``)."""

Nonfinite = Literal["refuse", "store"]


@dataclass(frozen=True, order=True)
class Choice:
    """One plugin with its validated parameters: kind, name, canonical JSON."""

    kind: str
    name: str
    json: str = "{}"

    def make(self, registry: Registry) -> Plugin:
        return registry.make(self.kind, self.name, self.json)

    @property
    def parameters(self) -> dict[str, Any]:
        result: dict[str, Any] = json.loads(self.json)
        return result

    @staticmethod
    def of(plugin: Plugin) -> Choice:
        return Choice(plugin.kind, plugin.name, plugin.canonical_json())


@dataclass(frozen=True)
class Trial:
    """model x pruner x sensitivity x granularity x quantizer x training x positions x coder x seed; or a codec in place
    of sensitivity, granularity, quantizer, positions and coder.

    A field is None if it does not apply: pruner (nothing pruned), sensitivity (none used), positions (nothing pruned,
    so nothing to write), quantizer and coder (a codec trial), codec (every other). training is a chain, () for direct
    compression. seed is None where no plugin of the trial uses one. nonfinite: what to do with nan and inf in tensors
    that are not quantized; it changes no figure and does not belong to the configuration. selected_on: the split that
    the search which asked for the trial looks at; None: no search.
    """

    model: Choice
    quantizer: Choice | None = None
    coder: Choice | None = None
    codec: Choice | None = None
    pruner: Choice | None = None
    sensitivity: Choice | None = None
    granularity: Literal["global", "layer"] = "global"
    training: tuple[Choice, ...] = ()
    positions: Choice | None = None
    streams: Literal["auto", "joint", "per-tensor"] = "auto"
    seed: int | None = None
    unquantized: Unquantized = "float32"
    fold_batchnorm: bool = False
    loss_increase: bool = False
    nonfinite: Nonfinite = "refuse"
    selected_on: Literal["train", "validation", "test"] | None = None
    judged_by: str | None = None
    """The metric that is the record's headline; None: the model's own."""
    tested: bool = True
    """Whether the test split is evaluated. False in a search that uses the test split only at the end."""

    @property
    def looked_at(self) -> Literal["train", "validation"] | None:
        """The split that is evaluated beside the test split; None: that alone."""
        return None if self.selected_on == "test" else self.selected_on

    def choices(self) -> tuple[Choice, ...]:
        """Every plugin the trial uses, in pipeline order."""
        single = (self.model, self.pruner, self.sensitivity, self.quantizer)
        after = (self.positions, self.coder, self.codec)
        return tuple(c for c in (*single, *self.training, *after) if c is not None)

    def config(self) -> dict[str, Any]:
        """The trial in the field names that records have: ``<kind>`` and ``<kind>_params``."""
        fields: dict[str, Any] = {}
        for kind in ("model", "pruner", "sensitivity", "quantizer", "positions", "coder", "codec"):
            choice: Choice | None = getattr(self, kind)
            fields[kind] = choice.name if choice else None
            fields[f"{kind}_params"] = choice.parameters if choice else None
        fields["granularity"] = None if self.codec else self.granularity
        fields["training"] = "+".join(c.name for c in self.training) or "none"
        fields["training_params"] = [c.parameters for c in self.training]
        for name in ("streams", "seed", "unquantized", "fold_batchnorm", "loss_increase", "selected_on", "judged_by"):
            fields[name] = getattr(self, name)
        return fields

    @property
    def trial(self) -> str:
        """16 hex digits that name the configuration, whatever code and versions run it, and whether a suite or a search
        asked for it: runs with different code are compared by it."""
        return configuration_digest(self.config())
