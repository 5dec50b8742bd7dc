"""Low-rank matrices, alone or plus a quantized remainder: the C steps of Idelbayev and Carreira-Perpinan (CVPR 2020;
2107.04380).

Each tensor is a matrix W (rows, its other axes): W ~ A B + step * symbol, A (rows, r) and B (r, columns) from the
truncated singular value decomposition, the best approximation of its rank (Eckart, Young 1936), in eight bits per
entry. The rank r minimizes |W - A B|^2 / variance + lam r (rows + columns). In ``learning-compression`` with ``alpha``
this is low-rank compression with learned ranks, and with ``step`` the additive combination of both.
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import ConfigDict, Field
from torch import Tensor

from nqbench.api import Knob, Quantized, Quantizer, Source, SourceTensor

_LEVELS = 127  # levels of an eight-bit factor on each side of 0


class LowRank(Quantizer, name="low-rank", paper="CVPR 2020, 8049-8059; arXiv:2107.04380"):
    """A truncated SVD of each tensor's matrix, of a rank chosen by its cost; the remainder is quantized or dropped.

    Rank r minimizes |W - W_r|^2 / variance + lam r (rows + columns). Tensors with pruned weights have rank 0.
    """

    model_config = ConfigDict(json_schema_extra={"examples": [{}, {"lam": 0.1, "step": 0.5}]})

    lam: float = Field(1.0, ge=0)
    """The price of one number in the factors."""
    unit: Literal["variance", "absolute"] = "variance"
    """Unit of ``lam``: the variance of the tensor's weights, or that of squared weights."""
    step: float | None = Field(None, gt=0)
    """The step of the remainder's grid, in standard deviations of the tensor's weights; none: the remainder is dropped,
    except that tensors of rank 0 are quantized with the step 1."""

    def quantize(self, source: Source) -> Quantized:
        made = [self._tensor(source, t) for t in source.tensors]
        symbols = torch.cat([level for level, *_ in made])
        low, high = int(symbols.min()), int(symbols.max())
        # without a remainder the step is a constant
        steps = {"step": torch.stack([step for _, step, *_ in made])}
        factor_steps = torch.cat([torch.stack([a[1], b[1]]) for _, _, _, a, b in made])
        factors = [part for _, _, _, *both in made for part in both]
        return Quantized(
            symbols=(symbols - low).to(torch.int32),
            alphabet=high - low + 1,
            sizes=source.sizes,
            parameters=({} if self.step is None else steps) | {"factor_steps": factor_steps},
            side=(steps if self.step is None else {})
            | {
                "factors": torch.cat([codes.reshape(-1) for codes, _ in factors]),
                "ranks": torch.tensor([rank for _, _, rank, *_ in made], dtype=torch.int32, device=source.device),
                "rows": torch.tensor([_shape(t)[0] for t in source.tensors], dtype=torch.int32, device=source.device),
                "offset": low,
            },
            form="plugin",
            statistics={"rank": sum(rank for _, _, rank, *_ in made) / len(made)},
        )

    def reconstruct(self, quantized: Quantized, parameters: dict[str, Tensor] | None = None) -> Tensor:
        p = quantized.parameters if parameters is None else parameters
        ranks, rows, codes = (quantized.side[name] for name in ("ranks", "rows", "factors"))
        steps = p["step"] if "step" in p else quantized.side["step"]
        assert isinstance(steps, Tensor)
        assert isinstance(ranks, Tensor)
        assert isinstance(rows, Tensor)
        assert isinstance(codes, Tensor)
        levels = torch.split(quantized.symbols.float() + float(quantized.side["offset"]), list(quantized.sizes))
        done, values = 0, []
        for index, (level, size) in enumerate(zip(levels, quantized.sizes, strict=True)):
            rank, m = int(ranks[index]), int(rows[index])
            value = level * steps[index]
            if rank:
                n = size // m
                a = codes[done : done + m * rank].reshape(m, rank).float() * p["factor_steps"][2 * index]
                b = codes[done + m * rank : done + (m + n) * rank].reshape(rank, n).float()
                b = b * p["factor_steps"][2 * index + 1]
                done += (m + n) * rank
                # one rounding per operation, in order of the ranks: the same bits on every device
                product = a[:, :1] * b[:1]
                for r in range(1, rank):
                    product = product + a[:, r : r + 1] * b[r : r + 1]
                value = product.reshape(-1) + value
            values.append(value)
        return torch.cat(values)

    def knob(self, source: Source) -> Knob | None:
        return None if self.step is None else Knob("step", 0.05, 8.0, more_bytes="down", start=1.0)

    def _tensor(self, source: Source, t: SourceTensor) -> tuple[Tensor, Tensor, int, _Factor, _Factor]:
        """(n,) levels of the remainder, its step, the rank, and the factors' codes with their steps."""
        w = source.weights[t.start : t.stop]
        deviation = w.std(correction=0) if w.numel() else w.new_zeros(())
        if not float(deviation) > 0:  # equal weights: one level
            level = torch.ones_like(w)
            none = _coded(w.new_zeros(0))
            return level, w[0] if w.numel() else w.new_zeros(()), 0, none, none
        rows, columns = _shape(t)
        rank, a, b = 0, w.new_zeros(0), w.new_zeros(0)
        if w.numel() == rows * columns:
            rank, a, b = self._factors(w.reshape(rows, columns), float(deviation) ** 2)
        first, second = _coded(a), _coded(b)
        rest = w
        if rank:
            rest = w - ((first[0].float() * first[1]) @ (second[0].float() * second[1])).reshape(-1)
        if self.step is None and rank:
            return torch.zeros_like(w), w.new_ones(()), rank, first, second
        # a fraction of the smallest floats rounds to 0
        step = ((self.step or 1.0) * deviation).clamp_min(torch.finfo(torch.float32).smallest_normal * 2**-23)
        return (rest / step).round(), step, rank, first, second

    def _factors(self, w: Tensor, variance: float) -> tuple[int, Tensor, Tensor]:
        u, s, v = torch.linalg.svd(w.double(), full_matrices=False)
        left = torch.cat([s.square().flip(0).cumsum(0).flip(0), s.new_zeros(1)])  # |W - W_r|^2, r = 0, 1, ...
        ranks = torch.arange(len(left), dtype=torch.float64, device=w.device)
        unit = variance if self.unit == "variance" else 1.0
        rank = int((left / unit + self.lam * ranks * sum(w.shape)).argmin())
        root = s[:rank].sqrt()
        return rank, (u[:, :rank] * root).float(), (root[:, None] * v[:rank]).float()


_Factor = tuple[Tensor, Tensor]


def _shape(t: SourceTensor) -> tuple[int, int]:
    """(rows, columns) of a tensor's matrix; a vector is one row."""
    if len(t.shape) < 2:
        return 1, int(torch.Size(t.shape).numel())
    return int(t.shape[0]), int(torch.Size(t.shape[1:]).numel())


def _coded(factor: Tensor) -> _Factor:
    """int8 codes of a factor and their step, () float32."""
    largest = factor.abs().max() if factor.numel() else factor.new_zeros(())
    step = torch.where(largest > 0, largest / _LEVELS, torch.ones_like(largest))
    return (factor / step).round().to(torch.int8), step
