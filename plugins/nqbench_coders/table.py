"""Which symbols a stream uses, and a small integer for each: the table of ``huffman`` and of ``rans``.

The model
---------
Entries come in rising order of symbol; there is no count: entries go on until their weights fill a target exactly
(prefix codes: 2^-length sums to 1, Kraft's equality; ``rans``: the frequencies sum to 2^precision). An entry is

1. the gap to the symbol before (the first: to -1), a positive integer in Elias gamma form: as many 1s as it has bits
   after its leading one, a 0 (left out after 24 ones), then those bits, highest first;
2. its class in [0, 32): the first as 5 bits; the others as one bit "the same as before", else one bit "higher" and
   the change's size in unary (size - 1 ones and a 0, which is left out after 30 ones);
3. for ``rans``, the ``class`` bits of the frequency after its leading one, highest first.

Every bit is coded by a binary arithmetic coder with the chance p / 65536 that it is 1. The plain bits (of a gap after
its unary part, of the first class, of a frequency) have p = 32768. The others have contexts: the j-th unary bit of a
gap, by whether the gap before was above 1; "the same" and "higher", each by the last change (none, up, down); the j-th
unary bit of a change's size. The first gap is coded as if the one before had been 1; the first class is no change, and
the second is coded as if the last change had been none. A context begins with p = 32768, n = 0; after a bit, p grows
by (65536 - p) // (n + 2) if it was 1 and falls by p // (n + 2) if it was 0, is held within [64, 65472], and n grows by
1 up to 62.

The arithmetic coder
--------------------
Two 32-bit numbers, low = 0 and high = 2^32 - 1. With span = high - low, a bit's border is middle = low + (span >> 16) p
+ ((span & 65535) p >> 16); a 1 sets high = middle, a 0 sets low = middle + 1. While the top bytes of low and high
agree, that byte is written, and both are shifted up by 8 bits, low filling with 0s, high with 1s. At the end come the
fewest bytes that, followed by zeros, name a number in [low, high]. The decoder reads zeros past the end.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from nqbench.api import CorruptFile

_BLOCK = 1 << 10
"""Number of entries converted to decisions at a time."""

_TOO_MANY = -3
_REASONS = {
    -1: "the table names a symbol outside the alphabet",
    -2: "the table has an impossible code length or frequency",
    _TOO_MANY: "the table has more entries than the stream has symbols",
    -4: "the table's lengths or frequencies sum to too much",
}


@dataclass(frozen=True)
class Table:
    """used: (m,) int64 symbols that occur, ascending; classes: (m,) int64; extra: (m,) int64."""

    used: np.ndarray
    classes: np.ndarray
    extra: np.ndarray


def write_table(used: np.ndarray, classes: np.ndarray, extra: np.ndarray | None = None) -> bytes:
    """used, classes, extra: (m,) int64."""
    from nqbench_coders.kernels.table import MOST_DECISIONS, code, fresh_model, fresh_state, last_bytes, spell

    rest = used if extra is None else extra
    model, state = fresh_model(), fresh_state()
    memory = np.array([-1, -1, 0, 0])
    room = min(used.size, _BLOCK) * MOST_DECISIONS
    decisions = np.empty(room, dtype=np.int16)
    out = np.empty(2 * room + 8, dtype=np.uint8)  # a decision takes at most 10 bits
    parts = []
    for start in range(0, used.size, _BLOCK):
        block = slice(start, start + _BLOCK)
        size = spell(used[block], classes[block], rest[block], extra is not None, memory, decisions)
        code(decisions[:size], model, state, out)
        parts.append(out[: state[2]].tobytes())
        state[2] = 0
    return b"".join([*parts, last_bytes(state)])


def read_table(data: bytes, alphabet: int, count: int, target: int, with_extra: bool, start: int = 0) -> Table:
    """count: number of symbols of the stream, which bounds the number of entries (24 bytes each) in memory. The table
    begins at the byte ``start`` of ``data``. Raises CorruptFile of the section ``coder_table``.
    """
    from nqbench_coders.kernels.table import decode_table, fresh_model, fresh_state

    raw = np.frombuffer(data, dtype=np.uint8)[start:]
    most = min(alphabet, count)
    room = min(256, most)
    while True:
        arrays = [np.empty(room, dtype=np.int64) for _ in range(3)]
        state = fresh_state()
        status, entries = decode_table(raw, alphabet, target, with_extra, *arrays, fresh_model(), state)
        if status != _TOO_MANY or room == most:
            break
        room = min(16 * room, most)
    offset = start + int(state[3])
    if status:
        raise CorruptFile(_REASONS[status], section="coder_table", offset=min(offset, len(data)))
    if len(data) > offset:
        raise CorruptFile(f"{len(data) - offset} bytes follow the table's end", section="coder_table", offset=offset)
    return Table(*(array[:entries] for array in arrays))
