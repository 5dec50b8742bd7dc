"""The chain of ``nqbench.suite.chain``, with how each stage's result is made, kept, and found again.

A stage's code is the module that makes it and all that this imports: what stands here, and in the modules that run the
chain, says only where things go.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from nqbench.pipeline import evaluating, filing, knobs, preparation, quantization
from nqbench.pipeline.artifacts import load_quantized, save_quantized, save_tensors
from nqbench.pipeline.context import Context

Meta = Mapping[str, Any]


@dataclass(frozen=True)
class How:
    """make: the result. meta: what JSON says of it. save: the rest, into a file. load: the result again, from that
    file and ``meta``; None: it is made anew by every worker. content: a hash of it, where what follows is keyed by
    that. most: how many a worker keeps. checkpoints: the trial's field for whose sake an interruption should not cost
    all of it. alone: whether others wait while one makes it; of a file no two trials want the same."""

    make: Callable[[Context], Any]
    load: Callable[[Path, Meta, torch.device], Any] | None = None
    meta: Callable[[Any], Meta] = lambda result: {}
    save: Callable[[Any, Path], object] | None = None
    content: Callable[[Any], str] | None = None
    most: int = 0
    checkpoints: str = ""
    alone: bool = True


def _said(path: Path, meta: Meta, device: torch.device) -> Meta:
    """A result that JSON says all of."""
    return meta


def _evaluation(make: Callable[[Context], Any], most: int = 0) -> How:
    return How(make, _said, lambda result: result, most=most)


HOW = {
    "load": How(preparation.load, content=preparation.content_of_network, most=1),
    "prune": How(
        preparation.prune,
        lambda path, meta, device: preparation.load_pruned(path, device),
        save=preparation.save_pruned,
        content=preparation.content_of_pruned,
        most=1,
        checkpoints="pruner",
    ),
    "sense": How(
        preparation.sense,
        lambda path, meta, device: preparation.load_sensed(path, device),
        save=save_tensors,
        most=1,
    ),
    "quantize": How(
        quantization.quantize,
        lambda path, meta, device: (load_quantized(path, device), dict(meta)),
        meta=lambda result: result[1],
        save=lambda result, path: save_quantized(result[0], path),
        most=1,
        checkpoints="training",
    ),
    "file": How(
        filing.file,
        lambda path, meta, device: filing.Filed(dict(meta), path),
        meta=lambda filed: filed.figures,
        save=lambda filed, path: path.write_bytes(filed.path.read_bytes()),
        content=lambda filed: str(filed.figures["decoded_sha256"]),
        alone=False,
    ),
    "evaluate_float": _evaluation(evaluating.of_float, most=4),
    "evaluate": _evaluation(evaluating.of_file),
    "evaluate_float_selected": _evaluation(evaluating.of_float_selected, most=4),
    "evaluate_selected": _evaluation(evaluating.of_file_selected),
    "loss_expansion": How(
        evaluating.loss_expansion,
        evaluating.load_expansion,
        lambda made: {"samples": made.samples, "loss": made.loss},
        evaluating.save_expansion,
        most=1,
    ),
    "loss": _evaluation(evaluating.loss),
    "knob": How(knobs.knob, lambda path, meta, device: knobs.from_json(meta), knobs.to_json),
}
