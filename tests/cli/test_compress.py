"""A user's network in one command, and its tensors back."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from nqbench.cli._describe import habits, shorthand
from nqbench.cli.compress import _parameters
from nqbench.cli.frame import invoke
from nqbench.container import read
from nqbench.registry import registry

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
    records = json.loads((mine / "reports" / "compress" / "module" / "records.json").read_text())
    held = [r["file_bytes"] for r in records if r["metric_float"] - r["metric"] <= 2 + 1e-9]
    assert (mine / "module.nqz").stat().st_size == min(held), "the smallest file that holds"
    assert f"{min(held):,} bytes" in compressed.stdout


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
        (["--model", "lenet300", "--max-drop", "-1"], "-1"),
    ],
)
def test_wrong_use_is_one_line(arguments: list[str], told: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert invoke(["compress", *arguments]) == 1
    error = capsys.readouterr().err
    assert told in error
    assert "Traceback" not in error


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
