"""Tables that a rule gives, and a file only names: they cost no bytes.

Scalars, rising, each value once:

* ``nf4`` (k = 16): quantiles of a normal distribution, scaled to [-1, 1], with an exact 0 [QLoRA, 2305.14314, appendix
  E]: ``NF4`` holds the published float32 numbers.
* ``fp4`` (15), ``e4m3`` (253), ``e5m2`` (247): the finite values of OCP's E2M1, E4M3 and E5M2 (OCP Microscaling 1.0,
  OCP 8-bit floating point 1.0). With M mantissa bits and the bias B: m 2^(1 - B - M) for the exponent 0, and
  (2^M + m) 2^(e - B - M) for e >= 1; E2M1: M = 1, B = 1, e <= 3; E4M3: M = 3, B = 7, e <= 15 without m = 7 at 15;
  E5M2: M = 2, B = 15, e <= 30.
* ``int`` (k up to 2^16): symbol - floor(k / 2).
* ``laplace`` (k = 2^m - 1, m from 1 to 16): the values of the compander of a Laplace distribution of deviation 1 at j /
  2^m, j = symbol + 1: with i = min(j, 2^m - j), (3 / 2^1/2) ln(2^(m-1) / i), negative where j < 2^(m-1), to the nearest
  float32 [2505.03031, section 3.2]. The values at odd multiples of 2^-(b+1) are those of a grid of b < m bits.

Vectors: the first k points by squared norm, then by their first coordinate, their second and so on, of

* ``zd``: Z^d.
* ``d4`` (d = 4): the points of Z^4 whose sum is even.
* ``e8`` (d = 8): the points of Z^8, and of Z^8 + (1/2, ..., 1/2), whose sum is even [Conway and Sloane, chapter 4].

At most 2^16 points of at most 16 coordinates.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np

from nqbench.api.errors import BadInput

NF4 = (
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334,
    -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
    0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
)  # fmt: skip
_FLOATS = {"fp4": (1, 1, 3, 1), "e4m3": (3, 7, 15, 6), "e5m2": (2, 15, 30, 3)}  # M, B, last e, its last m
SCALARS = ("nf4", "fp4", "e4m3", "e5m2", "int", "laplace")
LATTICES = {"zd": 0, "d4": 4, "e8": 8}
"""Name -> dimension; 0: any."""
RULES = (*SCALARS, *LATTICES)
MOST_POINTS, MOST_COORDINATES = 1 << 16, 16


def check_rule(rule: str, alphabet: int, dimension: int) -> None:
    """Raises BadInput where there is no such table."""
    if rule in SCALARS:
        sizes = {"nf4": 16, "fp4": 15, "e4m3": 253, "e5m2": 247}
        # a table may be made for a few bytes of a file
        odd = rule == "laplace" and alphabet & (alphabet + 1)
        if dimension != 1 or sizes.get(rule, alphabet) != alphabet or alphabet > MOST_POINTS or odd:
            raise BadInput(f"the table '{rule}' of {alphabet} symbols in {dimension} dimensions: there is none")
    elif rule in LATTICES:
        if dimension != (LATTICES[rule] or dimension) or dimension > MOST_COORDINATES or alphabet > MOST_POINTS:
            raise BadInput(f"the table '{rule}' of {alphabet} points in {dimension} dimensions: there is none")
    else:
        raise BadInput(f"no table is called '{rule}'; there are {', '.join(RULES)}")


@lru_cache(maxsize=8)
def table_of(rule: str, alphabet: int, dimension: int = 1) -> np.ndarray:
    """(alphabet,) float32, or (alphabet, dimension) of a lattice; not to be written to. Raises BadInput."""
    check_rule(rule, alphabet, dimension)
    if rule == "nf4":
        table = np.array(NF4, dtype=np.float32)
    elif rule == "int":
        table = (np.arange(alphabet) - alphabet // 2).astype(np.float32)
    elif rule == "laplace":
        table = _companded(alphabet)
    elif rule in _FLOATS:
        table = _floats(*_FLOATS[rule])
    else:
        table = _lattice(rule, alphabet, dimension)
    table.flags.writeable = False
    return table


def _companded(k: int) -> np.ndarray:
    j = np.arange(1, k + 1, dtype=np.float64)
    half = (k + 1) / 2
    size = 3 / math.sqrt(2) * np.log(half / np.minimum(j, k + 1 - j))
    table: np.ndarray = (np.sign(j - half) * size + 0.0).astype(np.float32)
    return table


def _floats(mantissa: int, bias: int, last: int, last_mantissa: int) -> np.ndarray:
    exponent, m = np.meshgrid(np.arange(last + 1), np.arange(1 << mantissa), indexing="ij")
    whole = np.where(exponent > 0, (1 << mantissa) + m, m)
    value = np.ldexp(whole.astype(np.float64), np.maximum(exponent, 1) - bias - mantissa)
    positive = value[(exponent < last) | (m <= last_mantissa)]
    table: np.ndarray = np.unique(np.concatenate([-positive, positive]) + 0.0).astype(np.float32)
    return table


def _lattice(rule: str, count: int, d: int) -> np.ndarray:
    """(count, d) float32. In doubled coordinates all is whole: E8 is even points and odd ones, D4 even ones."""
    norm = 0
    while (found := _within(rule, norm, d)).shape[0] < count:
        norm += max(1, norm // 4)
    squares = (found.astype(np.int64) ** 2).sum(1)
    order = np.lexsort((*found.T[::-1], squares))[:count]
    points: np.ndarray = found[order].astype(np.float32) / 2
    return points


def _within(rule: str, norm: int, d: int) -> np.ndarray:
    """(points, d) int32: twice the points whose squared norm is at most ``norm``."""
    most = math.isqrt(norm)
    whole: np.ndarray = 2 * _ball(np.arange(-most, most + 1), norm, d)
    if rule == "zd":
        return whole
    even: np.ndarray = whole[whole.sum(1, dtype=np.int64) % 4 == 0]
    if rule == "d4":
        return even
    most = math.isqrt(4 * norm) // 2
    odd = _ball(np.arange(-2 * most - 1, 2 * most + 2, 2), 4 * norm, d)
    both: np.ndarray = np.concatenate([even, odd[odd.sum(1, dtype=np.int64) % 4 == 0]])
    return both


def _ball(values: np.ndarray, most: int, d: int) -> np.ndarray:
    """(points, d) int32: all of these coordinates whose squares sum to at most ``most``. No prefix is dropped that
    could still be completed, so there are never more of them than points of the ball in fewer dimensions."""
    points, left = np.zeros((1, 0), dtype=np.int32), np.array([most])
    least = int((values.astype(np.int64) ** 2).min())
    for axis in range(d):
        rest = left[:, None] - values.astype(np.int64) ** 2
        at, value = np.nonzero(rest >= least * (d - axis - 1))
        points = np.concatenate([points[at], values[value, None].astype(np.int32)], axis=1)
        left = rest[at, value]
    return points
