"""Checks of codecs: names and shapes come back, the values are the same wherever they are decoded."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from nqbench.api import Codec, CorruptFile
from nqbench.testing.check import Failed, check, require
from nqbench.testing.other_process import call_in_other_process
from nqbench.testing.sources import laplace


def state() -> dict[str, np.ndarray]:
    """Float tensors of a small network, one with pruned weights, one all zero, one constant, one of one entry."""
    pruned = laplace(16, 24, seed=1).numpy()
    pruned[np.abs(pruned) < 0.03] = 0.0
    return {
        "convolution.weight": laplace(8, 4, 3, 3).numpy(),
        "convolution.bias": laplace(8, seed=4).numpy(),
        "linear.weight": pruned,
        "linear.bias": np.zeros(16, dtype=np.float32),
        "norm.running_var": np.ones(16, dtype=np.float32),
        "scale": np.array([0.5], dtype=np.float32),
    }


def shapes() -> dict[str, tuple[int, ...]]:
    return {name: value.shape for name, value in state().items()}


def _are_tensors(back: object, tensors: Mapping[str, np.ndarray], of: str) -> None:
    if not isinstance(back, Mapping):
        raise Failed(f"{of}: decompress returns {type(back).__name__}, not a mapping")
    require(set(back) == set(tensors), f"{of}: other tensors come back: {sorted(set(back) ^ set(tensors))}")
    for name, value in tensors.items():
        good = isinstance(back[name], np.ndarray) and back[name].dtype == np.float32
        require(good, f"{of}: '{name}' is not a float32 array")
        require(back[name].shape == value.shape, f"{of}: '{name}' has the shape {back[name].shape}, not {value.shape}")
        require(np.isfinite(back[name]).all(), f"{of}: '{name}' has values that are not finite")


@check("codec")
def tensors_round_trip(codec: Codec) -> None:
    """Every tensor comes back under its name, in its shape, float32 and finite."""
    data = codec.compress(state(), 0)
    require(isinstance(data, bytes), f"compress returns {type(data).__name__}, not bytes")
    _are_tensors(codec.decompress(data, shapes()), state(), "state")


@check("codec")
def compression_is_pure(codec: Codec) -> None:
    """Compressing twice under one seed gives the same bytes, and leaves the tensors untouched."""
    tensors = state()
    first = codec.compress(tensors, 5)
    require(codec.compress(state(), 5) == first, "a second compression has other bytes")
    untouched = all(np.array_equal(tensors[name], value) for name, value in state().items())
    require(untouched and list(tensors) == list(state()), "compression changes its input in place")
    if not codec.uses_seed():
        require(codec.compress(state(), 6) == first, "uses_seed() says no, yet another seed gives other bytes")


@check("codec")
def decompressed_elsewhere(codec: Codec) -> None:
    """Two processes decode the same tensors, to the bit."""
    data = codec.compress(state(), 0)
    theirs = call_in_other_process(_decompress, codec, data)
    for name, value in codec.decompress(data, shapes()).items():
        same = name in theirs and np.array_equal(value.view(np.uint32), theirs[name].view(np.uint32))
        require(same, f"another process decodes another '{name}'")


def _decompress(codec: Codec, data: bytes) -> dict[str, np.ndarray]:
    return dict(codec.decompress(data, shapes()))


@check("codec")
def corrupt_codec_bytes(codec: Codec) -> None:
    """Bytes cut short, changed or made up raise CorruptFile, or give float32 arrays; nothing else."""
    data = codec.compress(state(), 0)
    rng = np.random.default_rng(0)
    tries = {"no bytes": b"", "random bytes": rng.bytes(300), "the first half": data[: len(data) // 2]}
    for place in [0, 1, 2, 3, 8, *rng.integers(0, len(data), 12).tolist()]:
        if place < len(data):
            bad = bytes([data[place] ^ 1 << int(rng.integers(0, 8))])
            tries[f"byte {place} changed"] = data[:place] + bad + data[place + 1 :]
    for of, bytes_ in tries.items():
        try:
            back = codec.decompress(bytes_, shapes())
        except CorruptFile:
            continue
        except Exception as error:
            raise Failed(f"{of}: raises {type(error).__name__} ({error}), not CorruptFile") from error
        arrays = isinstance(back, Mapping) and all(
            isinstance(v, np.ndarray) and v.dtype == np.float32 for v in back.values()
        )
        require(arrays, f"{of}: decodes to something that is not float32 arrays by name")


@check("codec", when=lambda codec: codec.knob() is not None)
def codec_knob(codec: Codec) -> None:
    """The knob names a parameter, both ends of its range are valid, and more bytes are where it says."""
    knob = codec.knob()
    assert knob is not None
    require(knob.field in type(codec).model_fields, f"the knob turns '{knob.field}', which is no parameter")
    require(knob.low < knob.high, f"the knob's range is empty: {knob.low} to {knob.high}")
    sizes = []
    for value in (knob.low, knob.high):
        turned = {**codec.model_dump(), knob.field: round(value) if knob.integer else value}
        sizes.append(len(type(codec).model_validate(turned).compress(state(), 0)))
    rises = sizes[0] < sizes[1] if knob.more_bytes == "up" else sizes[0] > sizes[1]
    require(
        rises,
        f"'{knob.field}' says more_bytes='{knob.more_bytes}', yet {knob.low:g} gives {sizes[0]} bytes and "
        f"{knob.high:g} gives {sizes[1]}",
    )
