"""The inner loops of ``nqbench_coders.table``: an adaptive binary arithmetic coder and the model of a table."""

from __future__ import annotations

import numpy as np

from nqbench_coders.kernels import kernel

# contexts of the binary decisions
GAP = 0  # 2 x 25: unary part of the gap's Elias gamma code, by whether the last gap was 0
SAME = 50  # 3: is the class the same as the one before, by the sign of the last change
SIGN = 53  # 3: does it rise, by the same
SIZE = 56  # 32: unary part of the change's size
CONTEXTS = 88

FULL, OUTSIDE, BAD_CLASS, TOO_MANY, OVERFULL = 0, -1, -2, -3, -4


@kernel
def _learn(chance: np.ndarray, seen: np.ndarray, context: int, bit: int) -> None:
    """Moves a context's 16-bit chance of a 1 towards the bit, by 1/(n + 2) of the way at its n-th use."""
    p = chance[context]
    pace = seen[context] + 2
    p = p + (65536 - p) // pace if bit else p - p // pace
    chance[context] = min(max(p, 64), 65472)
    if seen[context] < 62:
        seen[context] += 1


@kernel
def _put(bit: int, p: int, state: np.ndarray, out: np.ndarray) -> None:
    """Codes a bit whose chance of being 1 is p / 65536. state: low, high (32 bits each), bytes written."""
    low, high = state[0], state[1]
    span = high - low
    middle = low + (span >> 16) * p + (((span & 65535) * p) >> 16)
    if bit:
        high = middle
    else:
        low = middle + 1
    while (low ^ high) >> 24 == 0:
        if state[2] < out.size:
            out[state[2]] = high >> 24
        state[2] += 1
        low = (low << 8) & 0xFFFFFFFF
        high = ((high << 8) & 0xFFFFFFFF) | 255
    state[0], state[1] = low, high


@kernel
def _put_modelled(
    bit: int, context: int, chance: np.ndarray, seen: np.ndarray, state: np.ndarray, out: np.ndarray
) -> None:
    _put(bit, chance[context], state, out)
    _learn(chance, seen, context, bit)


@kernel
def encode_table(used: np.ndarray, classes: np.ndarray, extra: np.ndarray, with_extra: bool, out: np.ndarray) -> int:
    """used: (m,) int64 rising; classes: (m,) int64 in [0, 32); extra: (m,) int64, its low ``class`` bits are written.

    Returns the bytes needed; ``out`` is complete if they fit.
    """
    chance = np.full(CONTEXTS, 32768, dtype=np.int64)
    seen = np.zeros(CONTEXTS, dtype=np.int64)
    state = np.array([0, 0xFFFFFFFF, 0], dtype=np.int64)
    last_symbol, last_class, trend, gapped = -1, 0, 0, 0
    for i in range(used.size):
        gap = used[i] - last_symbol
        bits = 0
        while gap >> (bits + 1):
            bits += 1
        for j in range(bits):
            _put_modelled(1, GAP + 25 * gapped + j, chance, seen, state, out)
        if bits < 24:
            _put_modelled(0, GAP + 25 * gapped + bits, chance, seen, state, out)
        for j in range(bits - 1, -1, -1):
            _put((gap >> j) & 1, 32768, state, out)
        gapped = 1 if bits else 0
        last_symbol = used[i]

        change = classes[i] - last_class
        if i == 0:
            for j in range(4, -1, -1):
                _put((classes[0] >> j) & 1, 32768, state, out)
        elif change == 0:
            _put_modelled(1, SAME + trend, chance, seen, state, out)
            trend = 0
        else:
            _put_modelled(0, SAME + trend, chance, seen, state, out)
            _put_modelled(1 if change > 0 else 0, SIGN + trend, chance, seen, state, out)
            trend = 1 if change > 0 else 2
            size = abs(change)
            for j in range(1, size):
                _put_modelled(1, SIZE + j, chance, seen, state, out)
            if size < 31:
                _put_modelled(0, SIZE + size, chance, seen, state, out)
        last_class = classes[i]
        if with_extra:
            for j in range(classes[i] - 1, -1, -1):
                _put((extra[i] >> j) & 1, 32768, state, out)
    # the fewest bytes that, followed by zeros, name a number in [low, high]
    low, high = state[0], state[1]
    for size in range(5):
        shift = 32 - 8 * size
        value = ((low + (1 << shift) - 1) >> shift) << shift
        if value <= high:
            for j in range(size):
                if state[2] < out.size:
                    out[state[2]] = (value >> (24 - 8 * j)) & 255
                state[2] += 1
            break
    return state[2]


@kernel
def _get(p: int, state: np.ndarray, data: np.ndarray) -> int:
    """state: low, high, value (32 bits each), bytes read, zeros past the end included."""
    low, high, value = state[0], state[1], state[2]
    span = high - low
    middle = low + (span >> 16) * p + (((span & 65535) * p) >> 16)
    if value <= middle:
        bit = 1
        high = middle
    else:
        bit = 0
        low = middle + 1
    while (low ^ high) >> 24 == 0:
        byte = data[state[3]] if state[3] < data.size else 0
        state[3] += 1
        low = (low << 8) & 0xFFFFFFFF
        high = ((high << 8) & 0xFFFFFFFF) | 255
        value = ((value << 8) & 0xFFFFFFFF) | byte
    state[0], state[1], state[2] = low, high, value
    return bit


@kernel
def _get_modelled(context: int, chance: np.ndarray, seen: np.ndarray, state: np.ndarray, data: np.ndarray) -> int:
    bit = _get(chance[context], state, data)
    _learn(chance, seen, context, bit)
    return bit


@kernel
def decode_table(
    data: np.ndarray,
    alphabet: int,
    target: int,
    with_extra: bool,
    used: np.ndarray,
    classes: np.ndarray,
    extra: np.ndarray,
) -> tuple[int, int, int]:
    """Fills used, classes and extra (all int64, of one size) until the entries' weights sum to ``target``.

    An entry weighs target >> class, or, ``with_extra``, 2^class + extra. Returns (status, entries, bytes read).
    """
    chance = np.full(CONTEXTS, 32768, dtype=np.int64)
    seen = np.zeros(CONTEXTS, dtype=np.int64)
    state = np.array([0, 0xFFFFFFFF, 0, 4], dtype=np.int64)
    for j in range(4):
        state[2] = (state[2] << 8) | (data[j] if j < data.size else 0)
    symbol, level, trend, gapped = -1, 0, 0, 0
    weight, i = 0, 0
    while weight < target:
        if i >= used.size:
            return TOO_MANY, i, state[3]
        bits = 0
        while bits < 24 and _get_modelled(GAP + 25 * gapped + bits, chance, seen, state, data):
            bits += 1
        gap = 1
        for _ in range(bits):
            gap = gap << 1 | _get(32768, state, data)
        gapped = 1 if bits else 0
        symbol += gap
        if symbol >= alphabet:
            return OUTSIDE, i, state[3]

        if i == 0:
            for _ in range(5):
                level = level << 1 | _get(32768, state, data)
        elif _get_modelled(SAME + trend, chance, seen, state, data):
            trend = 0
        else:
            rises = _get_modelled(SIGN + trend, chance, seen, state, data)
            trend = 1 if rises else 2
            size = 1
            while size < 31 and _get_modelled(SIZE + size, chance, seen, state, data):
                size += 1
            level += size if rises else -size
        if level < 0 or level > 31:
            return BAD_CLASS, i, state[3]
        rest = 0
        if with_extra:
            for _ in range(level):
                rest = rest << 1 | _get(32768, state, data)
            weight += (1 << level) + rest
        else:
            share = target >> level
            if share == 0:
                return BAD_CLASS, i, state[3]
            weight += share
        used[i], classes[i], extra[i] = symbol, level, rest
        i += 1
    return (FULL if weight == target else OVERFULL), i, state[3]
