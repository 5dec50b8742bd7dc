"""The inner loops of ``nqbench_coders.context``: one function models, and codes or decodes, the symbols of a tensor.

The letters are those of that module's docstring. All is integer arithmetic: int64, but for the coder's own uint64.
"""

from __future__ import annotations

import math

import numpy as np

from nqbench_coders.kernels import inlined, kernel

DECISIONS = 32
"""Per context: 0 ... 14 "larger than", 15 sign, 16 ... 31 prefix of the rest."""
UNARY, SIGN, PREFIX = 15, 15, 16
FINE, PAIR, NEAR = 32, 16, 8
"""Levels of averages."""
CONTEXTS = FINE + PAIR * PAIR + NEAR * 27
"""Of the three models, one after the other."""
UNIT = 12
"""A magnitude of 1 is 2^UNIT in averages."""
ONE = 1 << 22
"""A chance of 1 in the adaptive states, each slow | fast << 24 | decisions seen << 48."""
CHANCE = (1 << 24) - 1
OUT_OF_ROOM, TOO_LARGE = -1, -2


def _levels(octave: int, lowest: int, count: int) -> np.ndarray:
    """(4096,) int64: x // 16 -> how many of the thresholds lowest 2^(i / octave), i = 0, 1, ..., x has reached."""
    x = 16 * np.arange(4096)
    reached = np.zeros(4096, dtype=np.int64)
    for i in range(count - 1):
        reached += x.astype(object) ** octave >= lowest**octave * 2**i
    return reached


L3 = _levels(3, 128, FINE)
L2 = _levels(2, 256, PAIR)
L1 = _levels(1, 1024, NEAR)
RATE = 131072 // (2 * np.arange(1024) + 3)
"""65536 / (n + 1.5)"""
STRETCH = np.array([round(256 * math.log((i + 0.5) / (4095.5 - i))) for i in range(4096)])
SQUASH = np.array([round(65536 / (1 + math.exp(-i / 256))) for i in range(-3072, 3072)]).clip(4, 65532)

LOW = np.uint64(1 << 32)
U0, U16, U32 = (np.uint64(i) for i in (0, 16, 32))
FULL = np.uint32(0xFFFFFFFF)


def fresh_model() -> tuple[np.ndarray, np.ndarray]:
    """chances: (contexts * 32,) int64; weights: (32 * 3,) int64."""
    chances = np.full(CONTEXTS * DECISIONS, (ONE // 2) << 24 | ONE // 2, dtype=np.int64)
    return chances, np.full(DECISIONS * 3, (1 << 20) * 2 // 5, dtype=np.int64)


@inlined
def _chance(state: int) -> int:
    """Of 65536; may be 65536 itself."""
    return ((state & CHANCE) + (state >> 24 & CHANCE)) >> 7


@inlined
def _learnt(state: int, target: int) -> int:
    slow, fast, seen = state & CHANCE, state >> 24 & CHANCE, state >> 48
    rate = RATE[seen]
    slow += ((target - slow) * rate) >> 16
    fast += ((target - fast) * max(rate, 2048)) >> 16
    return slow | fast << 24 | min(seen + 1, 800) << 48


@inlined
def _coded(
    bit: bool, p: int, decoding: bool, x: np.uint64, span: np.uint64, at: int, words: np.ndarray
) -> tuple[bool, np.uint64, np.uint64, int]:
    """One binary decision whose chance of being 1 is p / 65536."""
    bound = (span >> U16) * np.uint64(p)
    if decoding:
        bit = x < bound
        if bit:
            span = bound
        else:
            x -= bound
            span -= bound
        if span < LOW:
            x = x << U32 | (np.uint64(words[at]) if at < words.size else U0)
            at += 1
            span <<= U32
    else:
        if bit:
            span = bound
        else:
            x += bound
            span -= bound
            if x < bound:
                carry = at - 1
                while words[carry] == FULL:
                    words[carry] = np.uint32(0)
                    carry -= 1
                words[carry] += np.uint32(1)
        if span < LOW:
            words[at] = np.uint32(x >> U32)
            at += 1
            x <<= U32
            span <<= U32
    return bit, x, span, at


@inlined
def _decided(
    bit: bool, a: int, b: int, c: int, w: int, mixing: bool, chances: np.ndarray, weights: np.ndarray,
    decoding: bool, x: np.uint64, span: np.uint64, at: int, words: np.ndarray,
) -> tuple[bool, np.uint64, np.uint64, int]:  # fmt: skip
    """One decision by the states a, b, c and the weights from w on (by a alone without mixing)."""
    sa, sb, sc = 0, 0, 0
    p = _chance(chances[a])
    if mixing:
        sa = STRETCH[min(p >> 4, 4095)]
        sb = STRETCH[min(_chance(chances[b]) >> 4, 4095)]
        sc = STRETCH[min(_chance(chances[c]) >> 4, 4095)]
        dot = (weights[w] * sa + weights[w + 1] * sb + weights[w + 2] * sc) >> 20
        p = SQUASH[min(max(dot, -3072), 3071) + 3072]
    else:
        p = min(max(p, 4), 65532)
    bit, x, span, at = _coded(bit, p, decoding, x, span, at, words)
    target = ONE if bit else 0
    chances[a] = _learnt(chances[a], target)
    if mixing:
        chances[b] = _learnt(chances[b], target)
        chances[c] = _learnt(chances[c], target)
        error = (65536 if bit else 0) - p
        weights[w] += (sa * error + 8192) >> 14
        weights[w + 1] += (sb * error + 8192) >> 14
        weights[w + 2] += (sc * error + 8192) >> 14
    return bit, x, span, at


@kernel
def code_tensor(
    symbols: np.ndarray, mask: np.ndarray, place: int, inputs: int, height: int, width: int, zero: int, alphabet: int,
    mixing: bool, decoding: bool, words: np.ndarray, state: np.ndarray, averages: np.ndarray, chances: np.ndarray,
    weights: np.ndarray,
) -> int:  # fmt: skip
    """Codes symbols (n,) int32 of a tensor from the given place on, or fills them."""
    x, span, at = state[0], state[1], np.int64(state[2])
    recent, mean = averages[0], averages[1]
    most_up, most_down = alphabet - 1 - zero, zero
    spots = height * width
    length = inputs * spots
    pad = spots if inputs > 1 and spots > 3 else max(3, width)
    if height == 1:
        pad = 3
    above_back, beside_back = np.full(spots, 3), np.full(spots, 1)
    if height > 1:
        for i in range(spots):
            above_back[i] = width if i >= width else pad
            beside_back[i] = 1 if i % width else pad
    row = np.full(pad + length, mean)
    of_input = np.zeros(inputs, dtype=np.int64)
    times = np.zeros(inputs, dtype=np.int64)
    of_filter, times_filter = mean, 3
    inverse = (1 << 24) // (mean + 82)
    column = place % length
    channel, spot = column // spots, column % spots
    masked, room = mask.size > 0, words.size - 100
    done, n = 0, symbols.size
    while done < n:
        magnitude = 0
        if times[channel] == 0:
            of_input[channel] = recent
            times[channel] = 1
        if not masked or mask[place]:
            here = pad + column
            left, above = row[here - 1], row[here - above_back[spot]]
            beside, of_channel = row[here - beside_back[spot]], of_input[channel]
            near = (2 * left + row[here - 2] + 3 * above + 2 * beside) >> 3
            product = min(((of_channel + 82) * ((of_filter + 82) * inverse >> 8)) >> 16, 65535)
            a = L3[(9 * product + 5 * near + 2 * recent) >> 8] * DECISIONS
            b = (FINE + L2[of_channel >> 4] * PAIR + L2[of_filter >> 4]) * DECISIONS
            c = min(spot, 7) if spots > 1 else L1[recent >> 4]
            c = c * 27 + min(left >> UNIT, 2) * 9 + min(above >> UNIT, 2) * 3 + min(beside >> UNIT, 2)
            c = (FINE + PAIR * PAIR + c) * DECISIONS
            negative = False
            if not decoding:
                if at > room:
                    return OUT_OF_ROOM
                magnitude = symbols[done] - zero
                if magnitude < 0:
                    negative, magnitude = True, -magnitude
            larger, most = 0, max(most_up, most_down)
            while larger < min(most, UNARY):
                flag, x, span, at = _decided(
                    magnitude > larger, a + larger, b + larger, c + larger, 3 * larger, mixing, chances, weights,
                    decoding, x, span, at, words,
                )  # fmt: skip
                if not flag:
                    break
                larger += 1
                if larger == 1:
                    if most_up > 0 and most_down > 0:
                        negative, x, span, at = _decided(
                            negative, a + SIGN, b + SIGN, c + SIGN, 3 * SIGN, mixing, chances, weights,
                            decoding, x, span, at, words,
                        )  # fmt: skip
                    else:
                        negative = most_up == 0
                    most = most_down if negative else most_up
            if larger == UNARY and most > UNARY:
                rest, bits = magnitude - UNARY + 1, 0
                while (most - UNARY + 1) >> (bits + 1):
                    f = PREFIX + min(bits, 15)
                    flag, x, span, at = _decided(
                        rest >> (bits + 1) > 0, a + f, b + f, c + f, 3 * f, mixing, chances, weights,
                        decoding, x, span, at, words,
                    )  # fmt: skip
                    if not flag:
                        break
                    bits += 1
                value = 1
                for i in range(bits - 1, -1, -1):
                    flag, x, span, at = _coded(rest >> i & 1 > 0, 32768, decoding, x, span, at, words)
                    value = value << 1 | flag
                larger = value + UNARY - 1
                if larger > most:
                    return TOO_LARGE
            if decoding:
                symbols[done] = zero - larger if negative else zero + larger
            done += 1
            magnitude = min(larger, 15) << UNIT
        row[pad + column] = magnitude
        s = times[channel]
        of_input[channel] += ((magnitude - of_input[channel]) * RATE[s]) >> 16
        times[channel] = min(s + 1, 200)
        of_filter += ((magnitude - of_filter) * RATE[times_filter]) >> 16
        times_filter = min(times_filter + 1, 1023)
        recent += (magnitude - recent) >> 5
        mean += (magnitude - mean) >> 8
        place += 1
        column += 1
        spot += 1
        if column & 15 == 0:
            inverse = (1 << 24) // (mean + 82)
        if spot == spots:
            spot = 0
            channel += 1
            if column == length:
                column, channel = 0, 0
                of_filter, times_filter = mean, 3
                inverse = (1 << 24) // (mean + 82)
                row[:pad] = mean
    state[0], state[1], state[2] = x, span, np.uint64(at)
    averages[0], averages[1] = recent, mean
    return 0
