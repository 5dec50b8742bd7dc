"""Trials of the probe's plugins, in short."""

from __future__ import annotations

from typing import Any

from nqbench.pipeline.trial import Choice, Trial
from nqbench.registry import registry


def choice(kind: str, name: str, **parameters: Any) -> Choice:
    return Choice.of(registry().make(kind, name, parameters))


def trial(
    *,
    model: Any = None,
    quantizer: tuple[str, dict[str, Any]] | None = ("levels", {}),
    coder: tuple[str, dict[str, Any]] | None = ("plain", {}),
    codec: str | None = None,
    alone: bool = False,
    pruner: dict[str, Any] | None = None,
    positions: str | None = None,
    sensitivity: str | None = None,
    training: tuple[dict[str, Any], ...] = (),
    **fields: Any,
) -> Trial:
    coded = codec is None
    return Trial(
        choice("model", "probe", **(model or {})),
        quantizer=choice("quantizer", quantizer[0], **quantizer[1]) if coded and quantizer else None,
        coder=choice("coder", coder[0], **coder[1]) if coded and coder else None,
        codec=None if coded else choice("codec", codec, alone=alone),
        pruner=None if pruner is None else choice("pruner", "smallest", **pruner),
        positions=None if positions is None else choice("positions", positions),
        sensitivity=None if sensitivity is None else choice("sensitivity", sensitivity),
        training=tuple(choice("training", "shifted", **t) for t in training),
        **fields,
    )
