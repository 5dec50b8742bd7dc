"""What a user's functions may give as batches and a network may return, and the one line where they do not fit."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
import torch
from nqbench_models.module import Module

from nqbench.api import BadInput, Metric, as_outputs

SOURCE = """
import torch
from collections import namedtuple
from torch import nn

x = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
y = torch.arange(6) % 3
once = iter([(x, y)])

class Returning(nn.Module):
    def __init__(self, wrap):
        super().__init__()
        self.fc, self.wrap = nn.Linear(4, 3), wrap

    def forward(self, x, b=None):
        out = self.fc(x if b is None else x + b)
        return self.wrap(out)

Output = namedtuple("Output", "logits hidden")
class Object:
    def __init__(self, logits): self.logits = logits

def network(): return Returning(lambda out: out)
def logits(): return Returning(Object)
def named(): return Returning(lambda out: Output(out, out + 1))
def mapping(): return Returning(lambda out: {"out": out})
def both(): return Returning(lambda out: {"hidden": out + 1, "logits": out})
def pair(): return Returning(lambda out: (out, out + 1))
def two(): return Returning(lambda out: {"a": out, "b": out})
def nothing(): return Returning(lambda out: None)
def half(): return network().half()
def nowhere(): return Returning(lambda out: out * float("nan"))

def batches(split, batch_size, shuffle): yield x, y
def mean(split, batch_size, shuffle): return [[x, y]]
def none(split, batch_size, shuffle): return iter(())
def no_iterable(split, batch_size, shuffle): return None
def again(split, batch_size, shuffle): return once
def alone(split, batch_size, shuffle): yield x
def single(split, batch_size, shuffle): yield (x,)
def inputs_pair(split, batch_size, shuffle): yield (x, x), y
def inputs_dict(split, batch_size, shuffle): yield {"x": x, "b": x}, y
def dictionary(split, batch_size, shuffle): yield {"x": x, "labels": y}
def without(split, batch_size, shuffle): yield {"x": x}
def keyed(split, batch_size, shuffle): yield {"x": x}, y
def three(split, batch_size, shuffle): yield x, x, y
def floats(split, batch_size, shuffle): yield x, y.float()
def wide(split, batch_size, shuffle): yield torch.randn(6, 5), y
def short(split, batch_size, shuffle): yield x, y[:4]
def shares(split, batch_size, shuffle): yield x, torch.eye(3)[y]
def lost(split, batch_size, shuffle): yield x * float("nan"), y
def score(module, batches): return {"loss": 1.0, "f1": 2.0}
def no_score(module, batches): return 3.0
def broken(split): return []
"""
_names = itertools.count()


@pytest.fixture
def make(tmp_path: Path):  # type: ignore[no-untyped-def]
    name = f"given_{next(_names)}"
    (tmp_path / f"{name}.py").write_text(SOURCE)

    def module(network: str = "network", data: str | None = "batches", **fields: object) -> Module:
        fields |= {key: f"{name}:{fields[key]}" for key in ("score", "outputs", "loss") if key in fields}
        given = None if data is None else f"{name}:{data}"
        return Module(folder=str(tmp_path), network=f"{name}:{network}", data=given, **fields)

    return module


@pytest.mark.parametrize("network", ["network", "logits", "named", "mapping", "both", "pair"])
def test_outputs_are_found_in_whatever_the_network_returns(make, network: str) -> None:  # type: ignore[no-untyped-def]
    model = make(network)
    model.prepare()
    module = model.load(torch.device("cpu"))
    batch = next(model.batches("test"))
    assert torch.equal(model.predict(module, batch), module.fc(batch[0]))
    assert 0 <= model.evaluate(module).metrics["accuracy"] <= 100


def test_outputs_that_are_nan_are_never_right(make) -> None:  # type: ignore[no-untyped-def]
    """The largest of nothing but nan would be the first class, and every label of it a hit."""
    model = make("nowhere")
    assert model.evaluate(model.load(torch.device("cpu"))).metrics["accuracy"] == 0


@pytest.mark.parametrize("data", ["batches", "mean", "inputs_pair", "inputs_dict", "dictionary"])
def test_inputs_and_labels_of_every_make(make, data: str) -> None:  # type: ignore[no-untyped-def]
    model = make(data=data)
    model.prepare()
    module = model.load(torch.device("cpu"))
    batch = next(model.batches("train"))
    outputs = model.predict(module, batch)
    assert outputs.shape == (6, 3)
    assert model.losses(outputs, batch).shape == (6,)
    assert model.evaluate(module).correct is not None


@pytest.mark.parametrize(
    ("network", "data", "text"),
    [
        ("two", "batches", "returns dict with a, b, expected a tensor.*name a function `outputs`"),
        ("nothing", "batches", "returns NoneType, expected"),
        ("network", "none", "gives no batch for the split 'train': it must give a fresh iterator each call"),
        ("network", "no_iterable", "returns NoneType for the split 'train', expected batches"),
        ("network", "alone", r"inputs without labels \(float32 \(6, 4\)\), expected \(inputs, labels\)"),
        ("network", "single", "inputs without labels"),
        ("network", "without", "inputs without labels"),
        ("network", "three", r"several inputs are a tuple or a dict of their own, \(\(a, b\), labels\)"),
        ("network", "floats", "cross-entropy cannot take a batch"),
        ("network", "short", "cross-entropy cannot take a batch"),
        (
            "network",
            "shares",
            r"labels are float32 \(6, 3\) for outputs of float32 \(6, 3\), expected one class",
        ),
        ("network", "lost", "outputs hold nan for the first examples"),
        ("network", "wide", r"network cannot take a batch of \(float32 \(6, 5\), int64 \(6,\)\): RuntimeError"),
        ("half", "batches", "the network is float16 and the data are float32: give data as float16"),
        ("half", "keyed", "the network is float16 and the data are float32: give data as float16"),
        ("network", "broken", "broken cannot take a batch of .*TypeError"),
    ],
)
def test_what_does_not_fit_is_told_before_anything_runs(  # type: ignore[no-untyped-def]
    make, network: str, data: str, text: str
) -> None:
    with pytest.raises(BadInput, match=text) as caught:
        make(network, data).prepare()
    assert "\n" not in str(caught.value)


def test_an_error_of_our_own_code_is_not_blamed_on_a_batch(make, monkeypatch: pytest.MonkeyPatch) -> None:  # type: ignore[no-untyped-def]
    def broken(*_: object) -> None:
        raise KeyError("ours")

    model = make()
    module, batch = model.load(torch.device("cpu")), next(model.batches("train"))
    outputs = model.predict(module, batch)
    for where in ("nqbench_models.module.as_outputs", "nqbench_models.module.called", "Module._function"):
        with monkeypatch.context() as patch:
            patch.setattr(where.replace("Module.", "nqbench_models.module.Module."), broken)
            with pytest.raises(KeyError, match="ours"):
                next(model.batches("train")) if "_function" in where else model.predict(module, batch)
    assert model.losses(outputs, batch).shape == (6,)


def test_one_iterator_twice_is_told(make) -> None:  # type: ignore[no-untyped-def]
    model = make(data="again")
    list(model.batches("train"))
    with pytest.raises(BadInput, match=r"returns one iterator twice.*give a fresh iterator each call"):
        list(model.batches("train"))


def test_a_score_without_the_metrics_name_lists_the_names_before_anything_runs(make) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(BadInput, match=r"gives loss, f1, not the metric 'accuracy': say which with `metric_name`"):
        make(score="score").prepare()
    with pytest.raises(BadInput, match=r"gives float, not the metric 'accuracy'"):
        make(score="no_score").prepare()
    make(score="score", metric_name="f1").prepare()


def test_batches_of_inputs_alone_serve_a_score_that_needs_no_labels(make) -> None:  # type: ignore[no-untyped-def]
    make(data="alone", score="score", metric_name="f1").prepare()


def test_an_empty_tuple_is_no_output() -> None:
    with pytest.raises(BadInput, match="returns tuple of 0"):
        as_outputs(())


def test_a_module_of_the_same_name_in_another_folder_is_another(tmp_path: Path) -> None:
    name = f"same_{next(_names)}"
    for number in (2, 3):
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / f"{name}.py").write_text(
            f"from torch import nn\n\ndef network():\n    return nn.Linear({number}, {number})\n"
        )
        loaded = Module(folder=str(folder), network=f"{name}:network").load(torch.device("cpu"))
        assert loaded.in_features == number


def test_a_classifiers_loss_is_in_nats_and_better_where_it_is_lower(make) -> None:  # type: ignore[no-untyped-def]
    """A search for it would else go to where it is largest."""
    loss, divergence = make(metric_name="loss").metric(), make(metric_name="divergence").metric()
    assert (loss.name, loss.unit, loss.higher_is_better) == ("loss", "nats", False)
    assert (divergence.unit, divergence.higher_is_better) == ("nats", False)
    assert make().metric() == Metric()
    assert make(score="score", metric_name="loss", higher_is_better=False).metric() == Metric("loss", "", False)
