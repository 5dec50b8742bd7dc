"""Monotone cubic interpolation: what the field calls PCHIP (Fritsch and Carlson 1980, slopes by Fritsch and Butland
1984). Our own because importing scipy's takes longer than a small report.
"""

from __future__ import annotations

import numpy as np


def slopes(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """(n,) dy/dx at the points; x (n,) strictly rising, n >= 2.

    Inside, the weighted harmonic mean of the two secants, 0 where they differ in sign; at the ends the three-point
    formula, cut so that the curve stays monotone there.
    """
    h = np.diff(x)
    secant = np.diff(y) / h
    if secant.size == 1:
        return np.repeat(secant, 2)
    left, right = secant[:-1], secant[1:]
    w_left, w_right = h[:-1] + 2 * h[1:], 2 * h[:-1] + h[1:]
    same = left * right > 0
    inner = np.zeros(left.size)
    inner[same] = (w_left + w_right)[same] / (w_left[same] / left[same] + w_right[same] / right[same])
    first, last = _end(h[0], h[1], secant[0], secant[1]), _end(h[-1], h[-2], secant[-1], secant[-2])
    return np.concatenate([[first], inner, [last]])


def _end(near: float, far: float, secant: float, next_secant: float) -> float:
    slope = ((2 * near + far) * secant - near * next_secant) / (near + far)
    if np.sign(slope) != np.sign(secant):
        return 0.0
    if np.sign(secant) != np.sign(next_secant) and abs(slope) > 3 * abs(secant):
        return float(3 * secant)
    return float(slope)


def integral(x: np.ndarray, y: np.ndarray, low: float, high: float) -> float:
    """The integral of the interpolating curve over [low, high], which lies inside [x_0, x_(n-1)]."""
    h, d = np.diff(x), slopes(x, y)
    secant = np.diff(y) / h
    # on each piece p(s) = y + d s + c s^2 + e s^3, s = x - x_i
    c = (3 * secant - 2 * d[:-1] - d[1:]) / h
    e = (d[:-1] + d[1:] - 2 * secant) / h**2

    def antiderivative(s: np.ndarray) -> np.ndarray:
        return np.asarray(s * (y[:-1] + s * (d[:-1] / 2 + s * (c / 3 + s * e / 4))))

    start = np.clip(low - x[:-1], 0, h)
    stop = np.clip(high - x[:-1], 0, h)
    return float(np.sum(antiderivative(stop) - antiderivative(start)))


def value(x: np.ndarray, y: np.ndarray, at: float) -> float:
    """The interpolating curve at a place inside [x_0, x_(n-1)]."""
    i = int(np.clip(np.searchsorted(x, at, side="right") - 1, 0, len(x) - 2))
    h, d, s = x[i + 1] - x[i], slopes(x, y)[i : i + 2], at - x[i]
    secant = (y[i + 1] - y[i]) / h
    return float(y[i] + s * (d[0] + s * ((3 * secant - 2 * d[0] - d[1]) / h + s * (d[0] + d[1] - 2 * secant) / h**2)))
