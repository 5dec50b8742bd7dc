"""A user's network in one command, and its tensors back."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from nqbench.cli import INTERRUPTED, TRIALS_FAILED, progress
from nqbench.cli._describe import habits, shorthand
from nqbench.cli.compress import _looked_at, _parameters
from nqbench.cli.frame import invoke
from nqbench.container import read
from nqbench.engine import Silent
from nqbench.registry import registry
from nqbench.results.record import Record
from nqbench.suite.find import shipped

MINE = """
import torch
from torch import nn

def network():
    return nn.Sequential(nn.Linear(16, 24), nn.ReLU(), nn.Linear(24, 4))

def batches(split, batch_size, shuffle):
    generator = torch.Generator().manual_seed(1 if split == "train" else 2)
    x = torch.randn(600, 16, generator=generator)
    y = x[:, :4].argmax(1)
    order = torch.arange(len(x))
    if shuffle is not None:
        order = torch.randperm(len(x), generator=torch.Generator().manual_seed(shuffle))
    for chosen in order.split(batch_size):
        yield x[chosen], y[chosen]
"""


@pytest.fixture(scope="module")
def mine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A stranger's folder: a module, and the checkpoint of a network that was trained a little."""
    folder = tmp_path_factory.mktemp("mine")
    (folder / "mine.py").write_text(MINE)
    space: dict[str, object] = {}
    exec(compile(MINE, "mine.py", "exec"), space)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network: nn.Module = space["network"]()  # type: ignore[operator]
        optimizer = torch.optim.Adam(network.parameters(), lr=0.01)
        for epoch in range(12):
            for x, y in space["batches"]("train", 50, epoch):  # type: ignore[operator]
                optimizer.zero_grad()
                nn.functional.cross_entropy(network(x), y).backward()
                optimizer.step()
    save_file(network.state_dict(), folder / "mine.safetensors")
    return folder


def nqbench(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "nqbench", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=280, check=False)


OWN = ("--model", "module:mine:network", "--checkpoint", "mine.safetensors", "--data", "mine:batches")


@pytest.fixture(scope="module")
def compressed(mine: Path) -> subprocess.CompletedProcess[str]:
    return nqbench(mine, "compress", *OWN, "--with", "folder=.", "--max-drop", "2", "--trials", "6")


def test_a_network_of_ones_own_in_one_command(mine: Path, compressed: subprocess.CompletedProcess[str]) -> None:
    assert compressed.returncode == 0, compressed.stderr
    assert (mine / "module.nqz").stat().st_size < (mine / "mine.safetensors").stat().st_size / 4
    records = json.loads((mine / "reports" / "compress" / "module" / "records.json").read_text())["records"]
    assert {r["selected_on"] for r in records} == {"train"}, "there is no validation data"
    name = "train.accuracy"
    held = [r["file_bytes"] for r in records if r["metrics_float"][name] - r["metrics"][name] <= 2 + 1e-9]
    size = (mine / "module.nqz").stat().st_size
    assert size in held
    # a smaller file that holds would have been refuted by its neighbours: this curve is smooth
    assert size == min(held), "the smallest file that holds"
    assert f"{size:,} bytes" in compressed.stdout
    tested = [r for r in records if r["metric"] is not None]
    assert [r["file_bytes"] for r in tested] == [size], "the test split is evaluated once, for the answer"
    assert "test split" in compressed.stdout


def test_a_file_whose_evaluation_on_the_test_split_failed_stays_and_is_told_of(
    mine: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "halfway.py").write_text(
        MINE.replace("yield x[chosen]", "yield x[chosen][:, : 7 if split == 'test' and 0 not in chosen else 16]")
    )
    own = ("--model", "module:halfway:network", "--checkpoint", str(mine / "mine.safetensors"))
    data = ("--data", "halfway:batches", "--with", "folder=.", "--max-drop", "60", "--trials", "1")
    assert invoke(["compress", *own, *data]) == TRIALS_FAILED
    told = capsys.readouterr()
    assert "module.nqz: " in told.out
    assert (tmp_path / "module.nqz").is_file()
    assert "but its evaluation on the test split failed: " in told.err.splitlines()[-1]
    assert "mat1 and mat2 shapes cannot be multiplied" in told.err.splitlines()[-1]


def test_the_first_line_comes_before_anything_is_imported(mine: Path) -> None:
    begun = time.monotonic()
    command = [sys.executable, "-m", "nqbench", "compress", *OWN, "--with", "folder=."]
    with subprocess.Popen(command, cwd=mine, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        first = process.stderr.readline()
        waited = time.monotonic() - begun
        process.kill()
    assert first == "module:mine:network: reading the network and its data\n"
    assert waited < 20, "two seconds on a quiet machine"


def test_a_budget_ends_with_the_best_so_far(mine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # what other tests left in the cache would be an answer at once
    monkeypatch.setenv("NQBENCH_CACHE", str(tmp_path / "cache"))
    where = ("--work", str(tmp_path / "work"), "--output", str(tmp_path / "best.nqz"))
    done = nqbench(mine, "compress", *OWN, "--with", "folder=.", "--max-drop", "60", "--budget", "0.1s", *where)
    assert done.returncode == 1
    assert "no file could be made: no trial ended" in done.stderr
    done = nqbench(mine, "compress", *OWN, "--with", "folder=.", "--max-bytes", "700", "--trials", "7", *where)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "best.nqz").stat().st_size <= 700
    assert "test split" in done.stdout


def test_ctrl_c_gives_the_best_so_far(mine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Record] = []

    class Impatient(Silent):
        def ended(self, record: Record, label: str, *, again: bool = False) -> None:
            seen.append(record)

        def running(self, trials: Sequence[tuple[str, str]]) -> None:
            if seen and (lost := seen[-1].drop_where_selected) is not None and lost <= 60:
                raise KeyboardInterrupt

    monkeypatch.setattr(progress, "shown", Impatient)
    target = tmp_path / "best.nqz"
    where = ["--work", str(tmp_path / "work"), "--output", str(target), "--with", f"folder={mine}"]
    own = ["--model", "module:mine:network", "--data", "mine:batches", "--checkpoint", str(mine / "mine.safetensors")]
    assert invoke(["compress", *own, "--max-drop", "60", *where]) == INTERRUPTED
    assert target.stat().st_size == seen[-1].file_bytes


def test_paths_are_relative_to_where_it_is_run_whatever_the_suite(mine: Path, tmp_path: Path) -> None:
    own = tmp_path / "mine-too" / "own.yaml"
    own.parent.mkdir()
    own.write_text(shipped()["compress"].read_text())
    where = ("--work", str(tmp_path / "work"), "--output", str(tmp_path / "own.nqz"), "--suite", str(own))
    done = nqbench(mine, "compress", *OWN, "--max-drop", "60", "--trials", "1", *where)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "own.nqz").stat().st_size > 0


def test_the_divergence_from_the_float_network_is_held(mine: Path, tmp_path: Path) -> None:
    where = ("--work", str(tmp_path / "work"), "--output", str(tmp_path / "near.nqz"), "--with", "folder=.")
    done = nqbench(mine, "compress", *OWN, "--max-divergence", "0.02", "--trials", "4", *where)
    assert done.returncode == 0, done.stderr
    records = json.loads((tmp_path / "work" / "records.json").read_text())["records"]
    held = [r["file_bytes"] for r in records if r["metrics"]["train.divergence"] <= 0.02]
    assert (tmp_path / "near.nqz").stat().st_size == min(held)
    (answer,) = (r for r in records if r["metric"] is not None)
    assert (answer["metric_name"], answer["metric_unit"], answer["metric_higher_is_better"]) == (
        "divergence",
        "nats",
        False,
    )
    assert answer["metric_float"] == 0
    assert 0 < answer["metric"] == answer["metrics"]["divergence"] < 0.1
    assert 0 < answer["metrics"]["agreement"] <= 100
    assert "reach 0.02" in (tmp_path / "work" / "leaderboard.md").read_text()


def test_the_tensors_come_back_from_the_file_alone(mine: Path, compressed: subprocess.CompletedProcess[str]) -> None:
    assert compressed.returncode == 0, compressed.stderr
    done = nqbench(mine, "decompress", "module.nqz", "--output", "back.safetensors")
    assert done.returncode == 0, done.stderr
    back, original = load_file(mine / "back.safetensors"), load_file(mine / "mine.safetensors")
    assert {n: t.shape for n, t in back.items()} == {n: t.shape for n, t in original.items()}
    for name, tensor in read(mine / "module.nqz", registry()).tensors.items():
        assert torch.equal(tensor, back[name])
    correct = nn.Sequential(nn.Linear(16, 24), nn.ReLU(), nn.Linear(24, 4))
    correct.load_state_dict(back)


def test_a_file_that_is_there_is_not_replaced(
    mine: Path, compressed: subprocess.CompletedProcess[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert compressed.returncode == 0, compressed.stderr
    assert invoke(["decompress", str(mine / "module.nqz"), "--output", str(mine / "mine.safetensors")]) == 1
    assert "--force" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--model", "lenet301"], "unknown model 'lenet301'; did you mean 'lenet300'?"),
        (["--model", "synthetic"], "has no metric that could hold"),
        (["--model", "lenet300", "--with", "dota=digits"], "has no parameter 'dota'; did you mean 'data'?"),
        (["--model", "lenet300", "--with", "data"], "must be key=value"),
        (["--model", "lenet300", "--max-drop", "-1"], "write points (0.5) or a share"),
        (["--model", "lenet300", "--max-drop", "half"], "write points (0.5) or a share"),
        (["--model", "lenet300", "--max-drop", "1", "--max-bytes", "10k"], "cannot be used together"),
        (["--model", "lenet300", "--max-bytes", "some"], "'some' is not a size"),
        (["--model", "lenet300", "--max-divergence", "1", "--max-bytes", "10k"], "cannot be used together"),
        (
            ["--model", "lenet300", "--metric", "perplexity"],
            "gives no metric 'perplexity'; it gives accuracy, agreement",
        ),
        (
            ["--model", "lenet300", "--max-divergence", "1", "--metric", "perplexity"],
            "gives no metric 'perplexity'; it gives accuracy, agreement",
        ),
        (
            ["--model", "lenet300", "--max-divergence", "1", "--metric", "agreement"],
            "--metric agreement and --max-divergence cannot be used together",
        ),
        (["--model", "lenet300", "--budget", "soon"], "as in 90s, 10m or 2h"),
        (["--model", "lenet300", "--min-metric", "nan"], "error: --min-metric nan: write a number"),
        (["--model", "lenet300", "--max-divergence", "nan"], "error: --max-divergence nan: write a number"),
        (["--model", "lenet300", "--max-bytes", "0"], "error: --max-bytes 0: no file is that small"),
        (["--model", "module:mine"], "'mine' names no function: write package.module:function"),
        (["--model", "hf:nowhere"], "nowhere has no config.json"),
    ],
)
def test_wrong_use_is_one_line(arguments: list[str], told: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert invoke(["compress", *arguments]) == 1
    error = capsys.readouterr().err
    assert told in error
    assert "Traceback" not in error


@pytest.mark.parametrize(
    ("metric", "others", "rises"),
    [
        ("f1", {}, True),
        ("loss", {}, False),
        ("top-1 error", {}, False),
        ("val_loss", {}, False),
        ("perplexity", {}, False),
        ("lossless share", {}, True),
        ("loss", {"higher_is_better": True}, True),
        ("f1", {"higher_is_better": False}, False),
    ],
)
@pytest.mark.parametrize("by_divergence", [False, True])
def test_a_scores_name_says_which_way_is_better(
    mine: Path, metric: str, others: dict[str, object], rises: bool, by_divergence: bool
) -> None:
    """Beside a largest divergence it says which of the score's figures is told."""
    score = {"folder": str(mine), "network": "mine:network", "data": "mine:batches", "score": "mine:score"}
    parameters = {**score, **others}
    _, _, judged_by, deciding = _looked_at(registry(), "module", parameters, metric, by_divergence)
    assert parameters["metric_name"] == metric
    told = registry().make("model", "module", parameters).metric()  # type: ignore[attr-defined]
    assert (told.name, told.higher_is_better) == (metric, rises)
    assert (deciding.name, judged_by) == (("divergence", "divergence") if by_divergence else (metric, None))


def test_what_is_not_a_file_of_ours_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "x.nqz").write_bytes(b"nothing of the kind")
    assert invoke(["decompress", str(tmp_path / "x.nqz")]) == 1
    assert "x.nqz" in capsys.readouterr().err
    assert not (tmp_path / "x.safetensors").exists()


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        ("lenet300:digits", {"data": "digits"}),
        ("lenet5:digits", {"data": "digits"}),
        ("module:mine:network", {"network": "mine:network"}),
    ],
)
def test_the_value_behind_a_models_name_is_what_one_would_say_of_it(model: str, expected: dict[str, str]) -> None:
    assert _parameters(registry(), model, {}, ()) == expected


def test_every_model_says_which_parameter_its_value_is() -> None:
    for entry in registry().all("model"):
        name = shorthand(entry.cls)
        assert name is None or name in entry.cls.model_fields
        assert name is None or habits(entry.cls)[f"--model {entry.cls.name}:VALUE"] == f"sets {name}"
