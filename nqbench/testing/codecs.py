"""Checks of codecs: names and shapes come back, the values are the same wherever they are decoded."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from nqbench.api import Codec, CorruptFile
from nqbench.testing.check import Failed, check, require
from nqbench.testing.other_process import call_in_other_process
from nqbench.testing.sources import laplace


def state(codec: Codec) -> dict[str, np.ndarray]:
    """Float tensors of a small network, one with pruned weights, one all zero, one constant, one of one entry. For an
    exact codec also in the other dtypes, and with what is no number."""
    pruned = laplace(16, 24, seed=1).numpy()
    pruned[np.abs(pruned) < 0.03] = 0.0
    tensors = {
        "convolution.weight": laplace(8, 4, 3, 3).numpy(),
        "convolution.bias": laplace(8, seed=4).numpy(),
        "linear.weight": pruned,
        "linear.bias": np.zeros(16, dtype=np.float32),
        "norm.running_var": np.ones(16, dtype=np.float32),
        "scale": np.array([0.5], dtype=np.float32),
    }
    if codec.exact:
        rng = np.random.default_rng(2)
        tensors |= {
            f"{d.__name__}.weight": (0.1 * rng.laplace(size=(12, 9))).astype(d) for d in (np.float16, np.float64)
        }
        tensors["bfloat16.weight"] = (tensors["convolution.weight"].view(np.uint32) >> 16).astype(np.uint16)
        for width, name in ((16, "float16"), (16, "bfloat16"), (32, "float32"), (64, "float64")):
            bits = rng.integers(0, 1 << width, (5, 7), dtype=np.uint64).astype(f"uint{width}")
            bits[0] = 1 << (width - 1)  # -0
            tensors[f"{name}.bits"] = bits if name == "bfloat16" else bits.view(name)
    return tensors


def shapes(codec: Codec) -> dict[str, tuple[int, ...]]:
    return {name: value.shape for name, value in state(codec).items()}


def _same(a: np.ndarray, b: np.ndarray) -> bool:
    """To the bit, whatever is no number."""
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()


def _are_tensors(codec: Codec, back: object, tensors: Mapping[str, np.ndarray], of: str) -> None:
    if not isinstance(back, Mapping):
        raise Failed(f"{of}: decompress returns {type(back).__name__}, not a mapping")
    require(set(back) == set(tensors), f"{of}: other tensors come back: {sorted(set(back) ^ set(tensors))}")
    for name, value in tensors.items():
        good = isinstance(back[name], np.ndarray) and back[name].dtype == value.dtype
        require(good, f"{of}: '{name}' is not a {value.dtype} array")
        require(back[name].shape == value.shape, f"{of}: '{name}' has the shape {back[name].shape}, not {value.shape}")
        if codec.exact:
            require(_same(back[name], value), f"{of}: an exact codec changes '{name}'")
        else:
            require(np.isfinite(back[name]).all(), f"{of}: '{name}' has values that are not finite")


@check("codec")
def tensors_round_trip(codec: Codec) -> None:
    """Every tensor comes back under its name, in its shape and dtype, and finite, or of an exact codec to the bit."""
    data = codec.compress(state(codec), 0)
    require(isinstance(data, bytes), f"compress returns {type(data).__name__}, not bytes")
    _are_tensors(codec, codec.decompress(data, shapes(codec)), state(codec), "state")


@check("codec")
def compression_is_pure(codec: Codec) -> None:
    """Compressing twice under one seed gives the same bytes, and leaves the tensors untouched."""
    tensors = state(codec)
    first = codec.compress(tensors, 5)
    require(codec.compress(state(codec), 5) == first, "a second compression has other bytes")
    untouched = all(_same(tensors[name], value) for name, value in state(codec).items())
    require(untouched and list(tensors) == list(state(codec)), "compression changes its input in place")
    if not codec.uses_seed():
        require(codec.compress(state(codec), 6) == first, "uses_seed() says no, yet another seed gives other bytes")


@check("codec")
def decompressed_elsewhere(codec: Codec) -> None:
    """Two processes decode the same tensors, to the bit."""
    data = codec.compress(state(codec), 0)
    theirs = call_in_other_process(_decompress, codec, data)
    for name, value in codec.decompress(data, shapes(codec)).items():
        require(name in theirs and _same(value, theirs[name]), f"another process decodes another '{name}'")


def _decompress(codec: Codec, data: bytes) -> dict[str, np.ndarray]:
    return dict(codec.decompress(data, shapes(codec)))


@check("codec")
def corrupt_codec_bytes(codec: Codec) -> None:
    """Bytes cut short, changed or made up raise CorruptFile, or give arrays of floats; nothing else."""
    data = codec.compress(state(codec), 0)
    rng = np.random.default_rng(0)
    tries = {"no bytes": b"", "random bytes": rng.bytes(300), "the first half": data[: len(data) // 2]}
    for place in [0, 1, 2, 3, 8, *rng.integers(0, len(data), 12).tolist()]:
        if place < len(data):
            bad = bytes([data[place] ^ 1 << int(rng.integers(0, 8))])
            tries[f"byte {place} changed"] = data[:place] + bad + data[place + 1 :]
    for of, bytes_ in tries.items():
        try:
            back = codec.decompress(bytes_, shapes(codec))
        except CorruptFile:
            continue
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            raise Failed(f"{of}: raises {type(error).__name__} ({error}), not CorruptFile") from error
        arrays = isinstance(back, Mapping) and all(
            isinstance(v, np.ndarray) and (codec.exact or v.dtype == np.float32) for v in back.values()
        )
        require(arrays, f"{of}: decodes to something that is not arrays of floats by name")


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
        sizes.append(len(type(codec).model_validate(turned).compress(state(codec), 0)))
    rises = sizes[0] < sizes[1] if knob.more_bytes == "up" else sizes[0] > sizes[1]
    require(
        rises,
        f"'{knob.field}' says more_bytes='{knob.more_bytes}', yet {knob.low:g} gives {sizes[0]} bytes and "
        f"{knob.high:g} gives {sizes[1]}",
    )
