"""Second moments E[a b^T] of a layer's input vectors over samples and positions, with as little unfolding as possible.

A convolution's input vector at a position is a window. For windows of kh rows that move by one row at a time, let z[r]
be the part of the window in padded row r (all its columns and channels, for every position in that row). Block (i, j)
of the sum is the sum of z[r + i] z[r + j]^T over the output's rows r, which is the sum over *all* rows of z[r] z[r + j
- i]^T, the same for all blocks with that j - i, minus a few rows at either end. That is a third of the products for 3 x
3 kernels, and a third of the copies.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from nqbench.api import Moments
from nqbench.api.toolkit.samples import BATCH
from nqbench.api.toolkit.uses import Geometry
from nqbench.api.toolkit.windows import Window

_FEWEST, _AMPLE = 16, 1 << 17
_DIVERSE = 128
_LONG = 48  # with more positions per sample, a product per sample is faster than copying all samples
_ROWS = 1 << 14  # input vectors per matrix product
LARGEST = 12288
"""Number of inputs per output from which only the diagonal is kept: the matrix would take 0.6 GB, and its sum as much
again."""


class Products:
    """The sum of a b^T over the vectors that uses of a weight multiply it with, and their number. Call ``add`` with the
    inputs of each use, then ``mean``."""

    def __init__(self, geometry: Geometry, shape: torch.Size) -> None:
        """shape: of the weight."""
        self.geometry, self.shape = geometry, shape
        self.total: Tensor | None = None
        self.count = 0

    def add(self, a: Tensor, b: Tensor | None = None) -> None:
        """a, b: inputs of a use (``Use.x``), which are unfolded a few samples at a time. b: None stands for a."""
        if self.geometry.kind == "lookup":
            self._put(frequencies(a, self.shape[0]), a.numel())
            return
        size = BATCH if self.geometry.kind == "convolution" else _ROWS
        axis = a.dim() - 2 if self.geometry.kind == "product" else 0
        theirs = torch.split(a if b is None else b.detach(), size, axis)
        for mine, other in zip(torch.split(a.detach(), size, axis), theirs, strict=True):
            self._add(_wide(mine), None if b is None else _wide(other))

    def _add(self, a: Tensor, b: Tensor | None) -> None:
        window = self.geometry.window
        if window is None:
            left, right = (v.reshape(self.geometry.groups, -1, v.shape[-1]) for v in (a, a if b is None else b))
            self._put(_among(left, right) if left.shape[2] > LARGEST else left.mT @ right, left.shape[1])
        elif slides(window):
            self._put(*sliding(window, a, b))
        else:
            x = window.columns(a)
            y = x if b is None else window.columns(b)
            self._put(gram(x, window.groups, y), x.shape[0] * x.shape[2])

    def _put(self, part: Tensor, count: int) -> None:
        self.total = part if self.total is None else self.total + part
        self.count += count

    def mean(self) -> Tensor:
        """(groups, m, m) float32, or only the diagonals, (groups, 1, m)."""
        assert self.total is not None
        return (self.total / self.count).float()

    def moments(self) -> Moments:
        return Moments(self.mean(), self.geometry.layout)


class Missing:
    """The sum of W (was - now) now^T over the input vectors of a use of W in two networks: the correlation of what its
    outputs lack now with its inputs now. Call ``add`` with the inputs of each use, then ``mean``.

    If an output has many inputs, as in most convolutions, computing W (was - now) and its products with ``now`` (which
    are the gradient of a convolution's weight) takes fewer operations than (was - now) now^T, a matrix of inputs by
    inputs.
    """

    def __init__(self, geometry: Geometry, weight: Tensor, shift: Products | None = None) -> None:
        """weight: the original weight; it must not be changed before ``mean``. shift: the sum of (was - now) now^T, if
        it is known from another weight with the same inputs; nothing is then to be added."""
        self.weight, self.window = weight.detach(), geometry.window
        outputs, inputs = _sizes(geometry, weight.shape)
        # on a GPU the order of the gradient's sum would change from run to run
        convolved = self.window is not None and 2 * outputs <= inputs and weight.device.type == "cpu"
        self.direct = convolved and shift is None
        self.shift = Products(geometry, weight.shape) if shift is None else shift
        self.total: Tensor | None = None
        self.count = 0

    def add(self, was: Tensor, now: Tensor) -> None:
        if not self.direct:
            self.shift.add(was - now, now)
            return
        for before, here in zip(torch.split(was.detach(), BATCH), torch.split(now.detach(), BATCH), strict=True):
            self._add((before - here).float(), here.float())

    def _add(self, apart: Tensor, now: Tensor) -> None:
        window, weight = self.window, self.weight.float()
        assert window is not None
        turned = window.extra is not None
        how = (window.stride, window.padding, window.dilation, turned, window.extra or (0,) * len(window.kernel))
        only = [False, True, False]
        lacking = torch.ops.aten.convolution(apart, weight, None, *how, window.groups)
        _, part, _ = torch.ops.aten.convolution_backward(lacking, now, weight, None, *how, window.groups, only)
        self.total = part if self.total is None else self.total + part
        self.count += len(lacking) * lacking[0, 0].numel()

    def mean(self, moments: Moments) -> Tensor:
        """(O, m), laid out as ``moments.rows``. moments: those of the same uses."""
        if self.total is not None:
            return moments.rows(self.total / self.count)
        shift = self.shift.mean()
        rows = moments.rows(self.weight.float())
        return (rows.reshape(len(shift), -1, rows.shape[1]) @ shift).reshape(rows.shape)


def _wide(x: Tensor) -> Tensor:
    """At least float32: 36,864 products of 2 are more than a float16 can be, and a bfloat16 stops growing at 256."""
    return x if x.dtype.itemsize >= 4 else x.float()


def _sizes(geometry: Geometry, shape: torch.Size) -> tuple[int, int]:
    """For a convolution's weight: the number of outputs per group, and of inputs per output."""
    if geometry.layout == 1:
        return shape[1:2].numel(), shape[0] // geometry.groups * shape[2:].numel()
    return shape[0] // geometry.groups, shape[1:].numel()


def spacing(geometry: Geometry, x: Tensor, columns: int | None, samples: int | None = None) -> int:
    """The s such that every s-th sample gives ``columns`` vectors for each row of a convolution's second moments; 1 for
    any other use. At least _DIVERSE samples are taken, or fewer (at least _FEWEST) if these have an _AMPLE number of
    vectors.

    x: (B, channels, ...). samples: the number of samples of which x is a part; None: B."""
    window = geometry.window
    if window is None or columns is None:
        return 1
    _, rows, places = window.columns(x[:1]).shape
    fewest = min(_DIVERSE, max(_FEWEST, _AMPLE // max(places, 1)))
    wanted = max(fewest, math.ceil(columns * rows / window.groups / places))
    return max(1, (len(x) if samples is None else samples) // wanted)


def frequencies(indices: Tensor, rows: int) -> Tensor:
    """(1, 1, rows): the number of look-ups of each row, which is the diagonal of the sum of x x^T over one-hot vectors
    x."""
    return torch.bincount(indices.reshape(-1).long(), minlength=rows).double()[None, None]


def _among(left: Tensor, right: Tensor) -> Tensor:
    """(G, 1, m): the diagonal of the sum of x y^T. left, right: (G, n, m)."""
    return (left * right).sum(1, keepdim=True)


def gram(x: Tensor, groups: int, y: Tensor | None = None) -> Tensor:
    """(groups, m, m): the sum over samples and positions of x y^T. x, y: (B, groups * m, L); y: None stands for x."""
    count, wide, places = x.shape
    y = x if y is None else y
    if wide // groups > LARGEST:
        return _among(*(v.transpose(1, 2).reshape(-1, groups, wide // groups).transpose(0, 1) for v in (x, y)))
    if groups == 1 and places >= _LONG:
        total = x.new_zeros(wide, wide)
        for one, other in zip(x, y, strict=True):
            total.addmm_(one, other.T)
        return total[None]
    sizes = (count, groups, wide // groups, places)
    left, right = (v.reshape(sizes).permute(1, 2, 0, 3).reshape(groups, wide // groups, -1) for v in (x, y))
    return torch.bmm(left, right.transpose(1, 2))


def slides(window: Window) -> bool:
    """Whether the window moves one row and one column at a time, with enough padding to separate one sample from the
    next."""
    return (
        len(window.kernel) == 2
        and window.extra is None
        and window.stride == (1, 1)
        and window.dilation == (1, 1)
        and window.groups == 1
        and 1 < window.kernel[0] <= 2 * window.padding[0] + 1
    )


def sliding(window: Window, x: Tensor, y: Tensor | None) -> tuple[Tensor, int]:
    """(1, m, m): the sum of x y^T for a window that ``slides``, and the number of positions. x, y: (B, C, H, W)."""
    (high, wide), channels = window.kernel, x.shape[1]
    if channels * high * wide > LARGEST:
        left = window.columns(x)
        part = gram(left, 1, None if y is None else window.columns(y))
        return part, left.shape[0] * left.shape[2]
    left = _row_parts(window, x)
    right = left if y is None else _row_parts(window, y)
    m, samples, rows, places = left.shape
    sums = x.new_zeros(channels, high, wide, channels, high, wide)
    shape = (channels, wide, channels, wide)
    for apart in range(high):
        for i, block in enumerate(_blocks(left, right, apart, high)):
            sums[:, i, :, :, i + apart, :] = block.reshape(shape)
            if apart and y is None:
                sums[:, i + apart, :, :, i, :] = block.T.reshape(shape)
        if apart and y is not None:
            for i, block in enumerate(_blocks(right, left, apart, high)):
                sums[:, i + apart, :, :, i, :] = block.T.reshape(shape)
    return sums.reshape(1, m * high, m * high), samples * (rows - high + 1) * places


def _row_parts(window: Window, x: Tensor) -> Tensor:
    """(C * kw, B, rows, positions): z[r] of each sample, rows padded."""
    high, wide = window.padding
    z = torch.nn.functional.pad(x, (wide, wide, high, high)).contiguous()
    count, channels, rows, breadth = z.shape
    per_sample, per_channel, per_row, one = z.stride()
    sizes = (channels, window.kernel[1], count, rows, breadth - window.kernel[1] + 1)
    view = z.as_strided(sizes, (per_channel, one, per_sample, per_row, one))
    return view.reshape(channels * window.kernel[1], *sizes[2:])


def _blocks(left: Tensor, right: Tensor, apart: int, high: int) -> list[Tensor]:
    """Blocks (i, i + apart), i = 0, 1, ..., of the sum: over all pairs of rows at the distance ``apart``, minus those
    outside the output."""
    m, _, rows, places = left.shape
    # due to the padding, every pair of rows of two different samples contributes 0
    reach = left[0].numel() - apart * places
    whole = left.reshape(m, -1)[:, :reach] @ right.reshape(m, -1)[:, apart * places :].T
    outside = high - 1 - apart

    def pair(row: int) -> Tensor:
        return left[:, :, row].reshape(m, -1) @ right[:, :, row + apart].reshape(m, -1).T

    head = [pair(row) for row in range(outside)]
    tail = [pair(rows - apart - outside + row) for row in range(outside)]
    # block i's rows begin with row i of the padded input
    return [
        whole - sum(head[:i], torch.zeros_like(whole)) - sum(tail[i:], torch.zeros_like(whole))
        for i in range(outside + 1)
    ]
