"""Synthetic records whose figures follow simple laws, so that tests know the answers."""

from __future__ import annotations

import hashlib
import json

import numpy as np

from nqbench.results.record import Parts, Record, pack_correct

WEIGHTS = 10_000
EXAMPLES = 1_000
ENVIRONMENT = {
    "nqbench": "0.1.0",
    "python": "3.11.7",
    "libraries": {"torch": "2.13.0"},
    "cpu": "Imaginary 1",
    "cores": 2,
    "gpu": [],
    "hardware": "0123456789ab",
    "threads": 1,
    "device": "cpu",
    "git_revision": "f" * 40,
}


def digest(fields: object) -> str:
    return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()


def make(
    *,
    model: str = "net",
    quantizer: str = "uniform",
    k: int = 16,
    coder: str = "huffman",
    seed: int | None = None,
    run: str = "run-1",
    wrong: int | None = None,
    symbols: int | None = None,
    granularity: str = "global",
    **changes: object,
) -> Record:
    """A good record. log2(k) bits per weight; ``wrong`` of 1,000 test examples missed (20 by the float network)."""
    bits = float(np.log2(k))
    missed = round(20 + 320 / k) if wrong is None else wrong
    correct = np.ones(EXAMPLES, dtype=bool)
    correct[:missed] = False
    size = int(WEIGHTS * bits / 8) if symbols is None else symbols
    parts = Parts(header=100, codebook=4 * k, coder_table=k, symbols=size, raw_parameters=400)
    config = {
        "model": model,
        "model_params": {},
        "quantizer": quantizer,
        "quantizer_params": {"k": k, "zero": "center"},
        "coder": coder,
        "coder_params": {},
        "granularity": granularity,
        "seed": seed,
    }
    metric = 100.0 * (EXAMPLES - missed) / EXAMPLES
    fields = {
        "run": run,
        "suite": "synthetic",
        "status": "ok",
        "key": digest([config, "code"]),
        "trial": digest(config)[:16],
        **config,
        "knob": "k",
        "file_bytes": parts.total,
        "parts": parts.model_dump(),
        "weights": WEIGHTS,
        "kept": WEIGHTS,
        "ratio": 4.0 * (WEIGHTS + 100) / parts.total,
        "file_ratio": 4.0 * (WEIGHTS + 100) / parts.total,
        "bits_per_weight": 8.0 * parts.total / WEIGHTS,
        "entropy": 0.95 * bits,
        "efficiency": 0.95 * bits * WEIGHTS / (8 * size) if size else None,
        "mse": 2.0 ** (-2 * bits) / 12,
        "metric_name": "accuracy",
        "metric_float": 98.0,
        "metric": metric,
        "metric_delta": metric - 98.0,
        "metrics_float": {"accuracy": 98.0},
        "metrics": {"accuracy": metric},
        "correct": pack_correct(correct),
        "examples": EXAMPLES,
        "seconds": {"quantize": 0.01 * k, "encode": 0.02, "decode": 0.01, "evaluate": 0.1},
        "encode_msym_s": 0.5,
        "decode_msym_s": 1.0,
        "environment": ENVIRONMENT,
    }
    return Record.from_dict({**fields, **changes})


def failed(**changes: object) -> Record:
    """A trial that raised."""
    good = make(**changes).to_dict()  # type: ignore[arg-type]
    for name in ("file_bytes", "parts", "metric", "metric_delta", "ratio", "file_ratio", "bits_per_weight", "correct"):
        good[name] = None
    error = "Traceback (most recent call last):\n  ...\nValueError: <boom>"
    return Record.from_dict({**good, "status": "failed", "error": error})


def sweep(**common: object) -> list[Record]:
    """Two models x two quantizers x five settings x two coders; kmeans misses fewer, bzip2 is a tenth larger."""
    found = []
    for model in ("net", "other"):
        for quantizer, miss in (("uniform", 320), ("kmeans", 200)):
            for k in (2, 4, 8, 16, 32):
                for coder, factor in (("huffman", 1.0), ("bzip2", 1.1)):
                    size = int(WEIGHTS * np.log2(k) / 8 * factor)
                    wrong = round(20 + miss / k)
                    found.append(
                        make(model=model, quantizer=quantizer, k=k, coder=coder, symbols=size, wrong=wrong, **common)  # type: ignore[arg-type]
                    )
    return found
