"""Checkpoints as frameworks write them, put into networks of a few layers, and what is said of those that fail."""

from __future__ import annotations

import argparse
import json
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from nqbench_models.checkpoint import averaged_entries, files_of, read_state, tensor_bytes
from nqbench_models.fitting import fill
from nqbench_models.module import Module
from safetensors.torch import save_file, save_model
from torch import Tensor, nn

from nqbench.api import BadInput
from nqbench.pipeline.network import Network


class Tied(nn.Module):
    """An embedding whose weight is the output layer's, and a batch norm."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.embed = nn.Embedding(7, 4)
            self.norm = nn.BatchNorm1d(4)
            self.head = nn.Linear(4, 7, bias=False)
        self.head.weight = self.embed.weight
        self.norm.running_mean.normal_(generator=torch.Generator().manual_seed(seed))


def plain(seed: int = 0) -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(OrderedDict(conv=nn.Conv2d(2, 3, 3), norm=nn.BatchNorm2d(3), fc=nn.Linear(3, 2)))


def same(one: nn.Module, other: nn.Module) -> bool:
    return all(torch.equal(v, other.state_dict()[k]) for k, v in one.state_dict().items())


def filled(path: Path, network: nn.Module, entry: str | None = None) -> tuple[nn.Module, list[str]]:
    said: list[str] = []
    fill(network, read_state(path, entry), path, say=said.append)
    return network, said


@pytest.mark.parametrize(
    "prefix", ["module.", "_orig_mod.", "model.", "module.module.", "_orig_mod.module.", "model._orig_mod.", "net.x."]
)
@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_what_wrappers_put_before_names_is_taken_off_and_said(tmp_path: Path, prefix: str, suffix: str) -> None:
    path = tmp_path / f"w{suffix}"
    state = {prefix + name: tensor for name, tensor in plain(1).state_dict().items()}
    save_file(state, path) if suffix == ".safetensors" else torch.save(state, path)
    network, said = filled(path, plain(2))
    assert same(network, plain(1))
    assert len(said) == 1
    assert "removed from the names" in said[0]


def test_a_compiled_part_inside_a_network_is_found(tmp_path: Path) -> None:
    state = {name.replace("conv.", "conv._orig_mod."): t for name, t in plain(1).state_dict().items()}
    torch.save(state, tmp_path / "w.pt")
    network, said = filled(tmp_path / "w.pt", plain(2))
    assert same(network, plain(1))
    assert "_orig_mod." in said[0]


def test_a_wrapped_network_takes_a_plain_checkpoint(tmp_path: Path) -> None:
    torch.save(plain(1).state_dict(), tmp_path / "w.pt")
    network, said = filled(tmp_path / "w.pt", nn.Sequential(OrderedDict(model=plain(2))))
    assert same(network.model, plain(1))
    assert "added before" in said[0]


def test_names_that_fit_are_left_alone_and_nothing_is_said(tmp_path: Path) -> None:
    wrapped = nn.Sequential(OrderedDict(module=plain(1)))
    torch.save(wrapped.state_dict(), tmp_path / "w.pt")
    network, said = filled(tmp_path / "w.pt", nn.Sequential(OrderedDict(module=plain(2))))
    assert same(network, wrapped)
    assert said == []


def test_a_prefix_is_not_taken_off_where_names_would_still_not_fit(tmp_path: Path) -> None:
    state = {"module." + name: t for name, t in plain(1).state_dict().items()} | {"module.more": torch.zeros(2)}
    torch.save(state, tmp_path / "w.pt")
    with pytest.raises(BadInput, match="holds 'more', which the network does not have"):
        filled(tmp_path / "w.pt", plain(2))


@pytest.mark.parametrize("name", ["model", "model_state_dict", "state_dict", "params", "net", "anything"])
@pytest.mark.parametrize("suffix", [".pt", ".pth", ".th", ".ckpt", ".bin"])
def test_the_state_is_found_in_a_training_checkpoint(tmp_path: Path, name: str, suffix: str) -> None:
    network = plain(1)
    optimizer = torch.optim.Adam(network.parameters())
    network(torch.zeros(1, 2, 5, 5).expand(2, 2, 5, 5))[..., 0].sum().backward() if False else None
    beside = {
        "epoch": 3,
        "optimizer": optimizer.state_dict(),
        "args": argparse.Namespace(lr=0.1),
        "best": np.float64(1),
    }
    torch.save({name: network.state_dict(), **beside}, tmp_path / f"w{suffix}")
    assert same(filled(tmp_path / f"w{suffix}", plain(2))[0], network)


def test_a_state_inside_two_containers_is_found(tmp_path: Path) -> None:
    torch.save({"model": {"state_dict": plain(1).state_dict(), "step": 5}}, tmp_path / "w.pt")
    assert same(filled(tmp_path / "w.pt", plain(2))[0], plain(1))


@pytest.mark.parametrize("content", [b"import torch\n\ndef network():\n    pass\n", b"", b"\x89PNG\r\n"])
def test_what_is_no_checkpoint_at_all_is_told_in_a_line(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "mine.py"
    path.write_bytes(content)
    with pytest.raises(BadInput, match=r"mine\.py is no checkpoint: expected a file that torch\.save wrote") as told:
        read_state(path)
    assert "\n" not in str(told.value)


@pytest.mark.parametrize("ema", ["ema", "params_ema", "model_ema", "state_dict_ema", "ema_state_dict"])
def test_averaged_weights_are_named_and_never_taken_silently(tmp_path: Path, ema: str) -> None:
    path = tmp_path / "both.pt"
    torch.save({"params": plain(1).state_dict(), ema: plain(3).state_dict()}, path)
    assert same(filled(path, plain(2))[0], plain(1))
    assert averaged_entries(path) == (ema,)
    assert same(filled(path, plain(2), ema)[0], plain(3))
    torch.save({"model": {"params": plain(1).state_dict(), ema: plain(3).state_dict()}}, path)
    assert same(filled(path, plain(2))[0], plain(1))
    assert averaged_entries(path) == (f"model.{ema}",)
    assert same(filled(path, plain(2), f"model.{ema}")[0], plain(3))
    torch.save({ema: plain(3).state_dict(), "epoch": 1}, path)
    with pytest.raises(BadInput, match=f"averaged weights alone: choose with `entry`: {ema}"):
        read_state(path)


def test_two_networks_of_unknown_names_are_not_guessed_at(tmp_path: Path) -> None:
    torch.save({"left": plain(1).state_dict(), "right": plain(3).state_dict()}, tmp_path / "w.pt")
    with pytest.raises(BadInput, match="several networks: choose with `entry`: left, right"):
        read_state(tmp_path / "w.pt")
    assert same(filled(tmp_path / "w.pt", plain(2), "right")[0], plain(3))
    with pytest.raises(BadInput, match="has no entry 'middle'; it holds left, right"):
        read_state(tmp_path / "w.pt", "middle")


@pytest.mark.parametrize("kept", ["embed.weight", "head.weight"])
def test_tied_weights_under_one_of_their_names(tmp_path: Path, kept: str) -> None:
    state = {n: t for n, t in Tied(1).state_dict().items() if not n.endswith(".weight") or n in (kept, "norm.weight")}
    save_file(state, tmp_path / "w.safetensors")
    network, _ = filled(tmp_path / "w.safetensors", Tied(2))
    assert same(network, Tied(1))
    assert network.head.weight is network.embed.weight


def test_tied_weights_as_safetensors_saves_a_model(tmp_path: Path) -> None:
    save_model(Tied(1), str(tmp_path / "w.safetensors"))
    assert same(filled(tmp_path / "w.safetensors", Tied(2))[0], Tied(1))


def test_batch_norms_without_a_counter(tmp_path: Path) -> None:
    state = {n: t for n, t in plain(1).state_dict().items() if not n.endswith("num_batches_tracked")}
    ordered = OrderedDict(state)
    ordered._metadata = plain(1).state_dict()._metadata  # type: ignore[attr-defined]
    for number, saved in enumerate((state, ordered)):
        torch.save(saved, tmp_path / f"{number}.pt")
        assert same(filled(tmp_path / f"{number}.pt", plain(2))[0], plain(1))


def test_what_strict_loading_takes_is_taken(tmp_path: Path) -> None:
    class Extra(nn.Linear):
        seen: object = None

        def get_extra_state(self) -> object:
            return {"calls": 3}

        def set_extra_state(self, state: object) -> None:
            self.seen = state

    class Scalar(nn.Module):
        def __init__(self, value: Tensor) -> None:
            super().__init__()
            self.scale = nn.Parameter(value)

    class Renamed(nn.Linear):
        def _load_from_state_dict(self, state_dict: dict[str, Tensor], prefix: str, *rest: object) -> None:
            if f"{prefix}kernel" in state_dict:
                state_dict[f"{prefix}weight"] = state_dict.pop(f"{prefix}kernel")
            super()._load_from_state_dict(state_dict, prefix, *rest)  # type: ignore[arg-type]

    torch.save(Extra(2, 3).state_dict(), tmp_path / "extra.pt")
    assert filled(tmp_path / "extra.pt", Extra(2, 3))[0].seen == {"calls": 3}
    torch.save(Scalar(torch.ones(1)).state_dict(), tmp_path / "scalar.pt")
    assert filled(tmp_path / "scalar.pt", Scalar(torch.tensor(0.0)))[0].scale.item() == 1
    weight = torch.randn(3, 2)
    torch.save({"kernel": weight, "bias": torch.zeros(3)}, tmp_path / "old.pt")
    assert torch.equal(filled(tmp_path / "old.pt", Renamed(2, 3))[0].weight, weight)
    half = {n: t.half() if t.is_floating_point() else t for n, t in plain(1).state_dict().items()}
    torch.save(half, tmp_path / "half.pt")
    assert filled(tmp_path / "half.pt", plain(2))[0].fc.weight.dtype == torch.float32


@pytest.mark.parametrize("kind", ["safetensors", "bin"])
@pytest.mark.parametrize("named", ["folder", "index"])
def test_shards_and_their_index(tmp_path: Path, kind: str, named: str) -> None:
    stem = "model" if kind == "safetensors" else "pytorch_model"
    placed: dict[str, str] = {}
    parts: dict[str, dict[str, Tensor]] = {}
    for number, (name, tensor) in enumerate(plain(1).state_dict().items()):
        file = f"{stem}-0000{number % 2}-of-00002.{kind}"
        placed[name] = file
        parts.setdefault(file, {})[name] = tensor
    for file, part in parts.items():
        save_file(part, tmp_path / file) if kind == "safetensors" else torch.save(part, tmp_path / file)
    index = tmp_path / f"{stem}.{kind}.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": placed}))
    path = tmp_path if named == "folder" else index
    assert same(filled(path, plain(2))[0], plain(1))
    assert len(files_of(path)) >= 3
    (tmp_path / min(parts)).unlink()
    with pytest.raises(BadInput, match=r"names the shard '.*' \(1 of 2\), which is not beside it"):
        read_state(path)
    index.write_text(json.dumps({"weight_map": {"a": "../../etc/passwd"}}))
    with pytest.raises(BadInput, match="not beside it"):
        read_state(path)
    index.write_text("[]")
    with pytest.raises(BadInput, match="no index of shards"):
        read_state(path)


@pytest.mark.parametrize("kind", ["safetensors", "bin"])
def test_a_tensor_is_that_of_the_shard_where_the_index_has_it(tmp_path: Path, kind: str) -> None:
    """Another shard may hold an old one of its name, and tensors that the index knows nothing of."""
    good, old = torch.ones(2, 2), torch.zeros(2, 2)
    shards = {"1": {"a": good, "b": old}, "2": {"a": old, "b": good, "rest": old}}
    for number, held in shards.items():
        part = {name: tensor.clone() for name, tensor in held.items()}
        file = tmp_path / f"{number}.{kind}"
        save_file(part, file) if kind == "safetensors" else torch.save(part, file)
    index = tmp_path / f"w.{kind}.index.json"
    index.write_text(json.dumps({"weight_map": {"a": f"1.{kind}", "b": f"2.{kind}"}}))
    state = read_state(index)
    assert state.keys() == {"a", "b"}
    assert all(torch.equal(tensor, good) for tensor in state.values())
    assert tensor_bytes(index) == 2 * 4 * 4
    index.write_text(json.dumps({"weight_map": {"a": f"1.{kind}", "rest": f"1.{kind}", "b": f"2.{kind}"}}))
    with pytest.raises(BadInput, match=r"names 'rest', which the shard 1\..* does not hold"):
        read_state(index)


def test_a_folder_in_hugging_faces_layout(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="folder without weights"):
        read_state(tmp_path)
    save_file(plain(1).state_dict(), tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text("{}")
    assert same(filled(tmp_path, plain(2))[0], plain(1))
    assert [file.name for file in files_of(tmp_path)] == ["config.json", "model.safetensors"]


@pytest.mark.parametrize("kind", ["F32", "F16", "Q8_0", "Q4_0"])
def test_gguf_is_dequantized(tmp_path: Path, kind: str) -> None:
    gguf = pytest.importorskip("gguf")
    path, values = tmp_path / "w.gguf", np.random.default_rng(0).normal(size=(6, 64)).astype(np.float32)
    writer = gguf.GGUFWriter(path, "llama")
    form = gguf.GGMLQuantizationType[kind]
    coded = gguf.quants.quantize(values, form)
    writer.add_tensor("blk.0.weight", coded, raw_dtype=form)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    (name, tensor), *more = read_state(path).items()
    assert (name, tuple(tensor.shape), tensor.dtype, more) == ("blk.0.weight", (6, 64), torch.float32, [])
    assert np.array_equal(tensor.numpy(), gguf.quants.dequantize(coded, form))
    # what is compressed is compared with the file that it came in, not with the float32 that it becomes
    assert Module(network="mine:network", checkpoint=str(path)).stored_bytes() == path.stat().st_size
    assert Module(network="mine:network").stored_bytes() is None
    assert np.abs(tensor.numpy() - values).max() < {"F32": 1e-9, "F16": 1e-2, "Q8_0": 0.03, "Q4_0": 0.5}[kind]
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(BadInput, match="no GGUF file that can be read"):
        read_state(path)


class Unknown:
    """A class that no checkpoint may make."""


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ({"epoch": 3}, "holds more than tensors and no state dict.*it holds epoch"),
        ([1, 2], "holds list, no state dict"),
        ({"model": Unknown()}, "holds a Python object, .*Unknown"),
        ({"optimizer": {"state": {}, "param_groups": []}}, "no state dict"),
        ({"a.weight": torch.zeros(2)}, "has no 'conv.weight'.*it holds a.weight where the network wants conv.weight"),
    ],
)
def test_what_cannot_be_used_is_told_in_one_line(tmp_path: Path, content: object, text: str) -> None:
    torch.save(content, tmp_path / "w.pt")
    with pytest.raises(BadInput, match=text) as caught:
        filled(tmp_path / "w.pt", plain())
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("prefix", ["", "module."])
@pytest.mark.parametrize(
    ("dtype", "told"),
    [
        (torch.complex64, "is complex64, and float32"),
        (torch.int8, r"is int8 \(codes, .*\), and"),
        (torch.bool, r"is bool \(codes"),
    ],
)
def test_numbers_of_another_kind_are_no_weights(tmp_path: Path, prefix: str, dtype: torch.dtype, told: str) -> None:
    state = {prefix + name: t.to(dtype) if name == "conv.weight" else t for name, t in plain().state_dict().items()}
    save_file(state, tmp_path / "w.safetensors")
    with pytest.raises(BadInput, match=rf"w.safetensors: '(module\.)?conv.weight' {told}"):
        filled(tmp_path / "w.safetensors", plain())
    for other in (torch.float16, torch.bfloat16, torch.float64):
        floats = {name: t.to(other) if t.is_floating_point() else t for name, t in plain().state_dict().items()}
        save_file(floats, tmp_path / "f.safetensors")
        filled(tmp_path / "f.safetensors", plain())


@pytest.mark.parametrize("suffix", [".pt", ".safetensors", ".gguf", ".bin"])
@pytest.mark.parametrize("data", [b"", b"no such format", b"\x80\x02}q\x00."])
def test_files_of_another_kind_are_told_in_one_line(tmp_path: Path, suffix: str, data: bytes) -> None:
    (tmp_path / f"w{suffix}").write_bytes(data)
    with pytest.raises(BadInput) as caught:
        filled(tmp_path / f"w{suffix}", plain())
    assert "\n" not in str(caught.value)
    assert f"w{suffix}" in str(caught.value)


@pytest.mark.parametrize("suffix", [".safetensors", ".gguf"])
def test_an_entry_of_a_file_without_entries_is_not_passed_over(tmp_path: Path, suffix: str) -> None:
    save_file(plain(1).state_dict(), tmp_path / f"w{suffix}")
    with pytest.raises(BadInput, match="has no entry 'ema': files of this kind hold one network"):
        read_state(tmp_path / f"w{suffix}", "ema")


@pytest.mark.parametrize(
    "text", ["hello world", "a,b\n1,2\n", "version https://git-lfs.github.com/spec/v1", "}", "0123"]
)
def test_a_text_is_no_checkpoint(tmp_path: Path, text: str) -> None:
    """Its letters are taken for the opcodes of a pickle, which fail in ways of their own."""
    (tmp_path / "w.pt").write_text(text)
    with pytest.raises(BadInput, match=r"w\.pt is no checkpoint: expected a file that torch\.save wrote"):
        read_state(tmp_path / "w.pt")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_checkpoint_is_as_large_as_its_tensors_in_their_own_dtypes(tmp_path: Path, dtype: torch.dtype) -> None:
    state = {name: t.to(dtype) if t.is_floating_point() else t for name, t in Tied().state_dict().items()}
    state["head.weight"] = state["embed.weight"]
    apart = {name: t for name, t in state.items() if name != "head.weight"}
    numbers = 7 * 4 + 4 * 4
    save_file(apart, tmp_path / "w.safetensors")
    torch.save({"model": state}, tmp_path / "w.pt")
    (tmp_path / "w.index.json").write_text(json.dumps({"weight_map": dict.fromkeys(apart, "w.safetensors")}))
    for name in ("w.safetensors", "w.pt", "w.index.json"):
        assert tensor_bytes(tmp_path / name) == numbers * dtype.itemsize + 8  # and the norm's counter


@pytest.mark.parametrize(("dtype", "own"), [(torch.float32, 4), (torch.bfloat16, 2), (torch.float64, 4)])
def test_the_own_ratio_is_to_a_half_precision_checkpoint_where_it_came_from_one(
    tmp_path: Path, dtype: torch.dtype, own: int
) -> None:
    (tmp_path / "halves.py").write_text("from torch import nn\n\ndef network():\n    return nn.Linear(6, 4)\n")
    save_file({n: t.to(dtype) for n, t in nn.Linear(6, 4).state_dict().items()}, tmp_path / "w.safetensors")
    model = Module(folder=str(tmp_path), network="halves:network", checkpoint="w.safetensors")
    assert Network.load(model, torch.device("cpu")).own_bytes() == own * (6 * 4 + 4)
