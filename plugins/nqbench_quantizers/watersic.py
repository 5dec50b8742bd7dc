"""A step for each column, so that all columns of a layer contribute equally to its output error [WaterSIC, 2603.04956].

With the second moments H = M D M^T of a layer's inputs (``feedback``), the output error after error feedback is sum_j
d_j e_j^2, with |e_j| of the order of the step s_j. For a given product of the steps, which determines the rate at high
resolution, this is least where all d_j s_j^2 are equal:

    s_j = step * g / l_j,        l_j = d_j^(1/2), the diagonal of H's Cholesky factor, g the geometric mean of the l_j

(the paper's alpha_i proportional to 1 / l_ii). Where all d_j are equal, the method is ``gptq``. Columns with small
steps take more bits, by entropy coding. Steps are stored as float16, one for each column of a tensor.

The problem with steps s is that of the columns w_j / s_j under the second moments S H S, S = diag(s), with steps of 1,
so that everything ``gptq`` offers (prices, beams, descents, order) applies to it.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from pydantic import ConfigDict, model_validator
from torch import Tensor

from nqbench.api import Array, BadInput, Moments, Per, Quantized, Source, SourceTensor, Structure, scalar
from nqbench_quantizers import feedback
from nqbench_quantizers.gptq import GPTQ, LARGEST_LEVEL


class WaterSIC(GPTQ, name="watersic", paper="arXiv:2603.04956"):
    """Error feedback with a step for each column, such that all columns contribute equally to the output error."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"step": 0.05}, {"step": 0.03, "lam": 0.1}, {"step": 0.05, "act_order": True}]}
    )

    @model_validator(mode="after")
    def _no_grid_of_its_own(self) -> WaterSIC:
        if self.dither or self.bits is not None:
            raise ValueError("watersic cannot be combined with a dither or fixed bits")
        return self

    def quantize(self, source: Source) -> Quantized:
        moments = self._moments_of(source)
        means = self._steps(source, moments)
        parts, steps, error, power = [], [], 0.0, 0.0
        for tensor, known, mean in zip(source.tensors, moments, means.double(), strict=True):
            if not tensor.size:
                steps.append(torch.full((Per("column").entries(tensor.shape),), float(mean), device=source.device))
                continue
            m = Per("column").entries(tensor.shape)
            if known.layout or known.diagonal or known.gram.shape[2] != m:
                # the tensor's rows do not correspond to outputs: one step for all columns
                steps.append(torch.full((m,), float(mean), device=source.device))
                levels, figures = self._tensor(source, tensor, known, mean)
            else:
                gram = known.gram.double()
                steps.append(self._column_steps(gram, float(mean)))
                levels, figures = self._in_steps(source, tensor, gram, steps[-1].double())
            parts.append(levels)
            error, power = error + figures[0], power + figures[1]
        levels = torch.cat(parts)
        low, high = (int(edge) for edge in levels.aminmax())
        if max(-low, high) >= LARGEST_LEVEL:
            raise BadInput("the weights lie too many steps from zero: take a larger step")
        scalar.check_alphabet(high - low + 1, "take a larger step")
        symbols, step = (levels - low).to(torch.int32), torch.cat(steps).float()
        stored = {"step": torch.float16} if torch.equal(step, step.half().float()) else {}
        return Quantized(
            symbols, high - low + 1, source.sizes, {"step": step}, {"offset": low}, "grid",
            statistics={
                "entropy": scalar.entropy(torch.bincount(symbols)), "output_error": error / power if power else 0.0
            },
            structure=Structure.of(source, arrays={"step": Array(Per("column"))}, stored=stored),
        )  # fmt: skip

    def _column_steps(self, h: Tensor, mean: float) -> Tensor:
        """(m,) float32 steps with the geometric mean ``mean``, rounded as they are stored. h: (groups, m, m)."""
        diagonal = h.diagonal(dim1=1, dim2=2)
        columns = feedback.order(diagonal, self.act_order)
        _, gain = feedback.factor(feedback.among(h, columns), self.damping)
        logs = torch.zeros_like(gain).scatter_(1, columns, gain.log() / 2).mean(0)
        alive = (diagonal > 0).any(0)
        if not bool(alive.any()):
            alive = torch.ones_like(alive)
        relative = logs[alive].mean() - logs
        # the step of a dead input has no effect, but must be a finite float
        relative = torch.where(alive, relative, relative[alive].max())
        steps = (mean * relative.exp()).float()
        half = steps.half().float()
        normal = (half >= torch.finfo(torch.float16).smallest_normal) & torch.isfinite(half)
        return half if bool(normal.all()) else steps

    def _in_steps(
        self, source: Source, tensor: SourceTensor, h: Tensor, steps: Tensor
    ) -> tuple[Tensor, tuple[float, float]]:
        """(kept,) levels of one tensor, and its statistics: ``gptq`` applied to the columns divided by their steps."""
        matrix = steps.expand(tensor.shape[0] if tensor.shape else 1, -1)
        own = matrix.reshape(-1) if tensor.mask is None else matrix.reshape(tensor.shape)[tensor.mask]
        weights = source.weights.clone()
        levels = weights[tensor.start : tensor.stop].double() / own
        if float(levels.abs().max()) > LARGEST_LEVEL:
            raise BadInput(f"{tensor.name} has weights of more than {LARGEST_LEVEL:,} steps: take a larger step")
        weights[tensor.start : tensor.stop] = levels.float()
        scaled = replace(source, weights=weights, shared={})
        return self._tensor(scaled, tensor, Moments(steps[:, None] * h * steps), torch.ones(()))
