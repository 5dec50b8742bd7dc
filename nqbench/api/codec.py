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
    """Compresses float tensors to bytes, and decompresses them. In a suite it takes the place of quantizer and coder.

    Its records have no entropy and no codebook. It is checked by decoding in two processes, which must agree exactly.

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
    """Whether it is lossless and keeps dtypes. If so, ``compress`` gets and ``decompress`` returns arrays of float32,
    float16 or float64, and for bfloat16 its bits as uint16. If not, both work on float32, whatever the network's dtype
    is."""

    def weights_alone(self) -> bool:
        """Whether it compresses only the tensors that a quantizer would; the others are then stored as in trials with
        a quantizer. By default it compresses every float tensor whose values are not all equal."""
        return False

    def array_of(self, tensor: Tensor) -> np.ndarray:
        """The array that ``compress`` is given for a tensor on the CPU."""
        if not self.exact:
            return tensor.to(torch.float32).numpy()
        whole = plain(tensor.detach())
        return (whole.view(torch.uint16) if tensor.dtype == torch.bfloat16 else whole).numpy()

    def tensor_of(self, array: np.ndarray, dtype: torch.dtype) -> Tensor:
        """A tensor of this dtype from an array of ``decompress``. Raises ValueError for an array of another dtype."""
        if not self.exact:
            return torch.from_numpy(np.array(array, dtype=np.float32)).to(dtype)
        whole = torch.from_numpy(np.array(array))
        if dtype == torch.bfloat16 and whole.dtype == torch.uint16:
            whole = whole.view(torch.bfloat16)
        if whole.dtype != dtype:
            raise ValueError(f"it gives {np.asarray(array).dtype} for a tensor of {str(dtype).removeprefix('torch.')}")
        return whole

    def compress(self, tensors: Mapping[str, np.ndarray], seed: int) -> bytes:
        """Compress tensors.

        Args:
            tensors: name -> array, in the order of the state, float32 unless the codec is ``exact``; pruned weights: 0.
            seed: the trial's seed, for a codec that draws random numbers.

        Returns:
            The bytes: all that ``decompress`` needs, except names and shapes.
        """
        raise NotImplementedError

    def decompress(self, data: bytes, shapes: Mapping[str, tuple[int, ...]]) -> Mapping[str, np.ndarray]:
        """Decompress tensors. The bytes may be damaged or hostile: nothing about them may be assumed.

        Args:
            data: what ``compress`` returned, or any other bytes.
            shapes: name -> shape, in order, from the file's checked header. A codec need not store shapes itself, and
                must not allocate more than a small multiple of these tensors' size.

        Returns:
            The same names, shapes and dtypes.

        Raises:
            CorruptFile: the bytes are not a stream of this codec.
        """
        raise NotImplementedError

    def knob(self) -> Knob | None:
        """The parameter that trades bytes for quality."""
        return None
