"""The Gram matrix of every kind of layer, proved by what it is for: E |f(W) - f(W - E)|^2 = tr(E H E^T).

The left side is computed by the layer itself, with its weight changed; nothing is unfolded by hand. For gates of
recurrent layers, where a change feeds back, the sum is over the products that the gates' definitions name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest
import torch
from nqbench_quantizers.gptq import GPTQ
from nqbench_training.grams import LARGEST
from nqbench_training.second_moments import SecondMoments
from nqbench_training.sequential import Sequential
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import parametrizations, prune

from nqbench.api import Batch, Model, Moments, Split, Task

Make = Callable[[], nn.Module]


class Given(Model, name="given"):
    """A network and its inputs, as they are; the outputs are flattened."""

    def batches(self, split: Split, *, batch_size: int = 256, shuffle: int | None = None) -> Iterator[Batch]:
        for part in torch.split(self._x, batch_size):
            yield part, torch.zeros(len(part), dtype=torch.int64)

    def predict(self, module: nn.Module, batch: Batch) -> Tensor:
        out = module(batch[0])
        return (out[0] if isinstance(out, tuple) else out).flatten(1)

    def fingerprint(self) -> str:
        return "given"

    @property
    def _x(self) -> Tensor:
        return _inputs[0]


_inputs: list[Tensor] = []


def task_of(module: nn.Module, x: Tensor, **fields: Any) -> Task:
    _inputs[:] = [x]
    model = Given()
    return Task(model, module.eval(), model.compressible(module), **fields)


def drawn(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


class Bare(nn.Module):
    """``nn.Parameter`` in a function of its own."""

    def __init__(self, function: Callable[[Tensor, Tensor], Tensor], *shape: int) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.randn(shape))
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x, self.w)


class GPTConv(nn.Module):
    """GPT-2's Conv1D: (inputs, outputs)."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(4, 6))
        self.bias = nn.Parameter(torch.zeros(6))

    def forward(self, x: Tensor) -> Tensor:
        return torch.addmm(self.bias, x.view(-1, x.size(-1)), self.weight).view(*x.shape[:-1], 6)


class Attention(nn.Module):
    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True, **options)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.attention(x, x, x, need_weights=False)[0]
        return out


# a network that is linear in its last weight, and the shape of its input
LINEAR: dict[str, tuple[Make, tuple[int, ...]]] = {
    "linear": (lambda: nn.Linear(4, 3), (7, 4)),
    "linear on tokens": (lambda: nn.Linear(4, 3), (7, 5, 4)),
    "linear without bias": (lambda: nn.Linear(4, 3, bias=False), (7, 5, 2, 4)),
    "conv1d": (lambda: nn.Conv1d(3, 4, 3, padding=1), (7, 3, 9)),
    "conv1d dilated, strided": (lambda: nn.Conv1d(3, 4, 3, padding=2, dilation=2, stride=2), (7, 3, 9)),
    "conv1d grouped": (lambda: nn.Conv1d(4, 6, 3, groups=2), (7, 4, 9)),
    "conv1d circular": (lambda: nn.Conv1d(3, 4, 3, padding=1, padding_mode="circular"), (7, 3, 9)),
    "conv1d same": (lambda: nn.Conv1d(3, 4, 4, padding="same"), (7, 3, 9)),
    "conv2d": (lambda: nn.Conv2d(3, 4, 3, padding=1), (7, 3, 6, 5)),
    "conv2d reflect": (lambda: nn.Conv2d(3, 4, 3, padding=1, padding_mode="reflect"), (7, 3, 6, 5)),
    "conv2d replicate": (lambda: nn.Conv2d(3, 4, (3, 2), padding=1, padding_mode="replicate"), (7, 3, 6, 5)),
    "conv2d depthwise": (lambda: nn.Conv2d(4, 4, 3, groups=4, stride=2), (7, 4, 7, 6)),
    "conv2d valid": (lambda: nn.Conv2d(3, 4, 2, padding="valid"), (7, 3, 5, 5)),
    "conv3d": (lambda: nn.Conv3d(2, 3, 3, padding=1), (4, 2, 4, 3, 5)),
    "conv3d grouped": (lambda: nn.Conv3d(4, 4, 2, stride=2, groups=2), (4, 4, 4, 4, 4)),
    "transposed 1d": (lambda: nn.ConvTranspose1d(3, 4, 3), (7, 3, 5)),
    "transposed 1d strided": (lambda: nn.ConvTranspose1d(3, 4, 4, stride=3, padding=1, output_padding=1), (7, 3, 5)),
    "transposed 2d": (lambda: nn.ConvTranspose2d(3, 4, 3, stride=2, padding=2), (7, 3, 4, 5)),
    "transposed 2d grouped": (lambda: nn.ConvTranspose2d(4, 6, (2, 3), stride=2, groups=2, dilation=2), (5, 4, 3, 4)),
    "transposed 2d depthwise": (lambda: nn.ConvTranspose2d(3, 3, 3, groups=3), (5, 3, 3, 4)),
    "transposed 3d": (lambda: nn.ConvTranspose3d(2, 3, 2, stride=2), (4, 2, 3, 2, 3)),
    "GPT-2's Conv1D": (GPTConv, (7, 5, 4)),
    "F.linear": (lambda: Bare(functional.linear, 3, 4), (7, 5, 4)),
    "x @ W": (lambda: Bare(lambda x, w: x @ w, 4, 3), (7, 5, 4)),
    "x @ W, square": (lambda: Bare(lambda x, w: x @ w, 4, 4), (7, 5, 4)),
    "x @ W.T": (lambda: Bare(lambda x, w: x @ w.T, 3, 4), (7, 4)),
    "x @ W.T, square": (lambda: Bare(lambda x, w: x @ w.T, 4, 4), (7, 4)),
    "W @ x": (lambda: Bare(lambda x, w: (w @ x.T).T, 3, 4), (7, 4)),
    "einsum": (lambda: Bare(lambda x, w: torch.einsum("bti,oi->bto", x, w), 3, 4), (7, 5, 4)),
    "einsum of heads": (lambda: Bare(lambda x, w: torch.einsum("bti,ihd->bthd", x, w), 4, 2, 3), (7, 5, 4)),
    "experts, inputs first": (
        lambda: Bare(lambda x, w: torch.bmm(x.transpose(0, 1), w).transpose(0, 1), 3, 4, 4),
        (7, 3, 4),
    ),
    "experts, outputs first": (
        lambda: Bare(lambda x, w: torch.bmm(x.transpose(0, 1), w.mT).transpose(0, 1), 3, 2, 4),
        (7, 3, 4),
    ),
    "functional conv": (lambda: Bare(lambda x, w: functional.conv1d(x, w, padding=1), 5, 3, 3), (7, 3, 6)),
    "channels last": (lambda: nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last), (7, 3, 6, 5)),
    "script": (lambda: torch.jit.script(nn.Sequential(nn.Linear(4, 3))), (7, 4)),
    "attention's output": (lambda: Attention(), (7, 5, 4)),
    "under a mask": (lambda: _pruned(nn.Linear(4, 3)), (7, 4)),
}


def _pruned(layer: nn.Module) -> nn.Module:
    prune.random_unstructured(layer, "weight", 0.0)
    return nn.Sequential(layer)


def changed_outputs(module: nn.Module, x: Tensor, name: str, error: Tensor) -> Tensor:
    """f(W + E) - f(W) of a module that is linear in the weight."""
    parameter: Any = module
    for step in name.split("."):
        parameter = getattr(parameter, step)
    with torch.no_grad():
        before = module(x)
        parameter += error
        after = module(x)
        parameter -= error
    return after - before


@pytest.mark.parametrize("case", LINEAR)
def test_the_gram_matrix_gives_the_squared_error_of_the_outputs(case: str) -> None:
    make, shape = LINEAR[case]
    with torch.random.fork_rng():
        torch.manual_seed(1)
        module = make().eval()
    x = drawn(*shape)
    names = [name for name, p in module.named_parameters() if p.dim() >= 2]
    name = names[-1]
    sensed = SecondMoments(samples=len(x)).sense(task_of(module, x), names)
    moments = Moments.of(sensed[name].double())
    error = torch.randn(dict(module.named_parameters())[name].shape, generator=torch.Generator().manual_seed(2))
    rows = moments.rows(error).double()
    assert torch.equal(moments.tensor(rows, error.shape).float(), error)
    per_group = rows.reshape(len(moments.gram), -1, rows.shape[1])
    predicted = float((per_group @ moments.gram * per_group).sum())
    apart = changed_outputs(module, x, name, error).double()
    # a vector gives one output of each row of its group: as many vectors as outputs, over the rows
    vectors = apart.numel() / len(rows)
    assert float(apart.square().sum()) / vectors == pytest.approx(predicted, rel=1e-4)


@pytest.mark.parametrize("options", [{}, {"kdim": 4, "vdim": 4}, {"kdim": 3, "vdim": 5}, {"bias": False}])
@pytest.mark.parametrize("fast", [True, False])
def test_attentions_projections_see_what_goes_into_them(options: dict[str, Any], fast: bool) -> None:
    class Cross(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention = nn.MultiheadAttention(4, 2, batch_first=True, **options)

        def forward(self, x: Tensor) -> Tensor:
            k, v = x[..., : options.get("kdim", 4)], x[..., : options.get("vdim", 4)]
            out: Tensor = self.attention(x[..., :4], k, v, need_weights=not fast)[0]
            return out

    module, x = Cross().eval(), drawn(7, 5, 6)
    task = task_of(module, x)
    sensed = SecondMoments(samples=7).sense(task, task.names)
    before = torch.backends.mha.get_fastpath_enabled()
    assert before, "the fast path is as it was"
    flat = x.reshape(35, 6).double()
    separate = "attention.q_proj_weight" in sensed
    assert separate == ("kdim" in options and options["kdim"] != 4)
    widths = {"q_proj_weight": 4, "k_proj_weight": options.get("kdim", 4), "v_proj_weight": options.get("vdim", 4)}
    for part, wide in widths.items() if separate else [("in_proj_weight", 4)]:
        expected = flat[:, :wide].T @ flat[:, :wide] / 35
        torch.testing.assert_close(sensed[f"attention.{part}"][0].double(), expected, rtol=1e-4, atol=1e-5)


def states(layer: nn.RNNBase, x: Tensor) -> dict[str, Tensor]:
    """Each matrix's inputs (vectors, m) in a recurrent layer, from single-layer networks, one direction at a time."""
    found: dict[str, Tensor] = {}
    into = x
    for level in range(layer.num_layers):
        outs = []
        for suffix in ("", "_reverse") if layer.bidirectional else ("",):
            one = type(layer)(into.shape[-1], layer.hidden_size, batch_first=True)
            for kind in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
                getattr(one, f"{kind}_l0").data = getattr(layer, f"{kind}_l{level}{suffix}").data
            seen = into.flip(1) if suffix else into
            with torch.no_grad():
                out = one(seen)[0]
            before = torch.cat([torch.zeros_like(out[:, :1]), out[:, :-1]], 1)
            found[f"weight_ih_l{level}{suffix}"] = seen.reshape(-1, seen.shape[-1])
            found[f"weight_hh_l{level}{suffix}"] = before.reshape(-1, before.shape[-1])
            outs.append(out.flip(1) if suffix else out)
        into = torch.cat(outs, -1)
    return found


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
@pytest.mark.parametrize("options", [{}, {"num_layers": 2}, {"num_layers": 2, "bidirectional": True}])
def test_both_matrices_of_every_gate(kind: type[nn.RNNBase], options: dict[str, Any]) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        layer = kind(3, 4, batch_first=True, **options)
    x = drawn(6, 5, 3)
    task = task_of(nn.Sequential(layer), x)
    sensed = SecondMoments(samples=6).sense(task, task.names)
    for name, vectors in states(layer, x).items():
        expected = vectors.T @ vectors / len(vectors)
        torch.testing.assert_close(sensed[f"0.{name}"][0], expected, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("cell", [nn.LSTMCell, nn.GRUCell, nn.RNNCell])
def test_cells_are_seen(cell: type[nn.Module]) -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cell = cell(3, 4)

        def forward(self, x: Tensor) -> Tensor:
            state = self.cell(x)
            out = self.cell(x, state)
            return out[0] if isinstance(out, tuple) else out

    x = drawn(6, 3)
    task = task_of(Twice(), x)
    sensed = SecondMoments(samples=6).sense(task, task.names)
    torch.testing.assert_close(sensed["cell.weight_ih"][0], x.T @ x / 6, rtol=1e-4, atol=1e-5)
    assert sensed["cell.weight_hh"].shape == (1, 4, 4)


class Embedded(nn.Module):
    def __init__(self, bag: bool = False) -> None:
        super().__init__()
        self.embed = nn.EmbeddingBag(9, 4, mode="sum") if bag else nn.Embedding(9, 4)
        self.fc = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.fc(self.embed(x))
        return out


@pytest.mark.parametrize("bag", [False, True])
def test_an_embeddings_moments_are_the_frequencies_of_its_rows(bag: bool) -> None:
    x = torch.tensor([[0, 1, 1], [1, 7, 0]])
    sensed = SecondMoments(samples=2).sense(task_of(Embedded(bag), x), ["embed.weight"])["embed.weight"]
    moments = Moments.of(sensed)
    assert moments.diagonal
    torch.testing.assert_close(moments.gram[0, 0], torch.tensor([2, 3, 0, 0, 0, 0, 0, 1, 0]) / 6)
    if not bag:
        error = drawn(9, 4)
        module = nn.Embedding.from_pretrained(error)
        assert float((moments.rows(error) ** 2 * moments.gram[0]).sum()) == pytest.approx(
            float(module(x).square().sum()) / 6
        )


def test_rows_that_were_never_looked_up_are_rounded_and_the_others_pay_by_frequency() -> None:
    x = torch.tensor([[0, 1, 1], [1, 7, 0]])
    unseen = [2, 3, 4, 5, 6, 8]
    off = torch.zeros(9)
    for seed in range(20):  # four weights of a row may be near their levels by luck
        torch.manual_seed(seed)
        module = Embedded()
        was = module.embed.weight.detach().clone()
        task = task_of(
            module, x, quantizer=GPTQ(step=0.3, lam=1.0), sensitivity=SecondMoments(samples=2), granularity="layer"
        )
        task.rate = lambda counts: 1.0 + abs(torch.arange(len(counts)).double().numpy() - len(counts) // 2)
        sensed = task.sense(["embed.weight"])
        (group,) = task.quantize(names=["embed.weight"], sensed=sensed)
        deployed = task.reconstruct([group])["embed.weight"]
        nearest = (was / 0.3).round() * 0.3
        torch.testing.assert_close(deployed[unseen], nearest[unseen])
        off += (deployed - nearest).abs().sum(1)
    assert float(off[7]) >= float(off[1]), "a rare row pays less for its error than a common one"
    assert float(off[[0, 1, 7]].sum()) > 0


def test_tied_weights_are_the_sum_over_both_uses() -> None:
    class Tied(Embedded):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(4, 9, bias=False)
            self.head.weight = self.embed.weight

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.head(self.embed(x))
            return out

    x = torch.tensor([[0, 1, 1], [1, 7, 0]])
    module = Tied()
    found = SecondMoments(samples=2).sense(task_of(module, x), ["embed.weight"])["embed.weight"]
    hidden = module.embed(x).detach().reshape(-1, 4)
    # six look-ups over nine rows: each row's |.|^2 counts 6/9 on the mean
    expected = (hidden.T @ hidden + 6 / 9 * torch.eye(4)) / 12
    torch.testing.assert_close(found, expected[None])


def test_a_layer_used_several_times_is_the_sum_of_its_uses() -> None:
    class Again(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.fc(self.fc(x).tanh())
            return out

    module, x = Again(), drawn(6, 4)
    found = SecondMoments(samples=6).sense(task_of(module, x), ["fc.weight"])["fc.weight"]
    both = torch.cat([x, module.fc(x).tanh().detach()])
    torch.testing.assert_close(found, (both.T @ both / 12)[None])


PARAMETRIZED: Mapping[str, tuple[Make, str]] = {
    "weight_norm": (lambda: parametrizations.weight_norm(nn.Linear(4, 3)), "0.parametrizations.weight.original1"),
    "spectral_norm": (lambda: parametrizations.spectral_norm(nn.Linear(4, 3)), "0.parametrizations.weight.original"),
    "old weight_norm": (lambda: nn.utils.weight_norm(nn.Linear(4, 3)), "0.weight_v"),
    "old spectral_norm": (lambda: nn.utils.spectral_norm(nn.Linear(4, 3)), "0.weight_orig"),
    "weight_norm of all": (
        lambda: parametrizations.weight_norm(nn.Linear(4, 3), dim=None),
        "0.parametrizations.weight.original1",
    ),
}


@pytest.mark.parametrize("case", PARAMETRIZED)
@pytest.mark.filterwarnings("ignore")
def test_a_parametrized_weight_is_what_its_state_holds(case: str) -> None:
    make, name = PARAMETRIZED[case]
    x = drawn(6, 4)
    module = nn.Sequential(make(), nn.Tanh(), nn.Linear(3, 2))
    task = task_of(module, x, quantizer=GPTQ(step=0.2), sensitivity=SecondMoments(samples=6), granularity="layer")
    assert name in module.state_dict()
    torch.testing.assert_close(task.sense([name])[name], (x.T @ x / 6)[None], rtol=1e-4, atol=1e-6)
    result = Sequential().train(task, None)
    deployed = task.reconstruct(result.groups)
    steps = deployed[name] / 0.2
    torch.testing.assert_close(steps, steps.round(), atol=1e-4, rtol=0)
    assert torch.equal(module.state_dict()[name], deployed[name])
    hidden = torch.tanh(module[0](x)).detach()
    later = SecondMoments(samples=6).sense(task, ["2.weight"])["2.weight"]
    torch.testing.assert_close(later, (hidden.T @ hidden / 6)[None], rtol=1e-4, atol=1e-6)


def test_a_wide_layer_keeps_its_diagonal_alone() -> None:
    module, x = nn.Linear(LARGEST + 1, 2), drawn(3, LARGEST + 1)
    moments = Moments.of(SecondMoments(samples=3).sense(task_of(module, x), ["weight"])["weight"])
    assert moments.diagonal
    torch.testing.assert_close(moments.gram[0, 0], x.square().mean(0), rtol=1e-4, atol=1e-6)


def test_a_tensor_that_multiplies_nothing_has_zeros_of_no_size_to_speak_of() -> None:
    class Placed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.place = nn.Parameter(torch.randn(1, 300, 300))
            self.fc = nn.Linear(300, 2)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.fc(x + self.place)
            return out

    task = task_of(Placed(), drawn(2, 300, 300), quantizer=GPTQ(step=0.5), sensitivity=SecondMoments(samples=2))
    sensed = task.sense(["place"])
    assert sensed is not None
    assert sensed["place"].numel() == 90000
    assert not sensed["place"].any()
    (group,) = task.quantize(names=["place"], sensed=sensed)
    was = task.parameter("place").detach()
    torch.testing.assert_close(task.reconstruct([group])["place"], (was / 0.5).round() * 0.5)


@pytest.mark.parametrize("order", [False, True])
@pytest.mark.parametrize("case", ["GPT-2's Conv1D", "transposed 2d grouped", "experts, inputs first", "x @ W, square"])
def test_error_feedback_beats_rounding_whatever_way_the_weight_lies(case: str, order: bool) -> None:
    make, shape = LINEAR[case]
    with torch.random.fork_rng():
        torch.manual_seed(1)
        module = make().eval()
    x = drawn(*shape).cumsum(-1)  # correlated, so that there is something to feed back
    task = task_of(module, x, quantizer=GPTQ(step=0.6, act_order=order), sensitivity=SecondMoments(samples=len(x)))
    (name,) = task.names
    was = task.parameter(name).detach().clone()
    (group,) = task.quantize(names=[name], sensed=task.sense([name]))
    deployed = task.reconstruct([group])[name]
    off = changed_outputs(module, x, name, deployed - was).square().sum()
    rounded = changed_outputs(module, x, name, (was / 0.6).round() * 0.6 - was).square().sum()
    assert float(off) < float(rounded)


class Everything(nn.Module):
    """Most of what has a weight, one after another."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(11, 8)
        self.encoder = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        self.lstm = nn.LSTM(8, 6, 2, bidirectional=True, batch_first=True)
        self.gru = nn.GRU(12, 5, batch_first=True)
        self.bare = nn.Parameter(torch.randn(5, 3))
        self.up = nn.ConvTranspose1d(3, 4, 3, 2)
        self.normed = parametrizations.weight_norm(nn.Conv1d(4, 4, 3, padding=1, padding_mode="circular"))
        self.spectral = parametrizations.spectral_norm(nn.Linear(4, 4))
        self.never = nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = self.encoder(self.embed(x))
        h = self.gru(self.lstm(h)[0])[0] @ self.bare
        out: Tensor = self.spectral(self.normed(self.up(h.mT)).mT).mean(1)
        return out


@pytest.mark.parametrize("correction", [0.0, 1.0])
@pytest.mark.parametrize("granularity", ["layer", "global"])
def test_a_network_of_every_layer_goes_through_sequential(correction: float, granularity: str) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = Everything()
    x = torch.randint(0, 11, (6, 7), generator=torch.Generator().manual_seed(0))
    task = task_of(module, x, quantizer=GPTQ(step=0.05), sensitivity=SecondMoments(samples=6), granularity=granularity)
    result = Sequential(correction=correction).train(task, None)
    deployed = task.reconstruct(result.groups)
    assert sorted(deployed) == sorted(task.names)
    for name, tensor in deployed.items():
        assert torch.equal(tensor, task.parameter(name)), name
        torch.testing.assert_close(tensor / 0.05, (tensor / 0.05).round(), atol=1e-3, rtol=0)
