"""A suite for each random network: planned, run and decompressed, it ends well or in one line."""

from __future__ import annotations

import json
import random
import traceback
from pathlib import Path
from typing import Any

import torch
from own_networks import bench_of, with_own
from random_networks import RandomNetwork, describe

from nqbench.api import NqbenchError
from nqbench.container import read
from nqbench.pipeline.decoder import Decoder
from nqbench.pipeline.files import file_of
from nqbench.suite import load

SENSITIVITIES = ("hessian", "fisher", "hutchinson", "adam", "none", "second-moments")
QUANTIZERS = (
    "uniform", "kmeans", "ternary", {"ecsq": {"lam": 0.1, "unit": "variance"}},
    {"randomized-lattice": {"step": 0.5, "unit": "std"}}, {"uniform": {"step": 0.3, "granularity": "layer"}},
)  # fmt: skip
TRAININGS = (
    "none", "none", {"finetune": {"epochs": 1, "unquantized": True}}, {"straight-through": {"epochs": 1}}, "batchnorm",
    "sequential", {"iterated-direct": {"epochs": 1, "iterations": 1}},
    {"learning-compression": {"epochs": 1, "first_epochs": 1, "iterations": 1}},
)  # fmt: skip
PRUNERS = ("none", "none", {"magnitude": {"keep": 0.4, "epochs": 1}}, {"surgeon": {"keep": 0.5, "rounds": 2}})


def suite(number: int) -> dict[str, Any]:
    """What is tried on the network of this number."""
    r = random.Random(1000 + number)
    sensitivity = r.choice(SENSITIVITIES)
    quantizer = {"gptq": {"step": 0.1}} if sensitivity == "second-moments" else r.choice(QUANTIZERS)
    sensitivity = "none" if "randomized-lattice" in quantizer else sensitivity
    model = {"network": f"random_networks:network_{number}", "data": "random_networks:batches"}
    return {
        "name": f"random-{number}",
        "models": [{"module": {**model, "folder": str(Path(__file__).parent)}}],
        "pruners": [r.choice(PRUNERS)],
        "sensitivities": [sensitivity],
        "granularities": [r.choice(["global", "layer"])],
        "quantizers": [quantizer],
        "trainings": ["none", r.choice(TRAININGS)],
        "positions": [r.choice(["zero", "gaps", "bitmap"])],
        "coders": [r.choice(["huffman", "raw", "rans"])],
        "unquantized": r.choice(["float32", "float16", "uint8", "float16-all"]),
        "fold_batchnorm": r.random() < 0.5,
        "loss_increase": r.random() < 0.3,
        "nonfinite": r.choice(["refuse", "store"]),
    }


def outcome(number: int, decoder: Decoder, folder: Path) -> str:
    """``ok``, ``refused: ...`` with the line, or what went wrong, with its traceback."""
    path = folder / "suite.yaml"
    path.write_text(json.dumps(suite(number)))
    try:
        plan = load(path, registry=with_own())
        with bench_of(decoder) as bench:
            for trial in plan.trials():
                bench.run(trial, folder)
                written = file_of(bench.maker.keys(trial).trial, folder)
                _decompressed(number, written)
    except NqbenchError as error:
        text = str(error)
        return f"refused: {text}" if text and "\n" not in text else f"more than a line: {text!r} {describe(number)}"
    except Exception:  # noqa: BLE001 - whatever it is, it is what the test looks for
        return f"{traceback.format_exc()}\nnetwork {number}: {describe(number)}\n{suite(number)}"
    return "ok"


def _decompressed(number: int, path: Path) -> None:
    """The file's tensors are a state of the network, each in its own dtype and shape."""
    tensors = read(path, with_own()).tensors
    network = RandomNetwork(number).eval()
    own = network.state_dict()
    assert {n: (t.shape, t.dtype) for n, t in own.items()} == {n: (t.shape, t.dtype) for n, t in tensors.items()}
    network.load_state_dict(tensors)
    for name, tensor in own.items():
        assert tensor.is_floating_point() or torch.equal(tensor, tensors[name])
