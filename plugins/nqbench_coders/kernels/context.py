"""The inner loops of ``nqbench_coders.context``: one function models, and codes or decodes, the symbols of a tensor.

The letters are those of that module's docstring. All is integer arithmetic: int64, but for the coder's own uint64.
"""

from __future__ import annotations

import math

import numpy as np

from nqbench_coders.kernels import bare, inlined, kernel

DECISIONS = 32
"""Per context: 0 ... 14 "larger than", 15 sign, 16 ... 31 prefix of the rest; with signs
that ends at 23, and 24 ... 31 are the first bits of r."""
UNARY, SIGN, PREFIX, HALVES = 15, 15, 16, 24
FINE, PAIR, NEAR = 32, 16, 8
"""Levels of averages."""
AHEAD = FINE + PAIR * PAIR + NEAR * 27
AROUND = AHEAD + NEAR * 31
EXPECTED = AROUND + 81
CONTEXTS = EXPECTED + NEAR * 31
"""Of the models, one after the other."""
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
STEP = np.maximum(np.arange(FINE) - 15, 0) // 3
"""By level of L3, thirds of an octave: the bits of a magnitude that are not told in unary."""
RATE = 131072 // (2 * np.arange(1024) + 3)
"""65536 / (n + 1.5)"""
STRETCH = np.array([round(256 * math.log((i + 0.5) / (4095.5 - i))) for i in range(4096)])
SQUASH = np.array([round(65536 / (1 + math.exp(-i / 256))) for i in range(-3072, 3072)]).clip(4, 65532)

LOW = np.uint64(1 << 32)
U0, U1, U2, U3, U16, U32 = (np.uint64(i) for i in (0, 1, 2, 3, 16, 32))
FULL = np.uint32(0xFFFFFFFF)


def fresh_model(signed: bool) -> tuple[np.ndarray, np.ndarray]:
    """chances: (contexts * 32,) int64; weights: (32 * 4,) int64, the fourth of no use where it is 0."""
    chances = np.full(CONTEXTS * DECISIONS, (ONE // 2) << 24 | ONE // 2, dtype=np.int64)
    weights = np.full((DECISIONS, 4), (1 << 20) * 3 // 10 if signed else (1 << 20) * 2 // 5, dtype=np.int64)
    if signed:
        weights[SIGN] = (1 << 20) * 3 // 5
    else:
        weights[:, 3] = 0
    return chances, weights.reshape(-1)


@inlined
def _chance(state: int) -> int:
    """Of 65536; may be 65536 itself."""
    return ((state & CHANCE) + (state >> 24 & CHANCE)) >> 7


@inlined
def _learnt(state: int, target: int) -> int:
    slow, fast, seen = state & CHANCE, state >> 24 & CHANCE, state >> 48
    rate = RATE[np.uint64(seen)]
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
def _way(level: int) -> int:
    return int(level > 0) - int(level < 0)


@inlined
def _stretched(state: int) -> int:
    return STRETCH[np.uint64(min(_chance(state) >> 4, 4095))]


@inlined
def _squashed(dot: int) -> int:
    return SQUASH[np.uint64(min(max(dot >> 20, -3072), 3071) + 3072)]


@inlined
def _decided(
    bit: bool, a: int, b: int, c: int, d: int, f: int, mixing: bool, fourth: bool, chances: np.ndarray,
    weights: np.ndarray, decoding: bool, x: np.uint64, span: np.uint64, at: int, words: np.ndarray,
) -> tuple[bool, np.uint64, np.uint64, int]:  # fmt: skip
    """Decision f by the states of the contexts a, b, c and, of four models, d (by a alone without mixing)."""
    of_a, of_b, of_c, of_d = np.uint64(a + f), np.uint64(b + f), np.uint64(c + f), np.uint64(d + f)
    w = np.uint64(4 * f)
    sa, sb, sc, sd = 0, 0, 0, 0
    if mixing:
        sa, sb, sc = _stretched(chances[of_a]), _stretched(chances[of_b]), _stretched(chances[of_c])
        if fourth:
            sd = _stretched(chances[of_d])
        p = _squashed(weights[w] * sa + weights[w + U1] * sb + weights[w + U2] * sc + weights[w + U3] * sd)
    else:
        p = min(max(_chance(chances[of_a]), 4), 65532)
    bit, x, span, at = _coded(bit, p, decoding, x, span, at, words)
    target = ONE if bit else 0
    chances[of_a] = _learnt(chances[of_a], target)
    if mixing:
        chances[of_b] = _learnt(chances[of_b], target)
        chances[of_c] = _learnt(chances[of_c], target)
        error = (65536 if bit else 0) - p
        weights[w] += (sa * error + 8192) >> 14
        weights[w + U1] += (sb * error + 8192) >> 14
        weights[w + U2] += (sc * error + 8192) >> 14
        if fourth:
            chances[of_d] = _learnt(chances[of_d], target)
            weights[w + U3] += (sd * error + 8192) >> 14
    return bit, x, span, at


@inlined
def _sign(
    negative: bool, a: int, b: int, mixing: bool, chances: np.ndarray, weights: np.ndarray,
    decoding: bool, x: np.uint64, span: np.uint64, at: int, words: np.ndarray,
) -> tuple[bool, np.uint64, np.uint64, int]:  # fmt: skip
    """A sign, by two models."""
    of_a, of_b = np.uint64(a + SIGN), np.uint64(b + SIGN)
    w = np.uint64(4 * SIGN)
    sa, sb = 0, 0
    if mixing:
        sa, sb = _stretched(chances[of_a]), _stretched(chances[of_b])
        p = _squashed(weights[w] * sa + weights[w + U1] * sb)
    else:
        p = min(max(_chance(chances[of_a]), 4), 65532)
    negative, x, span, at = _coded(negative, p, decoding, x, span, at, words)
    target = ONE if negative else 0
    chances[of_a] = _learnt(chances[of_a], target)
    if mixing:
        chances[of_b] = _learnt(chances[of_b], target)
        error = (65536 if negative else 0) - p
        weights[w] += (sa * error + 8192) >> 14
        weights[w + U1] += (sb * error + 8192) >> 14
    return negative, x, span, at


@bare
def _coded_places(
    symbols: np.ndarray, mask: np.ndarray, place: int, inputs: int, height: int, width: int, zero: int, alphabet: int,
    mixing: bool, signed: bool, decoding: bool, words: np.ndarray, state: np.ndarray, averages: np.ndarray,
    chances: np.ndarray, weights: np.ndarray, pad: int, above_back: np.ndarray, beside_back: np.ndarray,
    row: np.ndarray, levels: np.ndarray, of_input: np.ndarray, times: np.ndarray,
) -> int:  # fmt: skip
    """``code_tensor``, in the arrays that it makes."""
    x, span, at = state[0], state[1], np.int64(state[2])
    recent, mean = averages[0], averages[1]
    most_up, most_down = alphabet - 1 - zero, zero
    spots = height * width
    length = inputs * spots
    of_filter, times_filter = mean, 3
    inverse = (1 << 24) // (mean + 82)
    column = place % length
    channel, spot = column // spots, column % spots
    across = column % width
    masked, room = mask.size > 0, words.size - 100
    done, n = 0, symbols.size
    while done < n:
        magnitude, level = 0, 0
        if times[np.uint64(channel)] == 0:
            of_input[np.uint64(channel)] = recent
            times[np.uint64(channel)] = 1
        here = pad + column
        if not masked or mask[np.uint64(place)]:
            left, above = row[np.uint64(here - 1)], row[np.uint64(here - above_back[np.uint64(spot)])]
            beside, of_channel = row[np.uint64(here - beside_back[np.uint64(spot)])], of_input[np.uint64(channel)]
            near = (2 * left + row[np.uint64(here - 2)] + 3 * above + 2 * beside) >> 3
            scale = min(((of_channel + 82) * ((of_filter + 82) * inverse >> 8)) >> 16, 65535)
            fine = L3[np.uint64((9 * scale + 5 * near + 2 * recent) >> 8)]
            a = fine * DECISIONS
            b = (FINE + L2[np.uint64(of_channel >> 4)] * PAIR + L2[np.uint64(of_filter >> 4)]) * DECISIONS
            c = min(spot, 7) if spots > 1 else L1[np.uint64(recent >> 4)]
            c = c * 27 + min(left >> UNIT, 2) * 9 + min(above >> UNIT, 2) * 3 + min(beside >> UNIT, 2)
            c = (FINE + PAIR * PAIR + c) * DECISIONS
            d, expected, before, upper, step = 0, 0, 0, 0, 0
            if signed:
                step = STEP[np.uint64(fine)]
                inner = height == 1 or across > 0
                before = levels[np.uint64(here - 1)] if inner else 0
                upper = levels[np.uint64(here - width)] if spot >= width else 0
                if mixing:
                    expected = 3 * (before + upper)
                    if spot >= width:
                        if inner:
                            expected += levels[np.uint64(here - width - 1)]
                        if across < width - 1:
                            expected += levels[np.uint64(here - width + 1)]
                    ratio = np.uint64(abs(expected) << 21) // np.uint64(scale + 1024)  # slower where it is signed
                    size = L2[min(ratio, np.uint64(65535)) >> np.uint64(4)]
                    expected = -size if expected < 0 else size
                    d = (AHEAD + L1[np.uint64(scale >> 4)] * 31 + 15 + size) * DECISIONS
            negative = False
            if not decoding:
                if at > room:
                    return OUT_OF_ROOM
                magnitude = symbols[np.uint64(done)] - zero
                if magnitude < 0:
                    negative, magnitude = True, -magnitude
            larger, most = 0, max(most_up, most_down)
            if most > 0:
                flag, x, span, at = _decided(
                    magnitude > 0, a, b, c, d, 0, mixing, signed, chances, weights, decoding, x, span, at, words,
                )  # fmt: skip
                larger = 1 if flag else 0
            if larger > 0:
                if most_up == 0 or most_down == 0:
                    negative = most_up == 0
                elif signed:
                    other = levels[np.uint64(here - spots)] if column >= spots else 0
                    e = (_way(before) * 27 + _way(upper) * 9 + _way(other) * 3 + _way(levels[np.uint64(here)])) + 40
                    g = (expected + 15) * NEAR + min(spot, 7)
                    negative, x, span, at = _sign(
                        negative, (AROUND + e) * DECISIONS, (EXPECTED + g) * DECISIONS, mixing, chances, weights,
                        decoding, x, span, at, words,
                    )  # fmt: skip
                    along = -expected if negative else expected
                    d = (AHEAD + L1[np.uint64(scale >> 4)] * 31 + 15 + along) * DECISIONS
                else:
                    negative, x, span, at = _decided(
                        negative, a, b, c, d, SIGN, mixing, False, chances, weights, decoding, x, span, at, words,
                    )  # fmt: skip
            if larger > 0:
                most = most_down if negative else most_up
                while most >> step == 0:
                    step -= 1
                reach, whole, told = (most - 1) >> step, (magnitude - 1) >> step, 0
                while told < min(reach, UNARY - 1):
                    flag, x, span, at = _decided(
                        whole > told, a, b, c, d, 1 + told, mixing and (told == 0 or not signed), signed, chances,
                        weights, decoding, x, span, at, words,
                    )  # fmt: skip
                    if not flag:
                        break
                    told += 1
                if told == UNARY - 1 and reach > UNARY - 1:
                    rest, bits = whole - UNARY + 2, 0
                    while (reach - UNARY + 2) >> (bits + 1):
                        flag, x, span, at = _decided(
                            rest >> (bits + 1) > 0, a, b, c, d, PREFIX + min(bits, 7 if signed else 15),
                            mixing and not signed, False,
                            chances, weights, decoding, x, span, at, words,
                        )  # fmt: skip
                        if not flag:
                            break
                        bits += 1
                    value = 1
                    for i in range(bits - 1, -1, -1):
                        flag, x, span, at = _coded(rest >> i & 1 > 0, 32768, decoding, x, span, at, words)
                        value = value << 1 | flag
                    told = value + UNARY - 2
                larger = told
                for i in range(step - 1, -1, -1):
                    half = (magnitude - 1) >> i & 1 > 0
                    if i == step - 1:
                        half, x, span, at = _decided(
                            half, a, a, a, a, HALVES + min(told, 7), False, False, chances, weights,
                            decoding, x, span, at, words,
                        )  # fmt: skip
                    else:
                        half, x, span, at = _coded(half, 32768, decoding, x, span, at, words)
                    larger = larger << 1 | half
                larger += 1
                if larger > most:
                    return TOO_LARGE
            if decoding:
                symbols[np.uint64(done)] = zero - larger if negative else zero + larger
            done += 1
            level = min(larger, 15)
            magnitude = level << UNIT
            level = -level if negative else level
        row[np.uint64(here)] = magnitude
        levels[np.uint64(here)] = level
        s = times[np.uint64(channel)]
        of_input[np.uint64(channel)] += ((magnitude - of_input[np.uint64(channel)]) * RATE[np.uint64(s)]) >> 16
        times[np.uint64(channel)] = min(s + 1, 200)
        of_filter += ((magnitude - of_filter) * RATE[np.uint64(times_filter)]) >> 16
        times_filter = min(times_filter + 1, 1023)
        recent += (magnitude - recent) >> 5
        mean += (magnitude - mean) >> 8
        place += 1
        column += 1
        spot += 1
        across += 1
        if across == width:
            across = 0
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


@kernel
def code_tensor(
    symbols: np.ndarray, mask: np.ndarray, place: int, inputs: int, height: int, width: int, zero: int, alphabet: int,
    mixing: bool, signed: bool, decoding: bool, words: np.ndarray, state: np.ndarray, averages: np.ndarray,
    chances: np.ndarray, weights: np.ndarray,
) -> int:  # fmt: skip
    """Codes symbols (n,) int32 of a tensor from the given place on, or fills them."""
    spots = height * width
    pad = spots if inputs > 1 and spots > 3 else max(3, width)
    if height == 1:
        pad = 3
    above_back, beside_back = np.full(spots, 3), np.full(spots, 1)
    if height > 1:
        for i in range(spots):
            above_back[i] = width if i >= width else pad
            beside_back[i] = 1 if i % width else pad
    row = np.full(pad + inputs * spots, averages[1])
    levels = np.zeros(row.size, dtype=np.int64)  # from this column on, of the filter before
    of_input, times = np.zeros(inputs, dtype=np.int64), np.zeros(inputs, dtype=np.int64)
    return _coded_places(
        symbols, mask, place, inputs, height, width, zero, alphabet, mixing, signed, decoding, words, state, averages,
        chances, weights, pad, above_back, beside_back, row, levels, of_input, times,
    )  # fmt: skip
