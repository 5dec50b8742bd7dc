"""A network of this process in a file, and the file back in it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import nqbench
from nqbench.api import BadInput
from nqbench.registry import registry


@pytest.fixture(scope="module")
def trained() -> tuple[nn.Module, dict[str, list[tuple[Tensor, Tensor]]]]:
    """A network that tells which of the first four of sixteen numbers is largest."""
    generator = torch.Generator().manual_seed(0)

    def data(count: int) -> list[tuple[Tensor, Tensor]]:
        x = torch.randn(count, 16, generator=generator)
        return [(part, part[:, :4].argmax(1)) for part in x.split(100)]

    splits = {"train": data(1000), "test": data(500)}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = nn.Sequential(nn.Linear(16, 24), nn.ReLU(), nn.Linear(24, 4))
        optimizer = torch.optim.Adam(network.parameters(), lr=0.02)
        for _ in range(15):
            for x, y in splits["train"]:
                optimizer.zero_grad()
                nn.functional.cross_entropy(network(x), y).backward()
                optimizer.step()
    return network.eval(), splits


def test_a_network_goes_into_a_file_and_comes_back(trained: tuple[nn.Module, dict], tmp_path: Path) -> None:  # type: ignore[type-arg]
    module, splits = trained
    before = {name: t.clone() for name, t in module.state_dict().items()}
    result = nqbench.compress(module, splits, max_drop=2, trials=4, output=tmp_path / "net.nqz")
    assert result.file == tmp_path / "net.nqz"
    assert result.figures.file_bytes == result.file.stat().st_size
    # of so small a file the header, names and figures, is a good part
    assert result.file.stat().st_size < sum(t.numel() for t in before.values()) * 4 / 3
    assert all(torch.equal(t, before[n]) for n, t in module.state_dict().items()), "the module stays as it is"
    other = nn.Sequential(nn.Linear(16, 24), nn.ReLU(), nn.Linear(24, 4))
    nqbench.load_into(other, result.file)
    hits = torch.cat([other(x).argmax(1) == y for x, y in splits["test"]])
    assert 100 * float(hits.double().mean()) == pytest.approx(result.figures.metric)
    assert result.figures.selected_on == "train"
    assert ("model", "in-memory") not in registry().found


def test_a_score_of_ones_own_decides(trained: tuple[nn.Module, dict], tmp_path: Path) -> None:  # type: ignore[type-arg]
    module, splits = trained

    def loss(network: nn.Module, batches: object) -> float:
        values = [nn.functional.cross_entropy(network(x), y, reduction="none") for x, y in batches]  # type: ignore[attr-defined]
        return float(torch.cat(values).mean())

    result = nqbench.compress(
        module, splits["train"], score=loss, higher_is_better=False, max_drop="20%", trials=4, output=tmp_path / "n.nqz"
    )
    figures = result.figures
    assert figures.metric_name == "score"
    assert figures.metrics["train.score"] <= 1.2 * figures.metrics_float["train.score"]


def test_data_that_can_be_read_once_are_refused_in_a_line(trained: tuple[nn.Module, dict], tmp_path: Path) -> None:  # type: ignore[type-arg]
    module, splits = trained
    with pytest.raises(BadInput, match="give what can be read again"):
        nqbench.compress(module, iter(splits["train"][:1]), output=tmp_path / "n.nqz")
    assert not (tmp_path / "n.nqz").exists()
    with pytest.raises(BadInput, match="nothing was compressed"):
        nqbench.compress(module, splits, max_drop=0, trials=1, output=tmp_path / "n.nqz", suite=_coarse(tmp_path))


def _coarse(folder: Path) -> Path:
    """A suite whose only file cannot hold."""
    path = folder / "coarse.yaml"
    path.write_text(
        "name: coarse\nmodels: [lenet300: {data: digits}]\nquantizers: {kmeans: {k: 2}}\ncoders: [huffman]\n"
        "target: {drop: 0.0, trials: 1}\n"
    )
    return path


def test_a_search_without_time_says_so(trained: tuple[nn.Module, dict], tmp_path: Path) -> None:  # type: ignore[type-arg]
    module, splits = trained
    with pytest.raises(BadInput, match="no trial ended"):
        nqbench.compress(module, splits, max_drop=100, budget=1e-6, output=tmp_path / "n.nqz")


def test_a_weight_without_entries_is_stored_as_it_is(tmp_path: Path) -> None:
    class Partly(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.none, self.some = nn.Linear(0, 4), nn.Linear(8, 4)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.none(x[:, :0]) + self.some(x)
            return out

    x = torch.randn(40, 8, generator=torch.Generator().manual_seed(0))
    data = [(x, x[:, :4].argmax(1))]
    result = nqbench.compress(Partly(), data, max_drop=100, trials=1, output=tmp_path / "n.nqz")
    assert result.state["none.weight"].shape == (4, 0)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda x, y: x, "train gives Tensor, expected a pair"),
        (lambda x, y: {"x": x, "labels": y}, "train gives dict, expected a pair"),
        (lambda x, y: (x, torch.eye(4)[y]), r"the labels of train are Tensor of \(100, 4\), expected one class number"),
        (lambda x, y: (x, y.tolist()), "the labels of train are list, expected one class number"),
    ],
)
def test_batches_that_are_no_pairs_are_refused_in_a_line(
    trained: tuple[nn.Module, dict],
    tmp_path: Path,
    change: Callable[[Tensor, Tensor], object],
    told: str,  # type: ignore[type-arg]
) -> None:
    """A tensor's first two rows would pass for a pair, and the accuracy for 0 %."""
    module, splits = trained
    with pytest.raises(BadInput, match=told):
        nqbench.compress(module, [change(x, y) for x, y in splits["train"]], output=tmp_path / "n.nqz")  # type: ignore[misc]


def test_what_cannot_be_done_is_told_before_the_search(trained: tuple[nn.Module, dict], tmp_path: Path) -> None:  # type: ignore[type-arg]
    module, splits = trained
    (tmp_path / "file").touch()
    with pytest.raises(BadInput, match=r"n.nqz: cannot be written \(Not a directory\)|exists"):
        nqbench.compress(module, splits, output=tmp_path / "file" / "n.nqz")
    with pytest.raises(BadInput, match=r"module is OrderedDict, expected a torch\.nn\.Module"):
        nqbench.compress(module.state_dict(), splits, output=tmp_path / "n.nqz")  # type: ignore[arg-type]
    with pytest.raises(BadInput, match="max_drop half: write points"):
        nqbench.compress(module, splits, max_drop="half", output=tmp_path / "n.nqz")
    with pytest.raises(BadInput, match="give what can be read again"):
        nqbench.compress(module, (batch for batch in splits["train"]), output=tmp_path / "n.nqz")
