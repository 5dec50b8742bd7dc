"""The inner loop of ``nqbench_coders.context``: for each place its neighbourhood, the decisions of its symbol, and the
update.

Letters are those of that module's docstring. All arithmetic is in int64; the state at a place is held in records, which
the compiler resolves into registers.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from nqbench_coders.kernels import bare, part
from nqbench_coders.kernels.decisions import (
    DECISIONS,
    FOUR,
    HALF,
    MORE,
    RATE,
    SIGN,
    THREE,
    TWO,
    Coder,
    Contexts,
    Model,
    coded,
    mixed,
    plain,
)

UNARY, PREFIX, HALVES = 14, 16, 24
"""Decisions: the number of unary ones, x > 1, ..., x > 14; then the indices of the first one of the Exp-Golomb prefix
and of r."""
FINE, PAIR, NEAR = 32, 16, 8
"""Number of levels of averages."""
A, B = 0, FINE
C = B + PAIR * PAIR
D = C + NEAR * 27
E = D + NEAR * 31
G = E + 81
CONTEXTS = G + NEAR * 31
"""The first index of the contexts a, b, c, d, e and g, and their total number."""
UNIT = 12
"""In averages, a magnitude of 1 is represented as 2^UNIT."""
MOST = 15
"""Magnitudes are clipped to this for contexts."""
OUT_OF_ROOM, TOO_LARGE = -1, -2


def _levels(octave: int, lowest: int, count: int) -> np.ndarray:
    """(4096,) int64: x // 16 -> L(x; lowest, octave, count)."""
    x = 16 * np.arange(4096)
    reached = np.zeros(4096, dtype=np.int64)
    for i in range(count - 1):
        reached += x.astype(object) ** octave >= lowest**octave * 2**i
    return reached


L3 = _levels(3, 128, FINE)
L2 = _levels(2, 256, PAIR)
L1 = _levels(1, 1024, NEAR)


class Tensor(NamedTuple):
    """The tensor of a piece: filters of ``inputs`` kernels of ``height`` x ``width`` places; and the piece's first
    place."""

    place: int
    inputs: int
    height: int
    width: int
    zero: int
    alphabet: int


class Chunk(NamedTuple):
    """State that is kept from one piece to the next."""

    words: np.ndarray
    """(m,) uint32 words to be written or read."""
    interval: np.ndarray
    """(3,) uint64: x, span and the words done."""
    averages: np.ndarray
    """(2,) int64: recent, mean."""
    model: Model
    decoding: bool


class Filters(NamedTuple):
    """The preceding places of a piece. Column c of a filter is at ``pad + c``."""

    magnitudes: np.ndarray
    """(pad + length,) int64 m, from this column on those of the filter before; the pad is initialized with ``mean``."""
    levels: np.ndarray
    """(pad + length,) int64 V."""
    pad: int
    above: np.ndarray
    """(spots,) int64: how many places before spot s the place above it is,"""
    beside: np.ndarray
    """and the one beside."""
    of_input: np.ndarray
    """(inputs,) int64 A[i]"""
    times: np.ndarray
    """(inputs,) int64 t[i]"""
    height: int
    width: int
    spots: int


class Spot(NamedTuple):
    """A place: its column c, input i, spot s, and s mod W."""

    column: int
    input: int
    spot: int
    across: int


class Averages(NamedTuple):
    recent: int
    mean: int
    of_filter: int
    """F"""
    times: int
    """u"""
    inverse: int


class Neighbours(NamedTuple):
    """The contexts of a place, from its neighbours."""

    by: Contexts
    """a, b, c, and d of decision 0"""
    ahead: int
    """d for U = 0"""
    u: int
    e: int
    g: int
    step: int
    """max(0, a - 15) / 3: a third of the octaves of a: the number t of low bits of the magnitude that are not coded in
    unary."""


@part
def _way(level: int) -> int:
    """sgn"""
    return int(level > 0) - int(level < 0)


@part
def _neighbours(at: Spot, of: Filters, averages: Averages, model: Model) -> Neighbours:
    here, s = of.pad + at.column, at.spot
    m, of_channel, of_filter = of.magnitudes, of.of_input[np.uint64(at.input)], averages.of_filter
    left, above = m[np.uint64(here - 1)], m[np.uint64(here - of.above[np.uint64(s)])]
    beside = m[np.uint64(here - of.beside[np.uint64(s)])]
    near = (2 * left + m[np.uint64(here - 2)] + 3 * above + 2 * beside) >> 3
    scale = min(((of_channel + 82) * ((of_filter + 82) * averages.inverse >> 8)) >> 16, 65535)
    fine = L3[np.uint64((9 * scale + 5 * near + 2 * averages.recent) >> 8)]
    a = (A + fine) * DECISIONS
    b = (B + L2[np.uint64(of_channel >> 4)] * PAIR + L2[np.uint64(of_filter >> 4)]) * DECISIONS
    v = min(s, 7) if of.spots > 1 else L1[np.uint64(averages.recent >> 4)]
    c = (C + v * 27 + min(left >> UNIT, 2) * 9 + min(above >> UNIT, 2) * 3 + min(beside >> UNIT, 2)) * DECISIONS
    if not model.signed:
        return Neighbours(Contexts(a, b, c, 0), 0, 0, 0, 0, 0)
    u, e, g = _signs(here, at, of, scale, model.mixing)
    ahead = (D + L1[np.uint64(scale >> 4)] * 31 + 15) * DECISIONS
    return Neighbours(Contexts(a, b, c, ahead + abs(u) * DECISIONS), ahead, u, e, g, max(fine - 15, 0) // 3)


@part
def _signs(here: int, at: Spot, of: Filters, scale: int, mixing: bool) -> tuple[int, int, int]:
    """U, and the contexts e and g."""
    levels, width = of.levels, of.width
    inner, lower = of.height == 1 or at.across > 0, at.spot >= width
    v1 = levels[np.uint64(here - 1)] if inner else 0
    v2 = levels[np.uint64(here - width)] if lower else 0
    v3 = levels[np.uint64(here - of.spots)] if at.column >= of.spots else 0
    v4 = levels[np.uint64(here)]
    e = (E + 40 + _way(v1) * 27 + _way(v2) * 9 + _way(v3) * 3 + _way(v4)) * DECISIONS
    if not mixing:
        return 0, e, 0
    v = 3 * (v1 + v2)
    if lower:
        if inner:
            v += levels[np.uint64(here - width - 1)]
        if at.across < width - 1:
            v += levels[np.uint64(here - width + 1)]
    ratio = np.uint64(abs(v) << 21) // np.uint64(scale + 1024)  # signed division is slower
    size = L2[min(ratio, np.uint64(65535)) >> np.uint64(4)]
    u = -size if v < 0 else size
    return u, e, (G + (u + 15) * NEAR + min(at.spot, 7)) * DECISIONS


@part
def _decided(bit: bool, f: int, by: Contexts, mixing: bool, model: Model, coder: Coder) -> tuple[bool, Coder]:
    if mixing:
        bit, coder = mixed(bit, f, by, FOUR if model.signed else THREE, model, coder)
    else:
        bit, coder = plain(bit, f, by.a, model, coder)
    return bit, coder


@part
def _symbol(value: int, up: int, down: int, around: Neighbours, model: Model, coder: Coder) -> tuple[int, Coder]:
    """A symbol minus zero, in [-down, up]; when decoding, the result may lie outside."""
    by, signed = around.by, model.signed
    if max(up, down) == 0:
        return 0, coder
    some, coder = _decided(value != 0, MORE, by, model.mixing, model, coder)
    if not some:
        return 0, coder
    negative = value < 0
    if up == 0 or down == 0:
        negative = up == 0
    elif not signed:
        negative, coder = _decided(negative, SIGN, by, model.mixing, model, coder)
    elif model.mixing:
        negative, coder = mixed(negative, SIGN, Contexts(around.e, around.g, 0, 0), TWO, model, coder)
    else:
        negative, coder = plain(negative, SIGN, around.e, model, coder)
    if signed:
        along = -around.u if negative else around.u
        by = Contexts(by.a, by.b, by.c, around.ahead + along * DECISIONS)
    x, coder = _magnitude(abs(value), down if negative else up, around.step, by, model, coder)
    return -x if negative else x, coder


@part
def _magnitude(x: int, most: int, step: int, by: Contexts, model: Model, coder: Coder) -> tuple[int, Coder]:
    """x >= 1 of at most ``most`` = X, as x = 1 + q 2^t + r."""
    t = step
    while most >> t == 0:
        t -= 1
    q, coder = _quotient((x - 1) >> t, (most - 1) >> t, by, model, coder)
    told = q
    for i in range(t - 1, -1, -1):
        bit = (x - 1) >> i & 1 > 0
        if i == t - 1:
            bit, coder = plain(bit, HALVES + min(q, 7), by.a, model, coder)
        else:
            bit, coder = coded(bit, HALF, coder)
        told = told << 1 | bit
    return told + 1, coder


@part
def _quotient(q: int, most: int, by: Contexts, model: Model, coder: Coder) -> tuple[int, Coder]:
    """q in unary, in Exp-Golomb form from 14 on."""
    told = 0
    while told < min(most, UNARY):
        larger, coder = _decided(q > told, 1 + told, by, model.mixing and (told == 0 or not model.signed), model, coder)
        if not larger:
            return told, coder
        told += 1
    if told < UNARY or most == UNARY:
        return told, coder
    r, j = q - UNARY + 1, 0
    while (most - UNARY + 1) >> (j + 1):
        f = PREFIX + min(j, 7 if model.signed else 15)
        longer, coder = _decided(r >> (j + 1) > 0, f, by, model.mixing and not model.signed, model, coder)
        if not longer:
            break
        j += 1
    value = 1
    for i in range(j - 1, -1, -1):
        bit, coder = coded(r >> i & 1 > 0, HALF, coder)
        value = value << 1 | bit
    return value + UNARY - 1, coder


@part
def _updated(level: int, at: Spot, of: Filters, averages: Averages) -> Averages:
    """Step 3 of the specification, and the entries of this place for later ones."""
    here, i = np.uint64(of.pad + at.column), np.uint64(at.input)
    magnitude = abs(level) << UNIT
    of.magnitudes[here], of.levels[here] = magnitude, level
    t = of.times[i]
    of.of_input[i] += ((magnitude - of.of_input[i]) * RATE[np.uint64(t)]) >> 16
    of.times[i] = min(t + 1, 200)
    _, _, of_filter, u, _ = averages
    return Averages(
        averages.recent + ((magnitude - averages.recent) >> 5),
        averages.mean + ((magnitude - averages.mean) >> 8),
        of_filter + (((magnitude - of_filter) * RATE[np.uint64(u)]) >> 16),
        min(u + 1, 1023),
        averages.inverse,
    )


@part
def _inverse(mean: int) -> int:
    return (1 << 24) // (mean + 82)


@part
def _next(at: Spot, of: Filters, averages: Averages) -> tuple[Spot, Averages]:
    """The next place, and the averages updated if it begins a filter or a run of 16 columns."""
    column, i, spot, across = at.column + 1, at.input, at.spot + 1, at.across + 1
    recent, mean, of_filter, times, inverse = averages
    if across == of.width:
        across = 0
    if column & 15 == 0:
        inverse = _inverse(mean)
    if spot == of.spots:
        spot = 0
        i += 1
        if i == of.times.size:
            column, i = 0, 0
            of_filter, times, inverse = mean, 3, _inverse(mean)
            of.magnitudes[: of.pad] = mean
    return Spot(column, i, spot, across), Averages(recent, mean, of_filter, times, inverse)


def fresh_filters(tensor: Tensor, mean: int) -> Filters:
    """The filters at the beginning of a piece."""
    _, inputs, height, width, _, _ = tensor
    spots, pad = height * width, 3
    above, beside = np.full(spots, 3), np.full(spots, 1)
    if height > 1:
        pad = spots if inputs > 1 and spots > 3 else max(3, width)
        above[:width], above[width:] = pad, width
        beside[::width] = pad
    magnitudes = np.full(pad + inputs * spots, mean)
    of_input, times = np.zeros(inputs, dtype=np.int64), np.zeros(inputs, dtype=np.int64)
    return Filters(magnitudes, np.zeros_like(magnitudes), pad, above, beside, of_input, times, height, width, spots)


@bare
def code_places(symbols: np.ndarray, mask: np.ndarray, tensor: Tensor, of: Filters, chunk: Chunk) -> int:
    """Encode the symbols (n,) int32 of a tensor from its place on, or decode into them. mask: (places,) bool, or empty.

    Returns 0, OUT_OF_ROOM (encoding: more words are needed) or TOO_LARGE (decoding: a magnitude beyond the alphabet).
    """
    up, down, place = tensor.alphabet - 1 - tensor.zero, tensor.zero, tensor.place
    column = place % (tensor.inputs * of.spots)
    at = Spot(column, column // of.spots, column % of.spots, column % of.width)
    recent, mean = chunk.averages
    averages = Averages(recent, mean, mean, 3, _inverse(mean))
    x, span, words = chunk.interval
    coder = Coder(x, span, int(np.int64(words)), chunk.words, chunk.decoding)
    masked, room = mask.size > 0, coder.words.size - 100
    status, done = 0, 0
    while done < symbols.size:
        i = np.uint64(at.input)
        if of.times[i] == 0:
            of.of_input[i], of.times[i] = averages.recent, 1
        level = 0
        if not masked or mask[np.uint64(place)]:
            around = _neighbours(at, of, averages, chunk.model)
            value = 0
            if not coder.decoding:
                if coder.at > room:
                    status = OUT_OF_ROOM
                    break
                value = symbols[np.uint64(done)] - tensor.zero
            value, coder = _symbol(value, up, down, around, chunk.model, coder)
            if coder.decoding:
                if value < -down or value > up:
                    status = TOO_LARGE
                    break
                symbols[np.uint64(done)] = tensor.zero + value
            done += 1
            level = min(max(value, -MOST), MOST)
        averages = _updated(level, at, of, averages)
        at, averages = _next(at, of, averages)
        place += 1
    chunk.interval[0], chunk.interval[1], chunk.interval[2] = coder.x, coder.span, np.uint64(coder.at)
    chunk.averages[0], chunk.averages[1] = averages.recent, averages.mean
    return status
