"""Fixed-length codes: the published papers' baseline.

Bitstream: the table is empty; the payload has ceil(log2 alphabet) bits per symbol, lowest bit first, bits filling bytes
from the lowest up, the last byte filled with 0s (``nqbench.api.toolkit.bits.pack_bits``).
"""

from __future__ import annotations

import numpy as np

from nqbench.api import Coder, CorruptFile, Encoded, Stream, StreamSpec, check_decoded
from nqbench.api.toolkit.bits import bit_width, pack_bits, unpack_bits


class Raw(Coder, name="raw"):
    """ceil(log2 k) bits per symbol."""

    def encode(self, stream: Stream) -> Encoded:
        return Encoded(b"", pack_bits(stream.symbols, bit_width(stream.spec.alphabet)))

    def decode(self, encoded: Encoded, spec: StreamSpec) -> np.ndarray:
        if encoded.table:
            raise CorruptFile("this coder has no table", section="coder_table", offset=0)
        return check_decoded(unpack_bits(encoded.payload, bit_width(spec.alphabet), spec.count), spec)

    def rate(self, counts: np.ndarray) -> np.ndarray:
        return np.full(np.asarray(counts).size, float(bit_width(np.asarray(counts).size)))
