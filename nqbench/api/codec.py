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

    Example:
        >>> class Halves(Codec, name="halves"):
        ...     def compress(self, tensors, seed):
        ...         return b"".join(t.astype("<f2").tobytes() for t in tensors.values())
        ...     def decompress(self, data, shapes):
        ...         flat, at, found = np.frombuffer(data, "<f2").astype(np.float32), 0, {}
        ...         for name, shape in shapes.items():
        ...             size = int(np.prod(shape))
        ...             found[name] = flat[at : at + size].reshape(shape)
        ...             at += size
        ...         return found
        >>> data = Halves().compress({"w": np.float32([[1.0, 0.5]])}, seed=0)
        >>> len(data), Halves().decompress(data, {"w": (1, 2)})["w"].tolist()
        (4, [[1.0, 0.5]])
    """

    kind: ClassVar[str] = "codec"

    def weights_alone(self) -> bool:
        """Whether it takes only the tensors that a quantizer would; the others are then stored as other trials store
        theirs. By default it takes every float tensor that is not one constant."""
        return False

    def compress(self, tensors: Mapping[str, np.ndarray], seed: int) -> bytes:
        """Write the tensors.

        Args:
            tensors: those that it takes, float32, by name, in order; pruned weights are 0 in them.
            seed: the trial's, for a codec that draws.

        Returns:
            The bytes; everything that ``decompress`` needs but names and shapes.
        """
        raise NotImplementedError

    def decompress(self, data: bytes, shapes: Mapping[str, tuple[int, ...]]) -> Mapping[str, np.ndarray]:
        """Read them again; nothing about the bytes is to be trusted.

        Args:
            data: what ``compress`` gave, or any bytes.
            shapes: what the file's checked header says of the tensors, in order. A codec need not write them again, and
                must not allocate beyond a small multiple of them.

        Returns:
            The same names and shapes, float32.

        Raises:
            CorruptFile: the bytes are not a stream of this codec.
        """
        raise NotImplementedError

    def knob(self) -> Knob | None:
        """The parameter that trades bytes for quality."""
        return None
