"""What is wrong with a network is found before anything is quantized, and said once; a record says how it was made and
nothing of whose machine made it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from nqbench.cli.frame import invoke
from nqbench.engine import run_suite
from nqbench.results.store import Store

MINE = """
import multiprocessing
import os
import warnings
import torch
from torch import nn
from nqbench.api import Note

TRIES = os.path.join(os.path.dirname(__file__), "tries")

def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(16, 24), nn.ReLU(), nn.Linear(24, 4))

def other():
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(16, 24), nn.ReLU(), nn.Linear(24, 4))

def refused():
    from nqbench.api import BadInput
    raise BadInput("no weights here")

def broken():
    return 1 / 0

def batches(split, batch_size, shuffle):
    generator = torch.Generator().manual_seed(1 if split == "train" else 2)
    x = torch.randn(64, 16, generator=generator)
    yield x, x[:, :4].argmax(1)

def score(module, batches):
    return {"top1": 50.0, "top5": 80.0}

def crash(module, batches):
    return {"top1": 1 / (not in_worker())}

def nothing(module, batches):
    if in_worker():
        warnings.warn("a note of a worker", Note)
    return {"top1": float("nan") if in_worker() else 50.0}

def killed(module, batches):
    if in_worker():
        with open(TRIES, "a") as tries:
            tries.write(".")
        if os.path.getsize(TRIES) <= int(os.environ["KILLED"]):
            os.kill(os.getpid(), 9)
    return {"top1": 50.0}

def in_worker():
    return multiprocessing.parent_process() is not None
"""
QUANTIZERS = "quantizers: [{uniform: {step: [0.1, 0.2, 0.3]}}]\n"


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the functions above, under a name of its own: a process imports a module once."""
    (tmp_path / f"m{tmp_path.name[-8:].strip('_')}.py".replace("-", "_")).write_text(MINE)
    monkeypatch.setenv("NQBENCH_CACHE", str(tmp_path / "cache"))
    return tmp_path


def module(here: Path, network: str, **more: str) -> str:
    (name,) = (path.stem for path in here.glob("m*.py"))
    fields = {"network": f"{name}:{network}", "data": f"{name}:batches", "folder": str(here), **more}
    if "score" in fields:
        fields["score"] = f"{name}:{fields['score']}"
    return json.dumps({"module": fields})


def suite(here: Path, *models: str, more: str = "") -> Path:
    path = here / "s.yaml"
    path.write_text(f"models: [{', '.join(models)}]\n{QUANTIZERS}{more}")
    return path


@pytest.mark.parametrize(
    ("network", "more", "expected"),
    [
        ("refused", {}, "no weights here"),
        ("broken", {}, "ZeroDivisionError: division by zero (m"),
        ("network", {"score": "score"}, "gives top1, top5, not the metric 'accuracy': say which"),
        ("network", {"score": "nothing", "metric_name": "top1"}, "the metric 'top1' of the float network is nan"),
    ],
)
@pytest.mark.parametrize("searched", [False, True])
def test_the_only_network_that_cannot_be_used_ends_the_run_with_one_line(
    here: Path, capsys: pytest.CaptureFixture[str], network: str, more: dict[str, str], expected: str, searched: bool
) -> None:
    path = suite(here, module(here, network, **more), more="target: {drop: 1}\n" if searched else "")
    assert invoke(["run", str(path), "--output", str(here / "out")]) == 1
    said = capsys.readouterr()
    assert said.err.count(expected) == 1
    assert "knob" not in said.err
    assert "failed" not in said.err
    assert sum(line.startswith("error: ") for line in said.err.splitlines()) == 1
    with Store.read(here / "out") as store:
        assert store.records() == []


@pytest.mark.parametrize("bad", ["nothing", "crash"])
def test_one_of_several_networks_is_said_once_and_the_others_go_on(
    here: Path, capsys: pytest.CaptureFixture[str], bad: str
) -> None:
    reason = {"nothing": "'top1' of the float network is nan", "crash": "ZeroDivisionError"}[bad]
    worse = module(here, "network", score=bad, metric_name="top1")
    path = suite(here, worse, module(here, "network"), module(here, "other"))
    assert invoke(["run", str(path), "--output", str(here / "out")]) == 2
    said = capsys.readouterr()
    noted = [line for line in said.err.splitlines() if "a note of" in line]
    assert noted == (["warning: a note of a worker"] if bad == "nothing" else [])
    lines = [line for line in said.err.splitlines() if line.startswith("[") and "] after " not in line]
    assert sum(reason in line for line in lines) == 1
    assert len(lines) == 7
    assert len(set(lines)) == 7
    assert said.out.count(reason) == 1
    assert "and 2 more: failed" in said.out
    with Store.read(here / "out") as store:
        records = store.records()
    assert [record.ok for record in records] == [False] * 3 + [True] * 6
    assert all(reason in str(record.error).partition("\n")[0] for record in records[:3])


@pytest.mark.parametrize("kills", [1, 99])
def test_a_network_whose_worker_is_killed_is_tried_once_more(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, kills: int
) -> None:
    monkeypatch.setenv("KILLED", str(kills))
    path = suite(here, module(here, "network", score="killed", metric_name="top1"), module(here, "other"))
    assert invoke(["run", str(path), "--output", str(here / "out"), "--jobs", "1"]) == (0 if kills == 1 else 2)
    said = capsys.readouterr()
    assert said.err.count("SIGKILL (out of memory?) in the stage 'evaluate_float'; its network is tried once more") == 1
    with Store.read(here / "out") as store:
        records = store.records()
    assert [record.status for record in records] == ["ok" if kills == 1 else "crashed"] * 3 + ["ok"] * 3
    if kills == 99:
        # the first, the one more, and what the slot had begun meanwhile
        assert len((here / "tries").read_text()) <= 3


def test_no_record_says_where_on_whose_machine_it_was_made(here: Path) -> None:
    worse = module(here, "network", score="crash", metric_name="top1")
    path = suite(here, worse, module(here, "network"))
    result = run_suite(path, here / "out")
    with Store.read(here / "out") as store:
        (run,) = store.runs()
    texts = [record.to_json() for record in result.records]
    assert sum("Traceback" in text for text in texts) == 3
    for text in (*texts, json.dumps(run.argv), json.dumps(dict(run.settings)), json.dumps(dict(run.environment))):
        assert str(here) not in text
        assert str(Path.home()) not in text
        assert torch.__file__.removesuffix("/__init__.py") not in text
    assert all((record.model_params or {})["folder"] == "." for record in result.records)
    assert invoke(["verify", str(here / "out"), "--allow-code"]) == 0


@pytest.mark.parametrize(("asked", "jobs", "expected"), [("1", 1, 1), ("3", 2, 3), ("", 1, None), ("", 2, None)])
def test_the_threads_that_were_used_are_recorded(
    here: Path, monkeypatch: pytest.MonkeyPatch, asked: str, jobs: int, expected: int | None
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", asked) if asked else monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    path = here / "s.yaml"
    name = next(here.glob("m*.py"))
    name.write_text(MINE.replace('{"top1": 50.0, "top5": 80.0}', '{"threads": float(torch.get_num_threads())}'))
    suite(here, module(here, "network", score="score", metric_name="threads"))
    result = run_suite(path, here / "out", jobs=jobs, cached=False)
    for record in result.records:
        assert record.metric == record.environment["threads"]
        assert expected is None or record.metric == expected


@pytest.mark.usefixtures("in_process")
def test_verify_runs_no_code_that_records_name_unless_it_is_allowed(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scripted = torch.jit.script(nn.Sequential(nn.Linear(16, 24), nn.ReLU(), nn.Linear(24, 4)))
    torch.jit.save(scripted, here / "net.pt")
    for model in (f'{{module: {{network: net.pt, folder: "{here}"}}}}', module(here, "network")):
        out = here / f"out{len(model)}"
        result = run_suite(suite(here, model), out, jobs=0)
        assert result.outcome == "ok", [record.error for record in result.records]
        capsys.readouterr()
        assert invoke(["verify", str(out)]) == 1
        said = capsys.readouterr().err
        assert "runs code that the records name (" in said
        assert "--allow-code" in said
        assert invoke(["verify", str(out), "--allow-code"]) == 0
