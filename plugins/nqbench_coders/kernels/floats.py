"""The inner loops of ``nqbench_coders.lossless``: splitting floats into levels, exponents and bits, and joining
them."""

from __future__ import annotations

import numpy as np

from nqbench_coders.kernels import kernel
from nqbench_coders.kernels.lzw import U0, U1, put

U63 = np.uint64(63)


@kernel
def split(
    bits: np.ndarray, levels: np.ndarray, exponents: np.ndarray, words: np.ndarray, state: np.ndarray,
    exponent: int, mantissa: int, drop: int, low: int, reach: int,
) -> int:  # fmt: skip
    """bits: (n,) uint64 floats with the given numbers of bits of E and M. Fills levels (n,) int32, the leading entries
    of exponents (n,) int32, whose number is returned, and words (uint64), continuing from state, (3,) uint64: bits not
    yet in words, their number, the number of whole words."""
    held_bits, held, at = state[0], state[1], state[2]
    fraction, n = np.uint64(mantissa), mantissa - drop
    of_mantissa, of_exponent = (U1 << fraction) - U1, (U1 << np.uint64(exponent)) - U1
    count = 0
    for i in range(bits.size):
        e = np.int64((bits[i] >> fraction) & of_exponent)
        part = (bits[i] & of_mantissa) >> np.uint64(drop)
        negative = bits[i] >> np.uint64(exponent + mantissa)
        octave = e - low
        if 0 <= octave < reach:
            rest = np.uint64(n - octave)
            q = np.int64((U1 << np.uint64(n) | part) >> rest)
            levels[i] = -q if negative else q
            held_bits, held, at = put(part & ((U1 << rest) - U1), rest, held_bits, held, at, words)
        else:
            levels[i] = 0
            if bits[i] == U0:
                exponents[count] = 0
            else:
                exponents[count] = 1 + np.int64(np.uint64(low - 1 - e) & of_exponent)
                held_bits, held, at = put(negative << np.uint64(n) | part, np.uint64(n + 1), held_bits, held, at, words)
            count += 1
    state[0], state[1], state[2] = held_bits, held, at
    return count


@kernel
def join(
    levels: np.ndarray, exponents: np.ndarray, words: np.ndarray, state: np.ndarray, bits: np.ndarray,
    exponent: int, mantissa: int, drop: int, low: int, reach: int,
) -> int:  # fmt: skip
    """Fills bits (n,) uint64. words: those of the string and one more. state: (3,) int64, bits read of the string,
    their number in all, exponents read. Returns 0, or 1 if the input does not represent floats."""
    fraction, n = np.uint64(mantissa), mantissa - drop
    of_exponent = (U1 << np.uint64(exponent)) - U1
    most = np.int64(of_exponent)
    bit, stop, taken = state[0], state[1], state[2]
    for i in range(levels.size):
        q = abs(int(levels[i]))
        octave = 0
        if q == 0:
            if taken == exponents.size:
                return 1
            x = int(exponents[taken])
            taken += 1
            if x == 0:
                bits[i] = U0
                continue
            e = int(np.int64(np.uint64(low - x) & of_exponent))
            width = n + 1
            if x > most + 1 or low <= e < low + reach:
                return 1
        else:
            while q >> (octave + 1):
                octave += 1
            e, width = low + octave, n - octave
            if octave >= reach or e > most:
                return 1
        if bit + width > stop:
            return 1
        word, shift, size = np.uint64(bit >> 6), np.uint64(bit & 63), np.uint64(width)
        part = (words[word] >> shift | (words[word + U1] << U1) << (U63 - shift)) & ((U1 << size) - U1)
        bit += width
        if q == 0:
            negative = part >> np.uint64(n)
            part &= (U1 << np.uint64(n)) - U1
        else:
            negative = U1 if levels[i] < 0 else U0
            part |= (np.uint64(q) - (U1 << np.uint64(octave))) << size
        bits[i] = negative << np.uint64(exponent + mantissa) | np.uint64(e) << fraction | part << np.uint64(drop)
    state[0], state[2] = bit, taken
    return 0
