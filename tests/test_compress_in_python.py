"""A network of this process in a file, and the file back in it."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from nqbench_models.module import Module
from torch import Tensor, nn
from torch.nn.utils import prune

import nqbench
from nqbench import in_memory
from nqbench.api import BadInput, Note, hits
from nqbench.api.modules import call
from nqbench.in_memory import InMemory
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


@pytest.mark.parametrize(
    ("odd", "told"),
    [
        (lambda: nn.LazyLinear(4), "has no shape yet"),
        (lambda: nn.Linear(16, 4, device="meta"), "is on the device meta"),
        (lambda: torch.ao.quantization.quantize_dynamic(nn.Sequential(nn.Linear(16, 4))), "not a tensor"),
    ],
    ids=["lazy", "meta", "quantized"],
)
@pytest.mark.filterwarnings("ignore")
def test_a_network_that_no_file_can_hold_is_a_line(
    odd: Callable[[], nn.Module],
    told: str,
    trained: tuple[nn.Module, dict],
    tmp_path: Path,  # type: ignore[type-arg]
) -> None:
    with pytest.raises(BadInput, match=told) as caught:
        nqbench.compress(odd(), trained[1], output=tmp_path / "x.nqz")
    assert "\n" not in str(caught.value)


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


def test_a_file_whose_evaluation_on_the_test_data_failed_is_told_of(
    trained: tuple[nn.Module, dict],  # type: ignore[type-arg]
    tmp_path: Path,
) -> None:
    module, splits = trained
    (x, y), *_ = splits["test"]
    halfway = {"train": splits["train"], "test": [(x, y), (x[:, :7], y)]}
    with pytest.warns(
        Note, match=r"holds on the train split.* evaluation on the test split failed: RuntimeError: mat1"
    ) as told:
        result = nqbench.compress(module, halfway, max_drop=20, trials=1, output=tmp_path / "n.nqz")
    assert [note.filename for note in told if note.category is Note] == [__file__]
    assert result.figures.metric is None
    assert list(result.state) == list(module.state_dict())
    with warnings.catch_warnings():
        warnings.simplefilter("error", Note)
        nqbench.compress(module, splits["train"], max_drop=20, trials=1, output=tmp_path / "n.nqz")


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
    with pytest.raises(BadInput, match="max_drop and max_divergence cannot be used together"):
        nqbench.compress(module, splits, max_drop=1, max_divergence=0.1, output=tmp_path / "n.nqz")
    with pytest.raises(BadInput, match="max_divergence nan: write nats"):
        nqbench.compress(module, splits, max_divergence=float("nan"), output=tmp_path / "n.nqz")
    with pytest.raises(BadInput, match="give what can be read again"):
        nqbench.compress(module, (batch for batch in splits["train"]), output=tmp_path / "n.nqz")


def test_an_output_that_is_a_folder_is_told_before_the_search(
    trained: tuple[nn.Module, dict],  # type: ignore[type-arg]
    tmp_path: Path,
) -> None:
    module, splits = trained
    with pytest.raises(BadInput, match=r"cannot be written \(Is a directory\)"):
        nqbench.compress(module, splits, output=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_splits_of_other_names_are_refused(trained: tuple[nn.Module, dict], tmp_path: Path) -> None:  # type: ignore[type-arg]
    module, splits = trained
    with pytest.raises(BadInput, match=r"batches: expected .*; found valid"):
        nqbench.compress(module, {**splits, "valid": splits["test"]}, output=tmp_path / "n.nqz")
    with pytest.raises(BadInput, match="one 'train' at least"):
        nqbench.compress(module, {"test": splits["test"]}, output=tmp_path / "n.nqz")


def test_without_test_data_nothing_is_said_of_any(trained: tuple[nn.Module, dict], tmp_path: Path) -> None:  # type: ignore[type-arg]
    module, splits = trained
    data = {"train": splits["train"], "validation": splits["test"]}
    figures = nqbench.compress(module, data, max_drop=5, trials=3, output=tmp_path / "n.nqz").figures
    assert figures.metric is None
    assert figures.selected_on == "validation"
    assert "validation.accuracy" in figures.metrics


def test_batches_in_another_order_each_time_are_refused(trained: tuple[nn.Module, dict], tmp_path: Path) -> None:  # type: ignore[type-arg]
    module, splits = trained
    x, y = (torch.cat(parts) for parts in zip(*splits["train"], strict=True))
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x, y), batch_size=100, shuffle=True)
    with pytest.raises(BadInput, match=r"train begins with other examples the second time.*without shuffle"):
        nqbench.compress(module, loader, output=tmp_path / "n.nqz")


def test_a_network_that_keeps_a_weight_of_its_last_pass_is_copied(tmp_path: Path) -> None:
    module = nn.Sequential(nn.utils.weight_norm(nn.Linear(8, 8)))
    x = torch.randn(60, 8, generator=torch.Generator().manual_seed(0))
    module(x)
    data = [(x, x.argmax(1))]
    assert nqbench.compress(module, data, max_drop=100, trials=1, output=tmp_path / "n.nqz").file.exists()


def test_samples_of_several_shapes_are_passed_a_few_at_a_time(tmp_path: Path) -> None:
    class Pooled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.head = nn.Conv1d(4, 6, 3, padding=1), nn.Linear(6, 3)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.head(self.conv(x).mean(2))
            return out

    generator = torch.Generator().manual_seed(0)
    data = [
        (torch.randn(10, 4, n, generator=generator), torch.randint(0, 3, (10,), generator=generator))
        for n in (5, 8, 6, 5)
    ]
    result = nqbench.compress(Pooled(), data, max_drop=100, trials=2, output=tmp_path / "n.nqz")
    assert not result.figures.notes


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_network_of_half_precision_has_the_second_moments_of_the_whole(dtype: torch.dtype) -> None:
    from nqbench_training.grams import Products

    from nqbench.api.toolkit.uses import Geometry

    x = (3 * torch.randn(40000, 6, generator=torch.Generator().manual_seed(0))).to(dtype)
    halves = Products(Geometry("product"), torch.Size((4, 6)))
    halves.add(x)
    wide = x.double()
    torch.testing.assert_close(halves.mean()[0].double(), wide.T @ wide / len(x), rtol=1e-3, atol=1e-2)


@pytest.mark.parametrize("named", [True, False])
def test_a_score_whose_name_is_an_error_s_needs_its_direction(
    named: bool,
    trained: tuple[nn.Module, dict],  # type: ignore[type-arg]
    tmp_path: Path,
) -> None:
    """As an accuracy, a loss holds at any file."""
    module, splits = trained

    def validation_loss(network: nn.Module, batches: object) -> float:
        return sum(float(nn.functional.cross_entropy(network(x), y)) for x, y in batches)  # type: ignore[attr-defined]

    def judged(network: nn.Module, batches: object) -> dict[str, float]:
        return {"validation_loss": validation_loss(network, batches), "accuracy": 50.0}

    with pytest.raises(BadInput, match=r"'validation_loss' better the lower.*higher_is_better=False"):
        nqbench.compress(
            module, splits, score=judged if named else validation_loss, trials=2, output=tmp_path / "n.nqz"
        )


def test_score_decides_by_a_share_unless_told_otherwise(trained: tuple[nn.Module, dict], tmp_path: Path) -> None:  # type: ignore[type-arg]
    """Half a point of a score between 0 and 1 is most of it."""
    module, splits = trained

    def f1(network: nn.Module, batches: object) -> float:
        return float(torch.cat([network(x).argmax(1) == y for x, y in batches]).float().mean())  # type: ignore[attr-defined]

    figures = nqbench.compress(module, splits, score=f1, trials=6, output=tmp_path / "n.nqz").figures
    assert figures.metrics["train.score"] >= 0.99 * figures.metrics_float["train.score"]


@pytest.mark.parametrize("kind", ["shared", "pruned"])
def test_a_batch_norm_that_cannot_be_folded_stays_as_it_is(kind: str, tmp_path: Path) -> None:
    class Normed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(8, 8), nn.Linear(8, 4)
            self.one, self.two = nn.BatchNorm1d(8), nn.BatchNorm1d(8)
            if kind == "shared":  # statistics of their own
                self.two.weight, self.two.bias = self.one.weight, self.one.bias

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.b(self.two(torch.relu(self.a(self.one(x)))))
            return out

    with torch.random.fork_rng():
        torch.manual_seed(0)
        module, x = Normed(), torch.randn(200, 8)
    if kind == "pruned":
        prune.l1_unstructured(module.two, "weight", 0.25)
    for _ in range(5):
        module(3 * x + 1)
    module.eval()
    data = [(x, module(x).argmax(1))]
    result = nqbench.compress(module, data, max_drop=5, trials=5, output=tmp_path / "n.nqz")
    other = Normed()
    if kind == "pruned":
        prune.l1_unstructured(other.two, "weight", 0.25)
    nqbench.load_into(other.eval(), result.file)
    assert 100 * float((other(x).argmax(1) == data[0][1]).double().mean()) == pytest.approx(result.figures.metric)
    assert (result.figures.metric or 0) > 80
    for part in ("weight", "running_mean"):  # as they were
        name = f"two.{part}_orig" if kind == "pruned" and part == "weight" else f"two.{part}"
        torch.testing.assert_close(result.state[name], module.state_dict()[name], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("last", "shape"),
    [
        (nn.Sequential(nn.Linear(16, 1), nn.Flatten(0)), r"\(100,\)"),
        (nn.Linear(16, 1), r"\(100, 1\)"),
        (nn.Sequential(nn.Linear(16, 8), nn.Unflatten(1, (4, 2))), r"\(100, 4, 2\)"),
    ],
)
def test_outputs_that_are_no_choice_of_a_class_are_refused(
    trained: tuple[nn.Module, dict],  # type: ignore[type-arg]
    tmp_path: Path,
    last: nn.Module,
    shape: str,
) -> None:
    """The first choice of (B,) outputs is one number for the whole batch, right by chance."""
    data = [(x, (y > 1).long()) for x, y in trained[1]["train"]]
    with pytest.raises(BadInput, match=rf"batches: train: labels are int64 \(100,\) for outputs of float32 {shape}"):
        nqbench.compress(last, data, output=tmp_path / "n.nqz")
    with pytest.raises(BadInput, match="batches: train: the network cannot take such a batch: RuntimeError"):
        nqbench.compress(last, [(x[:, :5], y) for x, y in data], output=tmp_path / "n.nqz")
    with pytest.raises(BadInput, match="outputs of two classes or more"):
        hits(torch.zeros(3), torch.zeros(3, dtype=torch.int64))


def test_several_inputs_are_a_tuple_or_a_dict(tmp_path: Path) -> None:
    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.left, self.right = nn.Linear(8, 4), nn.Linear(8, 4)
            self.register_buffer("gain", torch.ones(1).expand(4))

        def forward(self, a: Tensor, b: Tensor) -> Tensor:
            out: Tensor = self.gain * (self.left(a) + self.right(b))
            return out

    module, generator = Both(), torch.Generator().manual_seed(0)
    a, b = torch.randn(2, 60, 8, generator=generator)
    labels = module(a, b).argmax(1)
    result = nqbench.compress(module, [((a, b), labels)], max_drop=50, trials=1, output=tmp_path / "n.nqz")
    assert result.figures.metrics_float["train.accuracy"] == 100
    assert torch.equal(call(module, {"b": b, "a": a}), module(a, b))
    other = nqbench.load_into(Both(), result.file)
    assert torch.equal(other.get_buffer("gain"), torch.ones(4))


def test_outputs_of_sequences_are_compared_over_their_classes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a score of one's own judges them; those of images have their classes on the second axis."""
    held = in_memory._Held(nn.Linear(5, 7), [], ("train",), lambda module, batches: 1.0, True)
    monkeypatch.setitem(in_memory._HELD, "sequences", held)
    model = InMemory(network="sequences")
    outputs = torch.randn(2, 3, 7, generator=torch.Generator().manual_seed(0))
    assert torch.equal(model.logits(outputs, None), outputs.reshape(6, 7))
    images = outputs[..., None]
    assert torch.equal(model.logits(images, None), images.permute(0, 2, 3, 1).reshape(14, 3))
    own = {"network": "mine:network", "data": "mine:batches"}
    for fields in ({"score": "mine:score"}, {"loss": "mine:loss"}):
        assert torch.equal(Module(**own, **fields).logits(outputs, None), outputs.reshape(6, 7))  # type: ignore[arg-type]
    assert torch.equal(Module(**own).logits(outputs, None), outputs.movedim(1, -1).reshape(14, 3))  # type: ignore[arg-type]
