"""Random codes: codewords that encoder and decoder draw alike from a seed, so that a file holds only their numbers
(minimal random code learning, 1810.00440, section 3.1).

n weights are shuffled and cut into blocks of d, the last one shorter. A code has k codewords of d independent numbers
of mean 0 and variance 1; a block is one of them, times the scale of the tensor that each weight belongs to:

    value_i = scale[t(i)] * codeword[symbol of i's block][i's place in it]

The shuffle spreads each tensor over all blocks, so that all of them have about as much to say. The codewords are the
same for all blocks.

Everything is whole numbers but for two products, each rounded once to float32, so that all machines draw the same:
number j of codeword c is (s - 2040) / 295.6, s the sum of the 16 bytes of the output of Philox4x32-10
(``nqbench.api.philox``) for the counter (i mod 2^32, i div 2^32, 0, 0), i = c d + j: a sum of 16 uniform numbers, which
is normal but for an excess kurtosis of -0.075, and at most 6.9. Weight i is at the place that its key has among the
sorted keys of all, equal ones in order: the key is the first two words for (i mod 2^32, i div 2^32, 1, 0).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from nqbench.api.chunks import in_chunks
from nqbench.api.errors import BadInput
from nqbench.api.philox import compiled, outputs
from nqbench.api.quantized import Quantized

MOST_CODEWORDS = 1 << 20
LONGEST = 1 << 16
_AT_ONCE = 1 << 18
_MIDDLE = 16 * 255 // 2
_DEVIATION = math.sqrt(16 * (256**2 - 1) / 12)


@dataclass(frozen=True)
class RandomCode:
    """A code of a group of tensors.

    Args:
        seed: 0 <= seed < 2^63.
        alphabet: number of codewords, k.
        d: weights in a block.
        sizes: kept weights per tensor.

    Example:
        >>> code = RandomCode(seed=1, alphabet=4, d=3, sizes=(5, 2))
        >>> code.blocks, tuple(code.codewords(0, 4).shape), sorted(code.order().tolist())
        (3, (4, 3), [0, 1, 2, 3, 4, 5, 6])
    """

    seed: int
    alphabet: int
    d: int
    sizes: tuple[int, ...]

    @property
    def n(self) -> int:
        """Number of weights."""
        return sum(self.sizes)

    @property
    def blocks(self) -> int:
        return -(-self.n // self.d)

    def result(self, symbols: Tensor, scale: Tensor) -> Quantized:
        """symbols: (blocks,) whole numbers. scale: (tensors,) float32. The codebook is stored empty, (0, d): its shape
        tells the decoder d."""
        return Quantized(
            symbols.to(torch.int32),
            self.alphabet,
            self.sizes,
            {"scale": scale},
            {"codebook": torch.empty(0, self.d, device=scale.device), "seed": self.seed},
            form="plugin",
        )

    @classmethod
    def of(cls, quantized: Quantized) -> RandomCode:
        """The code of a result. Raises BadInput where it has none, or one that cannot be."""
        seed, book, d = quantized.side.get("seed"), quantized.side.get("codebook"), quantized.dimension
        scale = quantized.parameters.get("scale")
        if (
            quantized.form != "plugin"
            or not isinstance(seed, int)
            or not isinstance(book, Tensor)
            or book.dim() != 2
            or len(book)
        ):
            raise BadInput(
                "expected a random code: the form 'plugin', a whole number 'seed', an empty 'codebook' (0, d)"
            )
        if not 1 <= d <= LONGEST or not 1 <= quantized.alphabet <= MOST_CODEWORDS or seed < 0:
            raise BadInput(
                f"a random code of {quantized.alphabet} codewords of {d} numbers, seed {seed}: at most "
                f"{MOST_CODEWORDS} of at most {LONGEST} are possible, by a seed that is not negative"
            )
        code = cls(seed, quantized.alphabet, d, quantized.sizes)
        if quantized.symbols.numel() != code.blocks or scale is None or scale.shape != (len(code.sizes),):
            raise BadInput(
                f"a random code of {code.n} weights in blocks of {d} has {code.blocks} symbols and a scale for each of "
                f"its {len(code.sizes)} tensors; found {quantized.symbols.numel()} symbols"
            )
        if not bool(torch.isfinite(scale).all()):
            raise BadInput("a random code has a scale that is not finite")
        return code

    def order(self, device: torch.device | str = "cpu") -> Tensor:
        """(n,) int64: which weight is at each place."""
        if compiled(self.n, device):
            from nqbench.api import philox_kernels

            found = np.empty(self.n, dtype=np.int64)
            in_chunks(self.n, lambda at: philox_kernels.keys(np.uint64(self.seed), at.start, found[at]))
            return torch.from_numpy(np.argsort(found, kind="stable"))
        keys = torch.empty(self.n, dtype=torch.int64, device=device)
        for start in range(0, self.n, _AT_ONCE):
            at = torch.arange(start, min(start + _AT_ONCE, self.n), device=device)
            first, second, _, _ = outputs(self.seed, at, stream=1)
            keys[start : start + _AT_ONCE] = (first << 31) | (second >> 1)
        return torch.sort(keys, stable=True).indices

    def codewords(self, start: int, stop: int, device: torch.device | str = "cpu") -> Tensor:
        """(stop - start, d) float32."""
        numbers = torch.empty((stop - start) * self.d, dtype=torch.float32, device=device)
        for first in range(0, numbers.numel(), _AT_ONCE):
            some = numbers[first : first + _AT_ONCE]
            at = torch.arange(start * self.d + first, start * self.d + first + some.numel(), device=device)
            some.copy_(self._numbers(at))
        return numbers.reshape(-1, self.d)

    def drawn(self, symbols: Tensor) -> Tensor:
        """(n,) float32, before the scales: each weight's number of its block's codeword, in the weights' own order."""
        device = symbols.device
        order = self.order(device)
        out = torch.empty(self.n, dtype=torch.float32, device=device)
        for start in range(0, self.n, _AT_ONCE):
            place = torch.arange(start, min(start + _AT_ONCE, self.n), device=device)
            at = symbols[place // self.d].long() * self.d + place % self.d
            out[order[start : start + _AT_ONCE]] = self._numbers(at)
        return out

    def values(self, symbols: Tensor, scale: Tensor) -> Tensor:
        """(n,) float32. symbols: (blocks,). scale: (tensors,), in which the result is differentiable."""
        return self.spread(scale) * self.drawn(symbols)

    def spread(self, by_tensor: Tensor) -> Tensor:
        """(n,) the entry of each weight's tensor."""
        # an index's gradient would be added up in any order on a GPU
        return torch.cat([one.expand(size) for one, size in zip(by_tensor.unbind(), self.sizes, strict=True)])

    def in_blocks(self, values: Tensor, order: Tensor) -> Tensor:
        """(blocks, d) of (n,) values; 0 where the last block ends before. order: that of ``order``."""
        shuffled = values[order]
        return torch.nn.functional.pad(shuffled, (0, self.blocks * self.d - self.n)).reshape(self.blocks, self.d)

    def _numbers(self, at: Tensor) -> Tensor:
        total = torch.zeros_like(at)
        if compiled(at.numel(), at.device):
            from nqbench.api import philox_kernels

            philox_kernels.bytes_summed(np.uint64(self.seed), at.numpy(), total.numpy())
        else:
            for word in outputs(self.seed, at):
                for byte in range(4):
                    total += word >> 8 * byte & 0xFF
        unit = torch.tensor(1 / _DEVIATION, dtype=torch.float32, device=at.device)
        return (total - _MIDDLE).to(torch.float32) * unit


def reconstructed(quantized: Quantized, parameters: Mapping[str, Tensor] | None = None) -> Tensor:
    """(n,) float32, by ``RandomCode.values``. parameters: take the place of the result's own. Raises BadInput."""
    code = RandomCode.of(quantized)
    found = quantized.parameters if parameters is None else parameters
    return code.values(quantized.symbols, found["scale"].to(torch.float32))
