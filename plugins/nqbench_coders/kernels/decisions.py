"""Binary decisions for ``nqbench_coders.context``: adaptive chances, their mixture, and the arithmetic coder.

Letters are those of that module's docstring. All arithmetic is in int64, except that the coder uses uint64.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from nqbench_coders.kernels import part

DECISIONS = 32
"""Per context: 0 ... 14 "larger than", 15 sign, 16 ... 31 prefix of the rest; with signs
that ends at 23, and 24 ... 31 are the first bits of r."""
MORE, SIGN, HALF = np.int64(0), np.int64(15), np.int64(1 << 15)
"""Decisions 0 and 15, and a chance of a half. Plain integers would be separate literal types for numba, and functions
called with them would be compiled once for each."""
TWO, THREE, FOUR = np.int64(2), np.int64(3), np.int64(4)
ONE = 1 << 22
"""A probability of 1 in the adaptive states, each of which is slow | fast << 24 | n << 48."""
CHANCE = (1 << 24) - 1

RATE = 131072 // (2 * np.arange(1024) + 3)
"""R(n): 65536 / (n + 1.5)"""
STRETCH = np.array([round(256 * math.log((i + 0.5) / (4095.5 - i))) for i in range(4096)])
"""h -> s"""
SQUASH = np.array([round(65536 / (1 + math.exp(-i / 256))) for i in range(-3072, 3072)]).clip(4, 65532)
"""y + 3072 -> P"""

LOW = np.uint64(1 << 32)
U0, U1, U2, U3, U16, U32 = (np.uint64(i) for i in (0, 1, 2, 3, 16, 32))
FULL = np.uint32(0xFFFFFFFF)


class Coder(NamedTuple):
    """State of the arithmetic coder. When encoding, x is the lower end of the interval, without the digits already in
    words."""

    x: np.uint64
    span: np.uint64
    at: int
    """Number of words written or read."""
    words: np.ndarray
    """(m,) uint32 of the chunk."""
    decoding: bool


class Model(NamedTuple):
    """The adaptive state of a chunk."""

    chances: np.ndarray
    """(contexts * 32,) int64: for each context and decision f its state."""
    weights: np.ndarray
    """(32 * 4,) int64: for each f the w of four contexts, the fourth of no use where it is 0."""
    mixing: bool
    signed: bool


class Contexts(NamedTuple):
    """The contexts of a place, each the index of its first state in ``Model.chances``."""

    a: int
    b: int
    c: int
    d: int


def fresh_model(contexts: int, *, mixing: bool, signed: bool) -> Model:
    chances = np.full(contexts * DECISIONS, (ONE // 2) << 24 | ONE // 2, dtype=np.int64)
    weights = np.full((DECISIONS, 4), (1 << 20) * 3 // 10 if signed else (1 << 20) * 2 // 5, dtype=np.int64)
    if signed:
        weights[SIGN] = (1 << 20) * 3 // 5
    else:
        weights[:, 3] = 0
    return Model(chances, weights.reshape(-1), mixing, signed)


@part
def coded(bit: bool, p: int, coder: Coder) -> tuple[bool, Coder]:
    """A decision that is 1 with probability p / 65536: written or read."""
    x, span, at, words = coder.x, coder.span, coder.at, coder.words
    bound = (span >> U16) * np.uint64(p)
    if coder.decoding:
        bit = bool(x < bound)
        if bit:
            span = bound
        else:
            x -= bound
            span -= bound
        if span < LOW:
            x = x << U32 | (np.uint64(words[np.uint64(at)]) if at < words.size else U0)
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
            words[np.uint64(at)] = np.uint32(x >> U32)
            at += 1
            x <<= U32
            span <<= U32
    return bit, Coder(x, span, at, words, coder.decoding)


@part
def _chance(state: int) -> int:
    """p, in units of 1 / 65536; may be 65536 itself."""
    return ((state & CHANCE) + (state >> 24 & CHANCE)) >> 7


@part
def _learnt(state: int, bit: bool) -> int:
    slow, fast, n = state & CHANCE, state >> 24 & CHANCE, state >> 48
    target = ONE if bit else 0
    r = RATE[np.uint64(n)]
    slow += ((target - slow) * r) >> 16
    fast += ((target - fast) * max(r, 2048)) >> 16
    return int(slow | fast << 24 | min(n + 1, 800) << 48)


@part
def _stretched(state: int) -> int:
    """s"""
    return int(STRETCH[np.uint64(min(_chance(state) >> 4, 4095))])


@part
def _squashed(dot: int) -> int:
    """2^20 y -> P"""
    return int(SQUASH[np.uint64(min(max(dot >> 20, -3072), 3071) + 3072)])


@part
def plain(bit: bool, f: int, context: int, model: Model, coder: Coder) -> tuple[bool, Coder]:
    """Decision f, predicted by the state of one context."""
    i = np.uint64(context + f)
    bit, coder = coded(bit, min(max(_chance(model.chances[i]), 4), 65532), coder)
    model.chances[i] = _learnt(model.chances[i], bit)
    return bit, coder


@part
def mixed(bit: bool, f: int, by: Contexts, count: int, model: Model, coder: Coder) -> tuple[bool, Coder]:
    """Decision f, predicted by mixing the states of the first two, three or four contexts."""
    chances, weights = model.chances, model.weights
    i, j, k, l = np.uint64(by.a + f), np.uint64(by.b + f), np.uint64(by.c + f), np.uint64(by.d + f)  # noqa: E741
    w = np.uint64(4 * f)
    si, sj, sk, sl = _stretched(chances[i]), _stretched(chances[j]), 0, 0
    if count > 2:
        sk = _stretched(chances[k])
    if count > 3:
        sl = _stretched(chances[l])
    p = _squashed(weights[w] * si + weights[w + U1] * sj + weights[w + U2] * sk + weights[w + U3] * sl)
    bit, coder = coded(bit, p, coder)
    error = (65536 if bit else 0) - p
    chances[i] = _learnt(chances[i], bit)
    chances[j] = _learnt(chances[j], bit)
    weights[w] += (si * error + 8192) >> 14
    weights[w + U1] += (sj * error + 8192) >> 14
    if count > 2:
        chances[k] = _learnt(chances[k], bit)
        weights[w + U2] += (sk * error + 8192) >> 14
    if count > 3:
        chances[l] = _learnt(chances[l], bit)
        weights[w + U3] += (sl * error + 8192) >> 14
    return bit, coder
