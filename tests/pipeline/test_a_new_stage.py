"""A new stage is one entry of the chain: tried in a copy of the core, where nothing else is edited."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import nqbench

ENTRY = """    Stage(
        "count",
        lambda context: {"weights": sum(t.numel() for t in preparation.pruned_of(context).state.values())},
        inputs=("prune", "load"),
        plugins=("model", "pruner"),
        meta=lambda result: result,
        load=_meta_alone,
        stays=True,
    ),
"""
BEFORE = '    Stage(\n        "sense",\n'
SUITE = "models: [{synthetic: {n: [1000, 500]}}]\nquantizers: [uniform: {step: [0.1, 0.2]}]\n"
SCRIPT = """
import json, sys
from pathlib import Path
import torch
from nqbench.engine.deadlines import Deadlines
from nqbench.pipeline.cache import Cache
from nqbench.pipeline.chain import first_needed
from nqbench.pipeline.workbench import Workbench
from nqbench.registry import registry
from nqbench.suite import load

suite = load(sys.argv[1])
trials = suite.trials()
def counted():
    bench = Workbench(registry(), Cache(Path("cache")), torch.device("cpu"))
    found = [bench.stage(trial, "count") for trial in trials]
    bench.close()
    return found
first, again = counted(), counted()
keys = Workbench(registry(), Cache(None), torch.device("cpu")).maker
print(json.dumps({
    "planned": [needed.count("count") for needed in first_needed(trials, registry())],
    "keys": len({found["key"] for found in first}),
    "made": [found["cached"] for found in first],
    "again": [found["cached"] for found in again],
    "kept": [Cache(Path("cache")).peek("count", found["key"])["result"] for found in first],
    "affinity": len(keys.keys(trials[0]).affinity),
    "deadline": suite.timeout["count"],
    "told": Deadlines(suite.timeout).passed("count", 8.0),
}))
"""


def test_a_new_stage_is_planned_keyed_cached_and_timed_by_its_entry_alone(tmp_path: Path) -> None:
    root = Path(nqbench.__file__).parent
    shutil.copytree(root, tmp_path / "nqbench", ignore=shutil.ignore_patterns("__pycache__"))
    chain = tmp_path / "nqbench" / "pipeline" / "chain.py"
    text = chain.read_text()
    assert text.count(BEFORE) == 1
    chain.write_text(text.replace(BEFORE, ENTRY + BEFORE))
    (tmp_path / "suite.yaml").write_text(SUITE + "timeout: {count: 7}\n")
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, "suite.yaml"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(tmp_path), "NQBENCH_CACHE": str(tmp_path / "home")},
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["planned"] == [1, 0, 1, 0]
    assert found["keys"] == 2
    assert ["count" in cached for cached in found["made"]] == [False, True, False, True]
    assert all("count" in cached for cached in found["again"])
    assert found["kept"] == [{"weights": 1000}] * 2 + [{"weights": 500}] * 2
    assert found["affinity"] == 3  # of sense, of quantize, and its own
    assert found["deadline"] == 7
    assert found["told"] == "stopped: the stage 'count' took more than 7 s"
