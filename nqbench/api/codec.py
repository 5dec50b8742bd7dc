"""The contract of a codec: a published method that quantizes and codes in one piece."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from nqbench.api.plain import plain
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

    exact: ClassVar[bool] = False
    """Whether it gives back every bit of tensors in their own dtypes. ``compress`` then gets, and ``decompress`` gives,
    arrays of float32, float16, float64, and for bfloat16 its bits as uint16; without, float32 whatever the network is
    in."""

    def weights_alone(self) -> bool:
        """Whether it takes only the tensors that a quantizer would; the others are then stored as other trials store
        theirs. By default it takes every float tensor that is not one constant."""
        return False

    def array_of(self, tensor: Tensor) -> np.ndarray:
        """What ``compress`` gets of a tensor on the CPU."""
        if not self.exact:
            return tensor.to(torch.float32).numpy()
        whole = plain(tensor.detach())
        return (whole.view(torch.uint16) if tensor.dtype == torch.bfloat16 else whole).numpy()

    def tensor_of(self, array: np.ndarray, dtype: torch.dtype) -> Tensor:
        """A tensor of this dtype, of what ``decompress`` gives. ValueError if its bits are those of another dtype."""
        if not self.exact:
            return torch.from_numpy(np.array(array, dtype=np.float32)).to(dtype)
        whole = torch.from_numpy(np.array(array))
        if dtype == torch.bfloat16 and whole.dtype == torch.uint16:
            whole = whole.view(torch.bfloat16)
        if whole.dtype != dtype:
            raise ValueError(f"it gives {np.asarray(array).dtype} for a tensor of {str(dtype).removeprefix('torch.')}")
        return whole

    def compress(self, tensors: Mapping[str, np.ndarray], seed: int) -> bytes:
        """Write the tensors.

        Args:
            tensors: those that it takes, float32 unless it is ``exact``, by name, in order; pruned weights are 0.
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
            The same names, shapes and dtypes.

        Raises:
            CorruptFile: the bytes are not a stream of this codec.
        """
        raise NotImplementedError

    def knob(self) -> Knob | None:
        """The parameter that trades bytes for quality."""
        return None
