"""A stream of symbols inside a codec's bytes, by an entropy coder: ``int`` bytes of its table, ``int`` bytes of its
payload, and both (``int`` as in the file's specification, unsigned LEB128)."""

from __future__ import annotations

from typing import Literal

import numpy as np

from nqbench.api import Coder, CorruptFile, Encoded, Stream, StreamSpec
from nqbench.api.toolkit.bits import ByteReader, varint
from nqbench_coders.context import Context
from nqbench_coders.rans import Rans

Inner = Literal["context", "rans"]
"""``context`` for the fewest bytes, ``rans`` for speed."""


def inner_coder(name: Inner) -> Coder:
    return Context() if name == "context" else Rans()


def write_stream(coder: Coder, stream: Stream) -> bytes:
    coded = coder.encode(stream)
    return varint(len(coded.table)) + varint(len(coded.payload)) + coded.table + coded.payload


def read_stream(coder: Coder, reader: ByteReader, spec: StreamSpec) -> np.ndarray:
    """(count,) int32 symbols, each within the alphabet. Raises CorruptFile at the byte where the stream begins."""
    table, payload = (reader.varint(len(reader.data), "a stream's size") for _ in range(2))
    start, encoded = reader.offset, Encoded(reader.take(table), reader.take(payload))
    try:
        symbols = coder.decode(encoded, spec)
    except CorruptFile as error:
        raise CorruptFile(error.reason, offset=start) from None
    if symbols.size and not 0 <= int(symbols.min()) <= int(symbols.max()) < spec.alphabet:
        raise CorruptFile("a symbol lies outside its alphabet", offset=start)
    return symbols
