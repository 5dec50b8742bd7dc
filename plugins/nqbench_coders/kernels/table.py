"""The inner loops of ``nqbench_coders.table``: an adaptive binary arithmetic coder and the model of a table.

The arithmetic coder is inlined at only one place of the encoder and one of the decoder: with a call per decision the
code would be easier to read, but took ten seconds to compile. So the encoder first converts a block of entries to
decisions, and the decoder is a state machine whose states are the parts of an entry.
"""

from __future__ import annotations

import numpy as np

from nqbench_coders.kernels import kernel

# contexts of the binary decisions
GAP = 0  # 2 x 25: unary part of the gap's Elias gamma code, for a last gap of 1 and for larger ones
SAME = 50  # 3: is the class the same as the one before, given the last change
RISES = 53  # 3: is it higher, given the same
SIZE = 56  # 32: unary part of the size of the change
PLAIN = 88  # probability 1/2, not adaptive
CONTEXTS = 89

# spelling memory
SYMBOL, CLASS, TREND, GAPPED = 0, 1, 2, 3

FULL, OUTSIDE, BAD_CLASS, TOO_MANY, OVERFULL = 0, -1, -2, -3, -4
MOST_DECISIONS = 25 + 24 + 1 + 1 + 32 + 31
"""Of one entry."""


def fresh_model() -> np.ndarray:
    """(2 CONTEXTS,) int64: the 16-bit probability of a 1 in each context, then the number of uses of each."""
    model = np.zeros(2 * CONTEXTS, dtype=np.int64)
    model[:CONTEXTS] = 32768
    return model


def fresh_state() -> np.ndarray:
    """(4,) int64: low, high and the number of bytes written; in the decoder low, high, value and the number of bytes
    read."""
    return np.array([0, 0xFFFFFFFF, 0, 0], dtype=np.int64)


@kernel
def _border(low: int, high: int, p: int) -> int:
    """The last number of [low, high] that stands for a 1."""
    span = high - low
    return low + (span >> 16) * p + (((span & 65535) * p) >> 16)


@kernel
def _learn(model: np.ndarray, context: int, bit: int) -> None:
    """Moves a context's probability towards the bit, by 1/(n + 2) of the way at its n-th use."""
    if context == PLAIN:
        return
    p = model[context]
    pace = model[CONTEXTS + context] + 2
    p = p + (65536 - p) // pace if bit else p - p // pace
    model[context] = min(max(p, 64), 65472)
    if pace < 64:
        model[CONTEXTS + context] += 1


@kernel
def spell(
    used: np.ndarray, classes: np.ndarray, extra: np.ndarray, with_extra: bool, memory: np.ndarray, out: np.ndarray
) -> int:
    """Converts entries to decisions, each context << 1 | bit. used, classes, extra: (m,) int64; out: int16, large
    enough.

    memory: (4,) int64, initially (-1, -1, 0, 0). Returns the number of decisions.
    """
    at = 0
    for i in range(used.size):
        gap = used[i] - memory[SYMBOL]
        bits = 0
        while gap >> (bits + 1):
            out[at] = (GAP + 25 * memory[GAPPED] + bits) << 1 | 1
            at += 1
            bits += 1
        if bits < 24:
            out[at] = (GAP + 25 * memory[GAPPED] + bits) << 1
            at += 1
        for j in range(bits - 1, -1, -1):
            out[at] = PLAIN << 1 | (gap >> j) & 1
            at += 1
        memory[GAPPED] = 1 if bits else 0
        memory[SYMBOL] = used[i]

        change = classes[i] - memory[CLASS]
        trend = memory[TREND]
        if memory[CLASS] < 0:
            for j in range(4, -1, -1):
                out[at] = PLAIN << 1 | (classes[i] >> j) & 1
                at += 1
        elif change == 0:
            out[at] = (SAME + trend) << 1 | 1
            at += 1
            memory[TREND] = 0
        else:
            rises = 1 if change > 0 else 0
            out[at] = (SAME + trend) << 1
            out[at + 1] = (RISES + trend) << 1 | rises
            at += 2
            memory[TREND] = 2 - rises
            size = abs(change)
            for j in range(1, min(size + 1, 31)):
                out[at] = (SIZE + j) << 1 | (1 if j < size else 0)
                at += 1
        memory[CLASS] = classes[i]
        if with_extra:
            for j in range(classes[i] - 1, -1, -1):
                out[at] = PLAIN << 1 | (extra[i] >> j) & 1
                at += 1
    return at


@kernel
def code(decisions: np.ndarray, model: np.ndarray, state: np.ndarray, out: np.ndarray) -> None:
    """Encodes decisions (int16). Bytes that do not fit into ``out`` are counted, but not stored."""
    low, high, size = state[0], state[1], state[2]
    for decision in decisions:
        context, bit = np.int64(decision >> 1), np.int64(decision & 1)
        middle = _border(low, high, model[context])
        if bit:
            high = middle
        else:
            low = middle + 1
        while (low ^ high) >> 24 == 0:
            if size < out.size:
                out[size] = high >> 24
            size += 1
            low = (low << 8) & 0xFFFFFFFF
            high = ((high << 8) & 0xFFFFFFFF) | 255
        _learn(model, context, bit)
    state[0], state[1], state[2] = low, high, size


def last_bytes(state: np.ndarray) -> bytes:
    """The shortest bytes that, followed by zeros, represent a number in [low, high]."""
    low, high = int(state[0]), int(state[1])
    for size in range(4):
        shift = 32 - 8 * size
        value = -(-low >> shift)  # rounded up
        if value << shift <= high:
            return value.to_bytes(size, "big")
    return low.to_bytes(4, "big")


@kernel
def decode_table(
    data: np.ndarray,
    alphabet: int,
    target: int,
    with_extra: bool,
    used: np.ndarray,
    classes: np.ndarray,
    extra: np.ndarray,
    model: np.ndarray,
    state: np.ndarray,
) -> tuple[int, int]:
    """Fills used, classes and extra (all int64, of one size) until the entries' weights sum to ``target``.

    An entry weighs target >> class, or, ``with_extra``, 2^class + extra. model, state: fresh ones; afterwards state[3]
    is the number of bytes read, including zeros past the end. Returns (status, entries).
    """
    low, high, value, read = state[0], state[1], state[2], state[3]
    for _ in range(4):
        value = value << 8 | (data[read] if read < data.size else 0)
        read += 1
    UNARY, GAP_BITS, IS_SAME, IS_UP, CHANGE, LEVEL_BITS, EXTRA_BITS, DONE = 0, 1, 2, 3, 4, 5, 6, 7
    symbol, level, trend, gapped, rises = -1, -1, 0, 0, 0
    entry, weight, status = 0, 0, 0
    step, number, left = UNARY, 0, 0  # number: the value being read; left: number of plain bits to come
    while weight < target:
        if step == UNARY:
            context = GAP + 25 * gapped + number
        elif step == IS_SAME:
            context = SAME + trend
        elif step == IS_UP:
            context = RISES + trend
        elif step == CHANGE:
            context = SIZE + number
        else:
            context = PLAIN
        middle = _border(low, high, model[context])
        bit = 1 if value <= middle else 0
        if bit:
            high = middle
        else:
            low = middle + 1
        while (low ^ high) >> 24 == 0:
            low = (low << 8) & 0xFFFFFFFF
            high = ((high << 8) & 0xFFFFFFFF) | 255
            value = ((value << 8) & 0xFFFFFFFF) | (data[read] if read < data.size else 0)
            read += 1
        _learn(model, context, bit)

        if step == UNARY:
            number += bit
            if bit and number < 24:
                continue
            gapped = 1 if number else 0
            left = number
            number = 1
            step = GAP_BITS
        elif step == IS_SAME:
            trend = trend if not bit else 0
            step = DONE if bit else IS_UP
        elif step == IS_UP:
            rises = bit
            number = 1
            step = CHANGE
        elif step == CHANGE:
            number += bit
            if bit and number < 31:
                continue
            trend = 2 - rises
            level += number if rises else -number
            step = DONE
        else:
            number = number << 1 | bit
            left -= 1

        if step == GAP_BITS and left == 0:
            symbol += number
            if entry >= used.size or symbol >= alphabet:
                status = TOO_MANY if entry >= used.size else OUTSIDE
                break
            number = 0
            left = 5
            step = LEVEL_BITS if level < 0 else IS_SAME
        if step == LEVEL_BITS and left == 0:
            level = number
            step = DONE
        if step == DONE:
            if level < 0 or level > 31 or (not with_extra and target >> level == 0):
                status = BAD_CLASS
                break
            number = 0
            left = level if with_extra else 0
            step = EXTRA_BITS
        if step == EXTRA_BITS and left == 0:
            weight += (1 << level) + number if with_extra else target >> level
            used[entry], classes[entry], extra[entry] = symbol, level, number
            entry += 1
            number = 0
            step = UNARY
    if status == 0 and weight > target:
        status = OVERFULL
    state[3] = read
    return status, entry
