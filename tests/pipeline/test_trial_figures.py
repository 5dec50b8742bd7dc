"""A trial's figures against independent computations of the same."""

from __future__ import annotations

import math
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from probe_distribution import Log
from torch import Tensor, nn
from trials import choice, trial

from nqbench.api import BadInput, Model, Note
from nqbench.api.toolkit import curvature
from nqbench.container import read
from nqbench.pipeline.context import Measure
from nqbench.pipeline.files import file_of
from nqbench.pipeline.network import Network, fill
from nqbench.pipeline.trial import Trial
from nqbench.pipeline.workbench import Workbench
from nqbench.registry import registry
from nqbench.results.record import PARTS, Record, pack_correct

Bench = Callable[..., Workbench]
SIZES = (20, 16, 5)
N = 20 * 16 + 16 * 5
CPU = torch.device("cpu")


def run(bench: Workbench, one: Trial, folder: Path) -> tuple[dict[str, Any], Path]:
    """A trial's figures, and where its file lies."""
    figures = bench.run(one, folder)
    key = bench.maker.keys(one).trial
    fixed = {"run": "r", "suite": "s", "key": key, "trial": one.trial, "status": "ok"}
    # every figure fits a record; the threads are its environment's
    Record.for_trial(one.config(), **{name: value for name, value in figures.items() if name != "threads"}, **fixed)
    return figures, file_of(key, folder)


def network(**model: Any) -> nn.Module:
    plugin = registry().make("model", "probe", model)
    assert isinstance(plugin, Model)
    return plugin.load(CPU)


def levels(weights: Tensor, k: int) -> Tensor:
    """Each weight to the nearest of k evenly spaced levels, by brute force."""
    codebook = torch.linspace(float(weights.min()), float(weights.max()), k)
    nearest = (weights[:, None].double() - codebook[None].double()).abs().argmin(1)
    return codebook[nearest]


def flat_weights(module: nn.Module) -> Tensor:
    return torch.cat([p.detach().reshape(-1) for p in module.parameters() if p.dim() > 1])


def accuracy(module: nn.Module, **model: Any) -> tuple[float, np.ndarray]:
    hits = []
    with torch.no_grad():
        for x, y in registry().make("model", "probe", model).batches("test"):  # type: ignore[attr-defined]
            hits += (module(x).argmax(1) == y).tolist()
    return 100 * sum(hits) / len(hits), np.array(hits)


def test_bytes_rates_and_distortion_are_those_computed_by_hand(bench: Bench, tmp_path: Path) -> None:
    figures, path = run(bench(), trial(quantizer=("levels", {"k": 5})), tmp_path / "files")
    size = path.stat().st_size
    parts = figures["parts"]
    assert figures["file_bytes"] == size == sum(parts.values())
    assert parts["symbols"] == 4 * N  # plain: four bytes per symbol
    assert parts["codebook"] == 4 * 5
    assert parts["raw_parameters"] == 4 * (16 + 5)  # the biases
    assert [parts[name] for name in ("coder_table", "positions", "raw_buffers")] == [0, 0, 0]
    parameters = N + 16 + 5
    assert figures["ratio"] == 4 * parameters / size
    assert figures["file_ratio"] == 4 * parameters / size
    assert figures["bits_per_weight"] == 8 * (size - 4 * 21) / N
    weights = flat_weights(network())
    deployed = levels(weights, 5)
    assert figures["mse"] == pytest.approx(float((weights.double() - deployed.double()).square().mean()), rel=1e-12)
    shares = torch.unique(deployed, return_counts=True)[1].double() / N
    entropy = float(-(shares * shares.log2()).sum())
    assert figures["entropy"] == pytest.approx(entropy, rel=1e-12)
    assert figures["efficiency"] == pytest.approx(entropy / 32, rel=1e-12)
    assert (figures["weights"], figures["kept"], figures["knob"]) == (N, N, "k")
    assert figures["statistics"] == {"calls": 1.0}


def test_metrics_are_those_of_the_deployed_weights(bench: Bench, tmp_path: Path) -> None:
    figures, _ = run(bench(), trial(quantizer=("levels", {"k": 3})), tmp_path)
    module = network()
    before, _ = accuracy(module)
    deployed, start = levels(flat_weights(module), 3), 0
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.dim() > 1:
                parameter.copy_(deployed[start : start + parameter.numel()].reshape(parameter.shape))
                start += parameter.numel()
    after, hits = accuracy(module)
    assert before != after
    assert (figures["metric_float"], figures["metric"], figures["metric_delta"]) == (before, after, after - before)
    assert figures["correct"] == pack_correct(hits)
    assert figures["examples"] == 200


def test_layer_scope_gives_each_tensor_its_own_levels(bench: Bench, tmp_path: Path) -> None:
    figures, path = run(bench(), trial(granularity="layer"), tmp_path)
    state = read(path, registry()).tensors
    for name, tensor in network().state_dict().items():
        wanted = levels(tensor.reshape(-1), 5) if tensor.dim() > 1 else tensor.reshape(-1)
        assert torch.equal(state[name].reshape(-1), wanted)
    assert figures["parts"]["codebook"] == 2 * 4 * 5


@pytest.mark.parametrize("streams", ["joint", "per-tensor"])
def test_how_symbols_are_streamed_changes_no_tensor_and_no_evaluation(
    bench: Bench, tmp_path: Path, log: Log, streams: str
) -> None:
    one = bench()
    first, _ = run(one, trial(), tmp_path)
    log.counts()
    second, _ = run(one, trial(streams=streams), tmp_path)
    assert second["decoded_sha256"] == first["decoded_sha256"]
    assert not {"quantize", "evaluate"} & log.counts().keys()


def test_a_weighted_distortion_is_weighted_by_the_sensitivity(bench: Bench, tmp_path: Path) -> None:
    figures, _ = run(bench(), trial(sensitivity="squares"), tmp_path)
    w = flat_weights(network()).double()
    error = (w - levels(w.float(), 5).double()).square()
    assert figures["weighted_mse"] == pytest.approx(float(((1 + w.square()) * error).mean()), rel=1e-6)


def test_folding_batch_norms_changes_the_outputs_by_rounding_alone_and_saves_their_statistics(
    bench: Bench, tmp_path: Path
) -> None:
    one, model = bench(), {"net": "conv"}
    plain, plain_path = run(one, trial(model=model), tmp_path)
    folded, folded_path = run(one, trial(model=model, fold_batchnorm=True), tmp_path)
    x = torch.randn(32, 3, 6, 6, generator=torch.Generator().manual_seed(9))
    outputs = []
    for path in (plain_path, folded_path):
        module = network(**model)
        fill(module, read(path, registry()).tensors)
        outputs.append(module(x).detach())
    assert not torch.equal(*outputs)
    assert float((outputs[0] - outputs[1]).abs().max()) < 1e-4 * float(outputs[0].abs().max())
    # each of two norms: a mean and a variance a channel (4 and 6) become one float each; counters stay
    assert plain["parts"]["raw_buffers"] - folded["parts"]["raw_buffers"] == 4 * (2 * 4 + 2 * 6 - 4)
    assert folded["metric"] == pytest.approx(plain["metric"], abs=1.0)


def test_float16_others_round_what_is_not_quantized_and_halve_its_bytes(bench: Bench, tmp_path: Path) -> None:
    figures, path = run(bench(), trial(unquantized="float16"), tmp_path)
    assert figures["parts"]["raw_parameters"] == 2 * (16 + 5)
    state = read(path, registry()).tensors
    bias = network().state_dict()["layers.0.bias"]
    assert torch.equal(state["layers.0.bias"], bias.half().float())
    assert state["layers.0.bias"].dtype == torch.float32


@pytest.mark.parametrize("every", ["", "-all"])
def test_uint8_others_are_codes_of_parameters_and_statistics_as_asked_for(
    bench: Bench, tmp_path: Path, every: str
) -> None:
    model = {"net": "conv"}
    half, _ = run(bench(), trial(model=model, unquantized=f"float16{every}"), tmp_path)
    coded, path = run(bench(), trial(model=model, unquantized=f"uint8{every}"), tmp_path)
    state, plain = read(path, registry()).tensors, network(**model).state_dict()
    sizes = [t.numel() for n, t in network(**model).named_parameters() if t.dim() == 1]
    saved = half["parts"]["raw_parameters"] - coded["parts"]["raw_parameters"]
    assert saved == sum(n - 4 for n in sizes if n > 4 and n)
    var = plain["norm1.running_var"]
    assert torch.equal(state["norm1.running_var"], var.half().float() if every else var)
    assert float((state["norm1.bias"] - plain["norm1.bias"]).abs().max()) < 0.01


def test_tied_weights_are_written_and_counted_once_and_deployed_twice(bench: Bench, tmp_path: Path) -> None:
    figures, path = run(bench(), trial(model={"net": "tied"}), tmp_path)
    assert figures["parts"]["symbols"] == 4 * 49
    # its buffer is no batch norm's
    assert figures["ratio"] == 4 * (49 + 14) / figures["file_bytes"]
    assert figures["file_ratio"] == 4 * (49 + 14 + 7) / figures["file_bytes"]
    state = read(path, registry()).tensors
    assert torch.equal(state["encoder.weight"], state["decoder.weight"])
    assert len(state) == 5


@pytest.mark.parametrize("positions", ["zero", "places"])
@pytest.mark.parametrize("granularity", ["global", "layer"])
def test_pruned_weights_deploy_as_exactly_zero_however_their_places_are_written(
    bench: Bench, tmp_path: Path, positions: str, granularity: str
) -> None:
    figures, path = run(bench(), trial(pruner={"share": 0.5}, positions=positions, granularity=granularity), tmp_path)
    state, kept_all, deployed_all = read(path, registry()).tensors, [], []
    for name, tensor in network().state_dict().items():
        if tensor.dim() > 1:
            kept = tensor.abs() > torch.quantile(tensor.abs(), 0.5)
            assert bool((state[name][~kept] == 0).all())
            assert not bool(torch.signbit(state[name][~kept]).any())
            kept_all.append(tensor[kept])
            deployed_all.append(state[name][kept])
    if granularity == "global":
        kept_all, deployed_all = [torch.cat(kept_all)], [torch.cat(deployed_all)]
    for kept, deployed in zip(kept_all, deployed_all, strict=True):
        assert torch.equal(deployed, levels(kept, 5))
    kept, deployed = torch.cat(kept_all), torch.cat(deployed_all)
    assert (figures["kept"], figures["weights"]) == (kept.numel(), N)
    assert figures["mse"] == pytest.approx(float((kept - deployed).double().square().mean()), rel=1e-6)
    assert figures["parts"]["positions"] == (4 * N if positions == "places" else 0)
    assert figures["parts"]["symbols"] == 4 * (N if positions == "zero" else kept.numel())


def test_every_registered_way_to_write_positions_gives_the_same_network(bench: Bench, tmp_path: Path) -> None:
    one = bench()
    found = {
        name: run(one, trial(pruner={"share": 0.7}, positions=name), tmp_path)[0]["decoded_sha256"]
        for name in registry().names("positions")
    }
    assert len(set(found.values())) == 1


def test_a_layer_of_which_nothing_is_left_deploys_as_zeros(bench: Bench, tmp_path: Path) -> None:
    one = trial(pruner={"share": 0.2, "empty": "layers.1.weight"}, positions="zero", granularity="layer")
    figures, path = run(bench(), one, tmp_path)
    assert not bool(read(path, registry()).tensors["layers.1.weight"].any())
    assert figures["kept"] < 20 * 16


def test_tensors_that_a_training_changed_are_deployed_as_it_left_them(bench: Bench, tmp_path: Path) -> None:
    _, path = run(bench(), trial(training=({"by": 1.0}, {"by": 2.0})), tmp_path)
    state = read(path, registry()).tensors
    assert torch.equal(state["layers.1.bias"], network().state_dict()["layers.1.bias"] + 1.0 + 2.0)


@pytest.mark.parametrize("unquantized", ["float32", "float16"])
@pytest.mark.parametrize("net", ["mlp", "conv", "tied"])
def test_a_codec_writes_every_float_tensor_and_has_no_entropy(
    bench: Bench, tmp_path: Path, net: str, unquantized: str
) -> None:
    figures, path = run(bench(), trial(codec="halves", model={"net": net}, unquantized=unquantized), tmp_path)
    state = read(path, registry()).tensors
    error, count = 0.0, 0
    for name, tensor in network(net=net).state_dict().items():
        if tensor.is_floating_point():
            assert torch.equal(state[name], tensor.half().float())
            if name.endswith("weight") and tensor.dim() > 1 and name != "decoder.weight":
                error += float((tensor.double() - tensor.half().double()).square().sum())
                count += tensor.numel()
    assert figures["mse"] == pytest.approx(error / count, rel=1e-9)
    assert "entropy" not in figures
    assert figures["parts"]["codebook"] == 0
    assert figures["file_bytes"] == path.stat().st_size == sum(figures["parts"][name] for name in PARTS)


def test_constants_beside_a_codec_are_stored_as_other_trials_store_them(bench: Bench, tmp_path: Path) -> None:
    """The folded norms' statistics are numbers that take two bytes each."""
    one = trial(codec="halves", model={"net": "conv"}, unquantized="float16", fold_batchnorm=True)
    figures, path = run(bench(), one, tmp_path)
    assert float(read(path, registry()).tensors["norm1.running_var"][0]) == 1.0
    counters = 2 * 8
    assert figures["parts"]["raw_buffers"] == 2 * 2 * 2 + counters


def test_what_a_codec_of_weights_alone_leaves_is_stored_as_other_trials_store_it(bench: Bench, tmp_path: Path) -> None:
    fields = {"model": {"net": "conv"}, "fold_batchnorm": True}
    alone, path = run(bench(), trial(codec="halves", alone=True, **fields), tmp_path)
    state = read(path, registry()).tensors
    _, other = run(bench(), trial(quantizer=("levels", {"k": 300}), **fields), tmp_path)
    theirs = read(other, registry()).tensors
    vectors = [name for name, tensor in theirs.items() if tensor.is_floating_point() and tensor.dim() < 2]
    assert vectors
    assert all(torch.equal(state[name], theirs[name]) for name in vectors)
    convolution = network(net="conv").state_dict()
    for name, tensor in convolution.items():
        if tensor.dim() > 1:
            assert torch.equal(state[name], tensor.half().float())
    whole, _ = run(bench(), trial(codec="halves", **fields), tmp_path)
    assert alone["parts"]["raw_parameters"] > whole["parts"]["raw_parameters"]
    assert alone["parts"]["symbols"] < whole["parts"]["symbols"]


def test_a_model_without_data_has_rates_and_no_metric(bench: Bench, tmp_path: Path, log: Log) -> None:
    figures, _ = run(bench(), trial(model={"data": False}), tmp_path)
    assert figures["mse"] > 0
    assert "metric" not in figures
    assert log.counts()["evaluate"] == 0


def test_the_measured_loss_increase_is_the_difference_of_two_mean_losses(bench: Bench, tmp_path: Path) -> None:
    figures, path = run(bench(), trial(loss_increase=True, quantizer=("levels", {"k": 4})), tmp_path)

    def loss(module: nn.Module) -> float:
        (x, y), *_ = registry().make("model", "probe", {}).batches("train")  # type: ignore[attr-defined]
        with torch.no_grad():
            return float(nn.functional.cross_entropy(module(x), y))

    module = network()
    before = loss(module)
    fill(module, read(path, registry()).tensors)
    assert figures["loss_increase"]["measured"] == pytest.approx(loss(module) - before, rel=1e-4)
    assert all(math.isfinite(value) for value in figures["loss_increase"].values())


def test_the_loss_expansion_a_network_is_computed_once_for_all_its_trials(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = []
    expand = curvature.expand

    def counted(*arguments: Any) -> curvature.Expansion:
        made.append(expand(*arguments))
        return made[-1]

    monkeypatch.setattr(curvature, "expand", counted)
    trials = [trial(loss_increase=True, quantizer=("levels", {"k": k})) for k in (2, 3, 4)]
    one = bench()
    figures = [one.run(t, tmp_path)["loss_increase"] for t in trials[:2]]
    figures.append(bench().run(trials[2], tmp_path)["loss_increase"])  # another worker finds it in the cache
    assert len(made) == 1
    alone = bench(cache=None).run(trials[2], tmp_path)["loss_increase"]
    assert figures[2] == pytest.approx(alone)
    assert len({f["diagonal"] for f in figures}) == 3


def test_measuring_keeps_every_sample_and_takes_nothing_from_the_cache(bench: Bench, tmp_path: Path, log: Log) -> None:
    bench().run(trial(), tmp_path)
    log.counts()
    one = bench(measure=Measure(repeats=3, warmup=2))
    for _ in range(2):
        figures, _ = run(one, trial(coder=("plain", {"delay": 0.01})), tmp_path)
        assert figures["measured"]
        assert {stage: len(samples) for stage, samples in figures["samples"].items()} == {
            "quantize": 3,
            "encode": 3,
            "decode": 3,
        }
        assert {"quantize", "encode", "decode", "write", "evaluate"} <= figures["seconds"].keys()
        assert not {"quantize", "file", "evaluate"} & set(figures["cached"])
        assert log.counts() >= Counter(quantize=5, encode=5, evaluate=1)
        assert 0.01 <= figures["seconds"]["encode"] <= figures["seconds"]["encode"] + figures["seconds"]["write"] < 0.1


def test_measuring_a_codec_times_its_compression(bench: Bench, tmp_path: Path, log: Log) -> None:
    figures, _ = run(bench(measure=Measure(repeats=2, warmup=1)), trial(codec="halves"), tmp_path)
    assert len(figures["samples"]["quantize"]) == 2
    assert log.counts()["compress"] == 3


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"quantizer": ("troubled", {"how": "range"})}, r"layers\.0\.weight.* outside the alphabet \[0, 5\)"),
        ({"quantizer": ("troubled", {"how": "short"})}, "399 quantized weights for the 400"),
        ({"coder": ("plain", {"faults": "lost"})}, "1596 bytes for 400 symbols"),
        ({"coder": ("plain", {"faults": "changed"})}, "not what was encoded: tensor 'layers.0.weight' differs"),
        ({"training": ({"faults": "group"},), "granularity": "layer"}, "'shifted' .*: layers.1.weight"),
        ({"training": ({"faults": "raw"},)}, "'shifted' dropped the tensor 'layers.0.bias'"),
        ({"training": ({"faults": "shape"},)}, "'shifted' dropped the tensor 'layers.0.bias', or changed its shape"),
        ({"pruner": {"sloppy": True}, "positions": "zero"}, "'smallest' left pruned weights of 'layers.0.weight'"),
    ],
)
def test_what_a_plugin_got_wrong_is_told_in_a_line_and_not_cached(
    bench: Bench, tmp_path: Path, fields: dict[str, Any], words: str
) -> None:
    one = bench()
    with pytest.raises(Exception, match=words) as caught:
        one.run(trial(**fields), tmp_path / "files")
    assert isinstance(caught.value, BadInput) or "bytes for" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not {"file", "trial"} & one.cache.info().keys()
    assert not (tmp_path / "files").exists()


@pytest.mark.parametrize("empty", ["", "layers.0.weight"])
def test_a_layer_of_which_a_pruner_leaves_nothing_is_named(bench: Bench, tmp_path: Path, empty: str) -> None:
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always", Note)
        bench().run(trial(pruner={"empty": empty}, positions="zero"), tmp_path)
    told = [str(w.message) for w in heard if issubclass(w.category, Note) and "left no weight" in str(w.message)]
    assert [text.partition(":")[0] for text in told] == (
        [f"pruner 'smallest' left no weight of {empty}"] if empty else []
    )


def test_a_model_whose_network_shares_a_tensor_counts_it_once(bench: Bench) -> None:
    model = choice("model", "probe", net="tied").make(registry())
    assert isinstance(model, Model)
    found = Network.of(model, model.load(CPU))
    assert found.names == ("encoder.weight",)
    assert dict(found.aliases) == {"decoder.weight": "encoder.weight"}
    assert (found.parameter_count(), found.float_bytes()) == (63, 4 * 70)
