"""The contract of a codec: a published method that quantizes and codes in one piece."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import numpy as np

from nqbench.api.plugin import Plugin
from nqbench.api.quantizer import Knob


class Codec(Plugin):
    """Float tensors -> bytes -> float tensors. Stands in a suite where a quantizer and a coder would.

    Its records have no entropy and no codebook; its check is that two processes decode the same tensors.
    """

    kind: ClassVar[str] = "codec"

    def weights_alone(self) -> bool:
        """Whether it takes only the tensors that a quantizer would; the others are then stored as other trials store
        theirs. By default it takes every float tensor that is not one constant."""
        return False

    def compress(self, tensors: Mapping[str, np.ndarray], seed: int) -> bytes:
        """tensors: those that it takes, float32, by name, in order (pruned weights are 0 in them)."""
        raise NotImplementedError

    def decompress(self, data: bytes, shapes: Mapping[str, tuple[int, ...]]) -> Mapping[str, np.ndarray]:
        """The same names and shapes, float32; ``CorruptFile`` if the bytes are not a stream of this codec.

        shapes: what the file's checked header says of the tensors, in order: a codec need not write them again, and
        must not allocate beyond a small multiple of them.
        """
        raise NotImplementedError

    def knob(self) -> Knob | None:
        """The parameter that trades bytes for quality."""
        return None
