# ruff: noqa: T201 - a script that prints its table
"""Seconds that each sensitivity takes on a real network, beside one plain pass over the same samples.

    python benchmarks/sensitivities.py --model resnet32 --samples 1000 --threads 2

The peer is a plain forward and backward pass of the mean loss over as many samples: what any look at them costs.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from tabulate import tabulate

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "plugins")]

from nqbench.api import Model, Sensitivity, Task  # noqa: E402
from nqbench.registry import registry  # noqa: E402


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="resnet32")
    parser.add_argument("--params", type=json.loads, default={}, help="of the model, as JSON")
    parser.add_argument("--samples", type=int, default=1000)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    model = registry().get("model", options.model)(**options.params)
    assert isinstance(model, Model)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    module = model.load(device)
    task = Task(model, module, tuple(model.compressible(module)))
    sensitivities = {
        "hessian, all classes": ("hessian", {"samples": options.samples}),
        "hessian, a drawn label": ("hessian", {"samples": options.samples, "labels": "drawn"}),
        "fisher": ("fisher", {"samples": options.samples}),
        "second-moments": ("second-moments", {"samples": options.samples}),
    }
    peer = _seconds(lambda: _plain(task, options.samples))
    rows = [["forward and backward", peer, 1.0]]
    for label, (name, fields) in sensitivities.items():
        plugin = registry().get("sensitivity", name)(**fields)
        assert isinstance(plugin, Sensitivity)
        taken = _seconds(lambda plugin=plugin: plugin.sense(task, task.names))
        rows.append([label, taken, taken / peer])
    print(f"{options.model}, {options.samples} samples, {options.threads} threads, {device}")
    print(tabulate(rows, headers=["", "seconds", "times the peer"], floatfmt=("", ".1f", ".2f")))


def _plain(task: Task, samples: int) -> None:
    seen = 0
    for batch in task.batches("train", batch_size=100):
        task.module.zero_grad()
        task.loss(batch).backward()
        seen += 100
        if seen >= samples:
            break


def _seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
