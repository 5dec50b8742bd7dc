"""NNCodec, the public implementation of ISO/IEC 15938-17 (neural network coding), for comparison.

Dependent quantization with eight states, rate-distortion optimization, and DeepCABAC (Becking et al. 2023). Needs the
package `nncodec` (extra ``nncodec``), which is compiled on installation and requires an older numpy than it needs:
``pip install "nqbench[nncodec]"`` and then ``pip install -c constraints.txt numpy torch``.

The codec's stream is preceded by its CRC-32 (four bytes), since the library's decoder does not check its input.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import zlib
from collections.abc import Iterator, Mapping
from functools import cache
from types import ModuleType
from typing import Any, Literal

import numpy as np
import torch
from pydantic import Field

from nqbench.api import Codec, CorruptFile, Knob

_CHECKSUM = 4
_FINE = -75
"""The library's default qp for tensors of one dimension, at density 2."""


class NNCodec(
    Codec, name="nncodec", requires="nncodec", paper="ISO/IEC 15938-17; Becking et al., NNCodec, ICML 2023 workshop"
):
    """Neural network coding by the package nncodec: trellis quantization and DeepCABAC, with one qp for all tensors."""

    qp: int = Field(-38, ge=-320, le=0)
    """Quantization parameter: the step doubles every 2^density."""
    density: int = Field(2, ge=2, le=4)
    """Resolution of the steps: 2^density values per octave. The standard's default is 2."""
    dependent: bool = True
    """Whether to use dependent quantization with eight states instead of a uniform grid."""
    lambda_scale: float = Field(0.0, ge=0)
    """Weight of the rate in the rate-distortion optimization of levels."""
    tensors: Literal["all", "weights"] = "all"
    """``weights``: only the tensors that a quantizer would compress. For tensors of one dimension, the library uses a
    fine grid, which on ResNet-32 takes twice the bytes of float16."""

    def weights_alone(self) -> bool:
        return self.tensors == "weights"

    def compress(self, tensors: Mapping[str, np.ndarray], seed: int) -> bytes:
        plain = {name: np.array(array, dtype=np.float32) for name, array in tensors.items()}
        with _quiet():
            stream = _library().compress(
                plain,
                bitstream_path=None,
                return_bitstream=True,
                qp=self.qp,
                qp_density=self.density,
                nonweight_qp=_FINE * self._octave // 4,
                use_dq=self.dependent,
                lambda_scale=self.lambda_scale,
            )
        data = bytes(stream)
        return zlib.crc32(data).to_bytes(_CHECKSUM, "little") + data

    def decompress(self, data: bytes, shapes: Mapping[str, tuple[int, ...]]) -> Mapping[str, np.ndarray]:
        stream = data[_CHECKSUM:]
        if zlib.crc32(stream).to_bytes(_CHECKSUM, "little") != data[:_CHECKSUM] or not stream:
            raise CorruptFile("the stream's checksum is wrong", offset=0)
        try:
            with _quiet():
                back = _library().decompress(bytearray(stream))
        except Exception as error:
            raise CorruptFile(f"nncodec cannot decode the stream: {type(error).__name__}: {error}") from error
        return {name: np.array(array, dtype=np.float32) for name, array in back.items()}

    def knob(self) -> Knob:
        return Knob("qp", -12 * self._octave, -3 * self._octave, "linear", integer=True, more_bytes="down")

    @property
    def _octave(self) -> int:
        return 1 << self.density


@cache
def _library() -> ModuleType:
    """The package's compression module, imported once."""
    _import_torchvision()
    from nncodec import nnc

    module: ModuleType = nnc
    return module


def _import_torchvision() -> None:
    """nncodec imports torchvision, which fails beside a torch that it was not built for (the CPU build, or another
    version): its compiled operators are missing. In that case, two operators that torchvision looks up are declared
    here; nncodec never calls them. If they exist, declaring them first would make torchvision's library abort the
    process."""
    try:
        importlib.import_module("torchvision")
    except RuntimeError:
        for name in ("nms", "qnms"):
            with contextlib.suppress(RuntimeError):  # it exists
                library: Any = torch.library.Library("torchvision", "FRAGMENT")  # type: ignore[no-untyped-call]
                library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
                _kept.append(library)
        importlib.import_module("torchvision")


_kept: list[Any] = []
"""The library object must be kept alive for its operators to exist."""


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Suppress the library's progress output."""
    with contextlib.redirect_stdout(io.StringIO()):
        yield
