"""``compress`` on a network with most of what has a weight: embeddings, attention, recurrence, tied weights."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from nqbench_models.module import Module
from safetensors.torch import load_file

from nqbench.cli.frame import invoke

MINE = """
import torch
from torch import nn
from torch.nn.utils import parametrizations

class Network(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(17, 8)
        self.place = nn.Parameter(torch.randn(1, 6, 8))
        self.encoder = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        self.gru = nn.GRU(8, 8, batch_first=True)
        self.bare = nn.Parameter(torch.randn(8, 8) / 3)
        self.normed = parametrizations.weight_norm(nn.Conv1d(8, 8, 3, padding=1, padding_mode="circular"))
        self.up = nn.ConvTranspose1d(8, 8, 2, 2)
        self.never = nn.Linear(5, 5)
        self.head = nn.Linear(8, 17, bias=False)
        self.head.weight = self.embed.weight
        for p in self.encoder.parameters():
            p.requires_grad_(False)

    def forward(self, ids):
        x = self.encoder(self.embed(ids) + self.place)
        x = self.gru(x)[0] @ self.bare
        x = self.up(self.normed(x.mT)).mT.mean(1)
        return {"scores": self.head(x)}

def network():
    torch.manual_seed(0)
    return Network()

def batches(split, batch_size, shuffle):
    module = network().eval()
    generator = torch.Generator().manual_seed(len(split))
    x = torch.randint(0, 17, (60, 6), generator=generator)
    with torch.no_grad():
        y = module(x)["scores"].argmax(1)
    order = torch.arange(60) if shuffle is None else torch.randperm(60, generator=generator.manual_seed(shuffle))
    for chosen in order.split(batch_size):
        yield {"ids": x[chosen], "labels": y[chosen]}
"""


def compressed(folder: Path, *options: str) -> tuple[int, dict[str, object]]:
    output = folder / "out.nqz"
    model = ["--model", "module:mine_of_all:network", "--data", "mine_of_all:batches", "--with", f"folder={folder}"]
    limits = ["--max-drop", "90", "--trials", "1", "--work", str(folder / "work"), "--output", str(output), "--force"]
    code = invoke(["compress", *model, *limits, *options])
    records = folder / "work" / "records.json"
    return code, (json.loads(records.read_text())["records"][-1] if records.is_file() else {})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "mine_of_all.py").write_text(MINE)
    return tmp_path


def test_every_tensor_comes_back_and_the_metric_holds(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, record = compressed(folder)
    assert code == 0, capsys.readouterr().err
    assert record["status"] == "ok"
    assert invoke(["decompress", str(folder / "out.nqz"), "--output", str(folder / "back.safetensors")]) == 0
    space: dict[str, object] = {}
    exec(compile(MINE, "mine", "exec"), space)
    module = space["network"]()  # type: ignore[operator]
    back = load_file(folder / "back.safetensors")
    for name, tensor in module.state_dict().items():
        stored = back[name] if name in back else back["embed.weight"]
        assert stored.shape == tensor.shape, name
        assert bool(torch.isfinite(stored).all()), name
    assert (folder / "out.nqz").stat().st_size < sum(t.numel() * 4 for t in module.state_dict().values()) / 3


def test_tensors_are_chosen_by_patterns(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    chosen = Module(network="mine_of_all:network", folder=str(folder), include=("encoder.*",), exclude=("*.linear2.*",))
    names = chosen.compressible(chosen.load(torch.device("cpu")))
    parts = ("self_attn.in_proj_weight", "self_attn.out_proj.weight", "linear1.weight")
    assert names == tuple(f"encoder.{part}" for part in parts)
    code, _ = compressed(folder, "--include", "no.such.*")
    assert code == 1
    told = capsys.readouterr().err.strip().splitlines()[-1]
    assert "no tensor matches 'no.such.*'; there are" in told
