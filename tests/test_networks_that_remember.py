"""Networks that keep something beside their state, or reach weights that are none of it: what is said of a file is what
a new network gives that has the file's tensors and nothing else, or the network is refused in a line."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import nqbench
from nqbench.api import BadInput
from nqbench.api.batches import count, joined, part
from nqbench.pipeline.network import copied, fill

SUITE = """
name: one
models: [lenet300: {data: digits}]
quantizers: {uniform: {step: 0.5}}
coders: [huffman]
granularities: [layer]
unquantized: float32
target: {drop: 100}
"""


def mlp() -> nn.Sequential:
    return nn.Sequential(nn.Linear(16, 24), nn.ReLU(), nn.Linear(24, 4))


class Cached(nn.Module):
    """As LeViT's attention biases: in evaluation mode what follows from the weights is kept, until it is trained."""

    def __init__(self) -> None:
        super().__init__()
        self.n, self.bias, self.kept = mlp(), nn.Parameter(torch.randn(4, 8)), dict[str, Tensor]()

    def train(self, mode: bool = True) -> Cached:
        if mode:
            self.kept = {}
        return super().train(mode)

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            return self.n(x) + self.bias.sum(1) / 40  # type: ignore[no-any-return]
        if "bias" not in self.kept:
            self.kept["bias"] = self.bias.sum(1) / 40
        return self.n(x) + self.kept["bias"]  # type: ignore[no-any-return]


class Merged(nn.Module):
    """As LoRA's layers: in evaluation mode an update of low rank is part of the weight."""

    def __init__(self) -> None:
        super().__init__()
        self.n, self.a, self.b = mlp(), nn.Parameter(torch.randn(24, 2)), nn.Parameter(torch.randn(2, 16))
        self.merged = False

    def train(self, mode: bool = True) -> Merged:
        super().train(mode)
        if mode == self.merged:
            with torch.no_grad():
                self.n[0].weight += (-1 if mode else 1) * self.a @ self.b
            self.merged = not mode
        return self

    def forward(self, x: Tensor) -> Tensor:
        first = self.n[0](x) if self.merged else self.n[0](x) + x @ (self.a @ self.b).T
        return self.n[2](self.n[1](first))  # type: ignore[no-any-return]


class Moving(nn.Module):
    """Its forward pass moves a buffer."""

    h: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.n = mlp()
        self.register_buffer("h", torch.zeros(16))

    def forward(self, x: Tensor) -> Tensor:
        self.h = 0.9 * self.h + x.mean(0).detach()
        return self.n(x + self.h)  # type: ignore[no-any-return]


class Counting(Moving):
    """The same in an attribute that no state has."""

    def __init__(self) -> None:
        super().__init__()
        del self._buffers["h"]
        self.h = torch.zeros(16)


def batches(network: nn.Module, shift: float = 0.0) -> list[tuple[Tensor, Tensor]]:
    """Whatever a copy of the network answers is right."""
    judge, generator = copied(network).eval(), torch.Generator().manual_seed(int(10 * shift))
    with torch.no_grad():
        inputs = [shift + torch.randn(64, 16, generator=generator) for _ in range(6)]
        return [(x, judge(x).argmax(1)) for x in inputs]


def accuracy(network: nn.Module, data: list[tuple[Tensor, Tensor]]) -> float:
    with torch.no_grad():
        return 100 * float(torch.cat([network(x).argmax(1) == y for x, y in data]).double().mean())


@pytest.fixture
def suite(tmp_path: Path) -> Path:
    (tmp_path / "one.yaml").write_text(SUITE)
    return tmp_path / "one.yaml"


@pytest.mark.parametrize("kind", [Cached, Merged, Moving, Counting])
@pytest.mark.parametrize("used", [False, True], ids=["new", "used"])
def test_what_is_said_is_what_a_new_network_gives(
    kind: type[nn.Module], used: bool, suite: Path, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    network = kind().eval()
    if used and kind is not Moving:  # which would be another network then
        keep = copied(network)
        network(torch.randn(8, 16))
        if kind is Counting:
            network = keep
    data = {"train": batches(network), "test": batches(network, 0.5)}
    before = {name: value.clone() for name, value in network.state_dict().items()}
    figures = nqbench.compress(network, data, max_drop=100, suite=suite, output=tmp_path / "n.nqz").figures
    assert figures.metric_float == 100.0
    other = kind().eval()
    nqbench.load_into(other, tmp_path / "n.nqz")
    assert figures.metric == accuracy(other, data["test"])
    assert figures.metric != 100.0  # so coarse a grid shows
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    held = nqbench.load(tmp_path / "n.nqz")
    assert all(torch.equal(held[name], before[name]) for name in before if name == "h")


def plain_list() -> nn.Module:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers, self.out = [nn.Linear(16, 24)], nn.Linear(24, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.out(self.layers[0](x).relu())  # type: ignore[no-any-return]

    return Net()


def closures() -> nn.Module:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(16, 24), nn.Linear(24, 4)
            self.steps = [lambda x: self.a(x).relu(), lambda x: self.b(x)]

        def forward(self, x: Tensor) -> Tensor:
            for step in self.steps:
                x = step(x)
            return x

    return Net()


def patched() -> nn.Module:
    net = mlp()
    net.forward = lambda x: net[2](net[1](net[0](x)))  # type: ignore[method-assign]
    return net


def hooked() -> nn.Module:
    net = mlp()
    net._register_state_dict_hook(lambda _, state, *rest: {name: t.clone() for name, t in state.items()})
    return net


def overridden() -> nn.Module:
    class Net(nn.Sequential):
        def state_dict(self, *args: Any, **options: Any) -> dict[str, Any]:
            return {name: value.detach().cpu().clone() for name, value in super().state_dict(*args, **options).items()}

    return Net(*mlp())


@pytest.mark.parametrize(
    ("build", "told"),
    [
        (plain_list, "not in its state"), (closures, "not in its state"), (patched, "not in its state"),
        (hooked, r"state_dict\(\) gives copies"), (overridden, r"state_dict\(\) gives copies"),
    ],
)  # fmt: skip
def test_weights_that_no_file_reaches_are_a_line(
    build: Callable[[], nn.Module], told: str, suite: Path, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    network = build()
    with torch.no_grad():
        data = [(x, network(x).argmax(1)) for x in torch.randn(4, 32, 16)]
    with pytest.raises(BadInput, match=told) as caught:
        nqbench.compress(network, data, max_drop=100, suite=suite, output=tmp_path / "n.nqz")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "n.nqz").exists()


def test_a_state_with_values_of_an_extra_state_is_written() -> None:
    class Extra(nn.Linear):
        def get_extra_state(self) -> Tensor:
            return torch.tensor([3.0, float("nan")])

        def set_extra_state(self, state: Tensor) -> None: ...

    network = Extra(2, 2)
    state = {name: value.clone() + (name == "weight") for name, value in network.state_dict().items()}
    fill(network, state)
    assert torch.equal(network.weight, state["weight"])


def test_every_layer_keeps_its_mode_and_what_refuses_to_be_trained_is_filled() -> None:
    class Fixed(nn.Linear):
        def train(self, mode: bool = True) -> Fixed:
            if mode:
                raise NotImplementedError("exported")
            return super().train(mode)

    network = nn.Sequential(nn.Dropout(), nn.Linear(2, 2), Fixed(2, 2)).eval()
    network[0].training = True
    fill(network, {name: torch.ones_like(value) for name, value in network.state_dict().items()})
    assert [layer.training for layer in network] == [True, False, False]
    assert all(bool((value == 1).all()) for value in network.state_dict().values())


def test_a_copy_leaves_the_network_and_its_graph_alone() -> None:
    class Kept(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.n, self.maps, self.aux = mlp(), list[Tensor](), torch.zeros(())

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.n(x)
            self.maps, self.aux = [out, out.exp()], out.square().mean()
            return out

    network = Kept()
    network(torch.randn(4, 16))
    other = copied(network)
    assert other.maps[0].grad_fn is None  # type: ignore[union-attr,index]
    assert torch.equal(other.maps[0], network.maps[0])  # type: ignore[index]
    network.aux.backward()
    assert network.n[0].weight.grad is not None


def test_what_cannot_be_copied_is_named(suite: Path, tmp_path: Path) -> None:
    class Locked(nn.Sequential):
        pass

    network = Locked(*mlp())
    network[2].guard = threading.Lock()  # type: ignore[assignment]
    with pytest.raises(BadInput, match=r"cannot be copied: '2\.guard' is the reason, TypeError") as caught:
        nqbench.compress(
            network, [(torch.randn(4, 16), torch.zeros(4).long())], max_drop=100, suite=suite, output=tmp_path / "n.nqz"
        )
    assert "\n" not in str(caught.value)


class _Default:
    def __init__(self, dtype: torch.dtype) -> None:
        self.dtype, self.before = dtype, torch.get_default_dtype()

    def __enter__(self) -> None:
        torch.set_default_dtype(self.dtype)

    def __exit__(self, *_: object) -> None:
        assert torch.get_default_dtype() == self.dtype  # as it was
        torch.set_default_dtype(self.before)


MODES: dict[str, Callable[[], Any]] = {
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
    "no_grad": torch.no_grad,
    "inference": torch.inference_mode,
    "float64": lambda: _Default(torch.float64),
}


@pytest.mark.parametrize("mode", MODES)
def test_a_file_does_not_depend_on_the_modes_around_it(mode: str, suite: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = mlp()
    data = {"train": batches(network), "test": batches(network, 0.5)}
    suite.write_text(suite.read_text() + "sensitivities: [hessian]\ntrainings: {finetune: {epochs: 1, lr: 0.01}}\n")
    found = []
    for around in (nullcontext, MODES[mode]):
        with around():
            figures = nqbench.compress(network, data, max_drop=100, suite=suite, output=tmp_path / "n.nqz").figures
        found.append((figures.metric_float, figures.metric, figures.metrics, (tmp_path / "n.nqz").read_bytes()))
    assert found[0] == found[1]


def test_what_has_no_row_a_sample_is_not_cut() -> None:
    x, memory, mask, scale = torch.arange(6.0), torch.zeros(40, 2), torch.ones(3), torch.tensor(2.0)
    batch = ((x, memory), {"mask": mask, "scale": scale, "y": x + 1, "name": "a"})
    (cut, kept), rest = part(batch, 4, 1)
    assert cut.tolist() == [1, 2, 3]
    assert rest["y"].tolist() == [2, 3, 4]
    assert kept is memory
    assert rest["mask"] is mask
    assert rest["scale"] is scale
    assert count((scale, x)) == 6
    assert joined([(x, memory), (x, memory)]) is None
    assert joined([(x, x), (x, x)])[0].shape == (12,)


def test_a_memory_that_all_examples_look_at_is_whole_for_each_of_them(suite: Path, tmp_path: Path) -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.q, self.k, self.v = nn.Linear(16, 32), nn.Linear(16, 32), nn.Linear(16, 5)

        def forward(self, x: Tensor, memory: Tensor) -> Tensor:
            return torch.softmax(2 * self.q(x) @ self.k(memory).T, 1) @ self.v(memory)  # type: ignore[no-any-return]

    torch.manual_seed(0)
    network = Net()
    inputs = [(torch.randn(64, 16), torch.randn(40, 16)) for _ in range(3)]
    with torch.no_grad():
        data = [(x, network(*x).argmax(1)) for x in inputs]
    figures = nqbench.compress(network, {"train": data}, max_drop=100, suite=suite, output=tmp_path / "n.nqz").figures
    assert figures.metrics_float["train.accuracy"] == 100.0
