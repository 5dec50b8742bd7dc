"""A user's own network: by functions, by exported files, with checkpoints, and what is said when names are wrong."""

from __future__ import annotations

import importlib
import itertools
import sys
from pathlib import Path

import pytest
import torch
from nqbench_models.module import Module
from nqbench_training.second_moments import SecondMoments
from safetensors.torch import save_file
from torch import Tensor, nn

from nqbench.api import BadInput, DataMissing, Task
from nqbench.api.toolkit.curvature import empirical_fisher, gauss_newton_diagonal, mean_loss

SOURCE = """
import torch
from torch import nn

def network():
    return nn.Sequential(nn.Flatten(), nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 3))

def batches(split, batch_size, shuffle):
    x = torch.randn(20, 2, 3, generator=torch.Generator().manual_seed(len(split)))
    y = x.flatten(1)[:, :3].argmax(1)
    order = torch.arange(20)
    if shuffle is not None:
        order = torch.randperm(20, generator=torch.Generator().manual_seed(shuffle))
    for chosen in order.split(batch_size):
        yield x[chosen], y[chosen]

def score(module, batches):
    return {"error": sum(float((module(x).argmax(1) != y).sum()) for x, y in batches)}

def loss(outputs, batch):
    return (outputs ** 2).sum(1)

def outputs(module, batch):
    return 2 * module(batch[0])

number = 3
"""
_names = itertools.count()


@pytest.fixture
def folder(tmp_path: Path) -> tuple[Path, str]:
    """A folder with a Python module of a name of its own, and that name."""
    name = f"mine_{next(_names)}"
    (tmp_path / f"{name}.py").write_text(SOURCE)
    return tmp_path, name


def network() -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return nn.Sequential(nn.Flatten(), nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 3)).eval()


def test_functions_and_a_safetensors_checkpoint(folder: tuple[Path, str]) -> None:
    path, name = folder
    save_file(network().state_dict(), path / "mine.safetensors")
    model = Module(folder=str(path), network=f"{name}:network", checkpoint="mine.safetensors", data=f"{name}:batches")
    model.prepare()
    module = model.load(torch.device("cpu"))
    assert all(torch.equal(v, network().state_dict()[k]) for k, v in module.state_dict().items())
    x, y = next(model.batches("test"))
    expected = 100 * float((network()(x).argmax(1) == y).double().mean())
    assert model.evaluate(module).metrics["accuracy"] == pytest.approx(expected)
    assert model.compressible(module) == ("1.weight", "3.weight")


def test_a_torch_checkpoint_is_read_without_running_its_code(folder: tuple[Path, str]) -> None:
    path, name = folder
    torch.save(network().state_dict(), path / "good.pth")
    good = Module(folder=str(path), network=f"{name}:network", checkpoint="good.pth")
    assert torch.equal(good.load(torch.device("cpu")).state_dict()["1.weight"], network().state_dict()["1.weight"])
    torch.save(network(), path / "evil.pth")  # a whole pickled module
    evil = Module(folder=str(path), network=f"{name}:network", checkpoint="evil.pth")
    with pytest.raises(BadInput, match="weights_only") as caught:
        evil.load(torch.device("cpu"))
    assert "\n" not in str(caught.value)


def test_a_training_checkpoint_serves_by_its_state_dict(folder: tuple[Path, str]) -> None:
    path, name = folder
    torch.save({"epoch": 3, "state_dict": network().state_dict()}, path / "run.pth")
    model = Module(folder=str(path), network=f"{name}:network", checkpoint="run.pth")
    assert torch.equal(model.load(torch.device("cpu")).state_dict()["3.weight"], network().state_dict()["3.weight"])


def test_a_checkpoint_that_does_not_fit_is_told_in_one_line(folder: tuple[Path, str]) -> None:
    path, name = folder
    state = network().state_dict()
    short = {key: value for key, value in state.items() if key != "3.bias"}
    wide = {**state, "3.bias": torch.zeros(4)}
    cases = [
        (short, "has no '3.bias'"),
        (wide, r"'3.bias' has the shape \(4,\), not \(3,\)"),
        ({**state, "5.bias": torch.zeros(1)}, "holds '5.bias', which the network does not have"),
        ({"w": [1, 2]}, "holds more than tensors"),
    ]
    for content, text in cases:
        torch.save(content, path / "bad.pth")
        with pytest.raises(BadInput, match=text) as caught:
            Module(folder=str(path), network=f"{name}:network", checkpoint="bad.pth").load(torch.device("cpu"))
        assert "\n" not in str(caught.value)
    for file in ("bad.safetensors", "broken.pth"):
        (path / file).write_bytes(b"no such format")
        with pytest.raises(BadInput, match=file):
            Module(folder=str(path), network=f"{name}:network", checkpoint=file).load(torch.device("cpu"))


def test_functions_for_loss_outputs_and_score(folder: tuple[Path, str]) -> None:
    path, name = folder
    model = Module(
        folder=str(path),
        network=f"{name}:network",
        data=f"{name}:batches",
        score=f"{name}:score",
        metric_name="error",
        higher_is_better=False,
        loss=f"{name}:loss",
        outputs=f"{name}:outputs",
        tensors=("3.weight",),
    )
    module = model.load(torch.device("cpu"))
    batch = next(model.batches("test"))
    outputs = model.predict(module, batch)
    assert torch.equal(outputs, 2 * module(batch[0]))
    assert torch.equal(model.losses(outputs, batch), (outputs**2).sum(1))
    wrong = int((module(batch[0]).argmax(1) != batch[1]).sum())
    assert model.evaluate(module).metrics == {"error": wrong}
    metric = model.metric()
    assert metric is not None
    assert (metric.name, metric.higher_is_better) == ("error", False)
    assert model.compressible(module) == ("3.weight",)
    with pytest.raises(BadInput, match=r"no parameter '9\.weight'"):
        model.model_copy(update={"tensors": ("9.weight",)}).compressible(module)
    module.codes = nn.Parameter(torch.zeros(4, 4, dtype=torch.int8), requires_grad=False)
    module.none = nn.Parameter(torch.zeros(0, 4))
    for odd, what in (("codes", "int8"), ("none", "empty")):
        with pytest.raises(BadInput, match=f"tensors: '{odd}' is {what}: leave it out, it cannot be quantized"):
            model.model_copy(update={"tensors": (odd,)}).compressible(module)


LAZY = """
from torch import nn

def network():
    return nn.Sequential(nn.LazyLinear(3))

def elsewhere():
    return nn.Sequential(nn.Linear(4, 3, device="meta"))
"""


@pytest.mark.filterwarnings("ignore")
def test_a_lazy_network_has_its_shapes_from_its_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "lazy_networks.py").write_text(LAZY)
    torch.save({"0.weight": torch.ones(3, 4), "0.bias": torch.zeros(3)}, tmp_path / "w.pt")
    fields = {"folder": str(tmp_path), "network": "lazy_networks:network"}
    model = Module(checkpoint="w.pt", **fields)
    model.prepare()
    assert torch.equal(model.load(torch.device("cpu"))[0].weight, torch.ones(3, 4))  # type: ignore[index]
    with pytest.raises(BadInput, match=r"'0\.weight' has no shape yet: run a batch"):
        Module(**fields).prepare()
    with pytest.raises(BadInput, match=r"'0\.weight' is on the device meta, without numbers"):
        Module(**fields | {"network": "lazy_networks:elsewhere"}).prepare()


@pytest.mark.parametrize("kind", ["pt", "pt2"])
@pytest.mark.filterwarnings("ignore")
def test_exported_files_build_the_network(folder: tuple[Path, str], kind: str) -> None:
    path, name = folder
    example = torch.randn(5, 2, 3)
    if kind == "pt":
        torch.jit.script(network()).save(path / "net.pt")
    else:
        sizes = {"input": {0: torch.export.Dim("batch")}}
        torch.export.save(torch.export.export(network(), (example,), dynamic_shapes=sizes), path / "net.pt2")
    model = Module(folder=str(path), network=f"net.{kind}", data=f"{name}:batches")
    model.prepare()
    module = model.load(torch.device("cpu"))
    torch.testing.assert_close(module(example), network()(example))
    assert model.compressible(module) == ("1.weight", "3.weight")
    task = Task(model, module, model.compressible(module))
    zero = {n: torch.zeros_like(w) for n, w in task.weights().items()}
    assert mean_loss(task, 20, zero) != mean_loss(task, 20)
    own = Task(model, network(), task.names)
    for estimate in (empirical_fisher, gauss_newton_diagonal):
        for n, expected in estimate(own, own.names, 20).items():
            torch.testing.assert_close(estimate(task, task.names, 20)[n], expected, rtol=1e-4, atol=1e-8)
    for samples in (10, 120):  # a second pass ends early, inside TorchScript's interpreter
        for n, expected in SecondMoments(samples=samples).sense(own, own.names).items():
            torch.testing.assert_close(SecondMoments(samples=samples).sense(task, task.names)[n], expected)
    task.assign(zero)
    plain = network()
    with torch.no_grad():
        plain[1].weight.zero_()
        plain[3].weight.zero_()
    torch.testing.assert_close(module(example), plain(example))


@pytest.mark.filterwarnings("ignore")
def test_an_export_for_one_batch_size_is_refused_where_there_are_data(folder: tuple[Path, str]) -> None:
    path, name = folder
    torch.export.save(torch.export.export(network(), (torch.randn(5, 2, 3),)), path / "five.pt2")
    without = Module(folder=str(path), network="five.pt2")
    assert without.compressible(without.load(torch.device("cpu"))) == ("1.weight", "3.weight")
    with pytest.raises(BadInput, match=r"five\.pt2 takes batches of exactly 5, expected any size: export it with dyn"):
        Module(folder=str(path), network="five.pt2", data=f"{name}:batches").load(torch.device("cpu"))


class _Shifted(nn.Module):
    """A network with a second input, the same for every batch."""

    def __init__(self) -> None:
        super().__init__()
        self.network = network()

    def forward(self, x: Tensor, shift: Tensor) -> Tensor:
        shifted: Tensor = self.network(x + shift)
        return shifted


@pytest.mark.filterwarnings("ignore")
def test_an_export_may_have_a_further_input_of_a_fixed_size(folder: tuple[Path, str]) -> None:
    path, name = folder
    example, shift = torch.randn(5, 2, 3), torch.randn(2, 3)
    sizes = {"x": {0: torch.export.Dim("batch")}, "shift": {}}
    torch.export.save(torch.export.export(_Shifted(), (example, shift), dynamic_shapes=sizes), path / "two.pt2")
    module = Module(folder=str(path), network="two.pt2", data=f"{name}:batches").load(torch.device("cpu"))
    torch.testing.assert_close(module(example, shift), network()(example + shift))


def test_a_networks_sensitivity_can_be_sensed(folder: tuple[Path, str]) -> None:
    path, name = folder
    model = Module(folder=str(path), network=f"{name}:network", data=f"{name}:batches")
    module = model.load(torch.device("cpu"))
    task = Task(model, module, model.compressible(module))
    assert empirical_fisher(task, task.names, 20)["1.weight"].shape == (4, 6)


def test_the_fingerprint_follows_files_functions_and_version(folder: tuple[Path, str]) -> None:
    path, name = folder
    save_file(network().state_dict(), path / "mine.safetensors")
    model = Module(folder=str(path), network=f"{name}:network", checkpoint="mine.safetensors")
    before = model.fingerprint()
    assert Module.model_validate_json(model.canonical_json()).fingerprint() == before
    save_file({k: v + 1 for k, v in network().state_dict().items()}, path / "mine.safetensors")
    changed = model.fingerprint()
    assert changed != before
    (path / f"{name}.py").write_text(SOURCE + "\n# changed\n")
    assert model.fingerprint() != changed


def test_what_was_edited_in_between_is_what_runs(folder: tuple[Path, str]) -> None:
    """The fingerprint is that of the new file: the old functions may not stay under it, nor what they import."""
    path, name = folder
    file, beside = path / f"{name}.py", path / f"{name}_beside.py"
    beside.write_text("examples = 20\n")
    text = f"from {name}_beside import examples\n" + SOURCE.replace("range(20)", "range(examples)")
    file.write_text(text)
    model = Module(folder=str(path), network=f"{name}:network", data=f"{name}:batches")

    def now() -> list[int]:
        model.fingerprint()
        layers = [layer.out_features for layer in model.load(torch.device("cpu")) if isinstance(layer, nn.Linear)]
        return [sum(len(y) for _, y in model.batches("test", batch_size=8)), *layers]

    assert now() == [20, 4, 3]
    file.write_text(text.replace("nn.Linear(6, 4)", "nn.Linear(6, 5)").replace("nn.Linear(4, 3)", "nn.Linear(5, 3)"))
    assert now() == [20, 5, 3], "of the same size, in the same second"
    beside.write_text("examples = 12\n")
    assert now() == [12, 5, 3]
    file.write_text("def broken(:")
    with pytest.raises(SyntaxError):
        now()
    file.write_text(text)
    assert now() == [12, 4, 3]


def test_code_stays_what_it_is_until_a_fingerprint_is_made(folder: tuple[Path, str]) -> None:
    path, name = folder
    model = Module(folder=str(path), network=f"{name}:network", data=f"{name}:batches")
    model.prepare()
    (path / f"{name}.py").write_text(SOURCE.replace("range(20)", "range(9)"))
    assert sum(len(y) for _, y in model.batches("test")) == 20
    model.prepare()
    assert sum(len(y) for _, y in model.batches("test")) == 9


def test_a_package_in_the_folder_that_was_there_before_is_not_imported_anew(folder: tuple[Path, str]) -> None:
    path, name = folder
    (path / f"{name}_before.py").write_text("class Known: ...\n")
    (path / f"{name}.py").write_text(f"import {name}_before\n" + SOURCE)
    sys.path.insert(0, str(path))
    try:
        before = importlib.import_module(f"{name}_before")
    finally:
        sys.path.remove(str(path))
    model = Module(folder=str(path), network=f"{name}:network")
    model.fingerprint()
    (path / f"{name}.py").write_text(SOURCE + f"import {name}_before\n")
    model.fingerprint()
    assert sys.modules[f"{name}_before"] is before


def test_wrong_names_are_told_in_one_line(folder: tuple[Path, str]) -> None:
    path, name = folder
    cases = [
        (Module(folder=str(path), network=f"{name}:missing"), BadInput, "has no attribute 'missing'"),
        (Module(folder=str(path), network="no_such_module:f"), BadInput, "No module named"),
        (Module(folder=str(path), network=f"{name}:number"), BadInput, "is not a function"),
        (Module(folder=str(path), network="net.pt2"), DataMissing, "there is no file"),
        (Module(folder=str(path), network=f"{name}:network", checkpoint="x.pth"), DataMissing, "there is no file"),
    ]
    for model, error, text in cases:
        with pytest.raises(error, match=text) as caught:
            model.prepare()
        assert "\n" not in str(caught.value)
    with pytest.raises(BadInput, match=r"not a torch\.nn\.Module"):
        Module(folder=str(path), network="builtins:dict").load(torch.device("cpu"))
