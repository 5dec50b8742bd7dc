"""Scalar quantization with error feedback and an entropy-constrained choice [arXiv:2210.17323; arXiv:2505.18758].

For a layer whose inputs have second moments H = E[x x^T], the mean squared error of an output with weights q in place
of w is (w - q) H (w - q)^T. The columns are quantized one after another to a uniform grid; each choice compensates the
errors of the columns before it (``feedback``) and minimizes

    d_j (target_j - q)^2 + lambda * bits(q),

where d_j is the gain of column j and bits(q) the coder's own code length (``source.rate``) given the counts of the
symbols. The first sweep takes the counts of plain rounding. Each further sweep starts from the counts of the one before
and replaces them, column by column, by its own. With a ``beam_width`` above 1, that many candidates for the beginning
of a row are kept (``beam``).

With ``bits``, the grids are instead those of ``rtn`` with that many bits and a scale (and zero point) for each tensor,
channel or group: GPTQ as its authors use it (``fixed_grid``).

Without a price the method is GPTQ. Its update is that of optimal brain surgeon (Hassibi and Stork 1993), a pruning
method.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Literal

import numpy as np
import torch
from pydantic import AliasChoices, ConfigDict, Field, model_validator
from torch import Tensor

from nqbench.api import (
    BadInput,
    Former,
    Knob,
    Moments,
    Quantized,
    Quantizer,
    Rate,
    SecondMoments,
    Source,
    SourceTensor,
    Structure,
    gaussian_step,
    scalar,
)
from nqbench.api.philox import unit_dither
from nqbench.api.toolkit.blocks import Entries, Granularity, Kept
from nqbench.api.toolkit.optimise import one_thread
from nqbench_quantizers import feedback
from nqbench_quantizers.curvature import CHEAPEST, row_costs, row_steps, tensor_costs
from nqbench_quantizers.feedback import Choose, Rows, nearest
from nqbench_quantizers.fixed_grid import grids_of, with_levels
from nqbench_quantizers.prices import Prices, mean_gain
from nqbench_quantizers.rtn import RTN
from nqbench_quantizers.steps import FORMER_STEPS, SMALLEST_STEP, beside_constants, step_scales, steps_of

LARGEST_LEVEL = 1 << 23


class GPTQ(
    Quantizer, name="gptq", formerly=("obs",), paper="arXiv:2505.18758; arXiv:2210.17323; Hassibi and Stork 1993"
):
    """A uniform grid with error feedback: later weights of a row compensate the errors of earlier ones."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"step": 0.05},
                {"step": 0.03, "lam": 0.1},
                {"step": 0.05, "dither": True},
                {"step": 0.05, "curvature": 0.4},
                {
                    "bits": 3,
                    "granularity": "group",
                    "group": 8,
                    "symmetric": False,
                    "scales": "float16",
                    "act_order": True,
                },
            ]
        }
    )
    takes = frozenset({"second-moments"})
    former_fields = {
        "survivors": Former("beam_width"),
        "order": Former("act_order", {"natural": False, "decreasing": True}),
        "steps": FORMER_STEPS,
    }

    step: float = Field(0.05, gt=0)
    """Distance of the grid's points, in the weights' unit (for ``granularity: layer``, in standard deviations). Zero is
    on the grid."""
    bits: int | None = Field(None, ge=2, le=16)
    """Bits per weight, instead of a step: a grid with a scale for each tensor, channel or group."""
    granularity: Granularity = "global"
    """``global``: one step for all tensors; ``layer``: one per tensor, proportional to the standard deviation of its
    kept weights. With ``bits``: which weights share a scale; also ``channel`` and ``group``."""
    group: int = Field(64, ge=1)
    """Consecutive weights of a channel that share a scale (``granularity: group``)."""
    symmetric: bool = True
    """With ``bits``: whether the grids are symmetric about 0; otherwise they have zero points."""
    scales: Kept = "float32"
    """With ``bits``: how scales are stored; ``codes``: as 8-bit multiples of one float per tensor."""
    fit: Literal["max", "search"] = "max"
    """With ``bits``: how scales are chosen, to reach the largest weight or for the least squared error."""
    lam: float = Field(0.0, ge=0, validation_alias=AliasChoices("lam", "lambda"))
    """The price lambda of a bit; 0: every target is rounded to its nearest level. In a suite it may be written
    ``lambda``."""
    unit: Literal["step", "absolute"] = "step"
    """Unit of lambda: step^2 times the mean gain of the layer's columns, or 1 (squared output)."""
    sweeps: int = Field(2, ge=1)
    """Passes over a layer if bits have a price: prices are static in the first pass and adaptive in the others."""
    reach: int = Field(1, ge=0)
    """Number of levels tried on each side of the nearest one, besides 0, if bits have a price or the beam is wider than
    1."""
    beam_width: int = Field(1, ge=1, le=256)
    """Number of candidates for the beginning of a row that are kept from column to column (K-best search); 1 is GPTQ's
    greedy choice. A wider beam gives smaller errors and takes this many times as long. Prices then do not change within
    a sweep."""
    damping: float = Field(0.01, ge=0)
    """The number added to the diagonal of H, as a share of the diagonal's mean."""
    descents: int = Field(0, ge=0)
    """Passes of coordinate descent after the feedback, which choose each weight again with all others fixed."""
    act_order: bool = False
    """Whether the columns of a layer are quantized by decreasing H_jj instead of in stored order (``act-order`` of
    GPTQ's code)."""
    curvature: float = Field(0.0, ge=0, le=1)
    """How far steps follow what errors cost: row r of tensor t has the step ``step`` (c_t g_r)^(-curvature / 2), where
    c_t is the mean gain of the tensor's columns and g_r the relative cost of the row, in the unit of the loss
    (``second-moments: {outputs: 100}``). 0: one step for all. 1: an error of one step costs the same everywhere, the
    optimum at high rates (Gish and Pierce 1968); at low rates nothing is left of insensitive weights."""
    dither: bool = False
    """Universal quantization (Ziv 1985; arXiv:1802.02271): each weight's grid is shifted by a dither that the decoder
    redraws from the seed in the file; errors are then uniform and independent of the weights."""

    @model_validator(mode="after")
    def _fixed(self) -> GPTQ:
        if self.bits is None and self.granularity in ("channel", "group"):
            raise ValueError(f"granularity '{self.granularity}' needs bits instead of a step")
        if self.bits is not None and (self.lam > 0 or self.beam_width > 1 or self.dither):
            raise ValueError("fixed bits cannot be combined with a price (lam), a beam or a dither")
        idle = ("step",) if self.bits is not None else ("group", "symmetric", "scales", "fit")
        given = [name for name in idle if getattr(self, name) != type(self).model_fields[name].default]
        if given:
            instead = "fixed bits have no step" if self.bits is not None else "only grids of fixed bits have them"
            raise ValueError(f"{', '.join(given)} would have no effect: {instead}")
        if self.curvature > 0 and (self.bits is not None or self.granularity != "global"):
            raise ValueError("curvature needs a step, and granularity: global")
        if self.curvature > 0 and self.dither:
            raise ValueError("curvature cannot be combined with a dither, whose step is one for a tensor")
        return self

    def uses_rate(self) -> bool:
        return self.lam > 0

    def uses_seed(self) -> bool:
        return self.dither

    def quantize(self, source: Source) -> Quantized:
        if self.bits is not None:
            return self._at_bits(self.bits, source)
        return beside_constants(source, self._quantize) if self.granularity == "layer" else self._quantize(source)

    def _quantize(self, source: Source, scales: Tensor | None = None) -> Quantized:
        """scales: (1,) or (tensors,), the unit of each tensor's step, where it is not that of the source's weights."""
        moments = self._moments_of(source)
        steps = self._steps(source, moments, scales)
        rows = self._row_steps(source, moments, steps)
        each = rows.array.per.split(rows.values, [t.shape for t in source.tensors]) if rows else steps.unbind()
        parts, error, power = [], 0.0, 0.0
        for tensor, own, step in zip(source.tensors, moments, each, strict=True):
            levels, figures = self._tensor(source, tensor, own, step.double())
            parts.append(levels)
            error, power = error + figures[0], power + figures[1]
        levels = torch.cat(parts)
        low, high = (int(edge) for edge in levels.aminmax())
        if max(-low, high) >= LARGEST_LEVEL:
            raise BadInput("the weights lie too many steps from zero: take a larger step")
        scalar.check_alphabet(high - low + 1, "take a larger step")
        symbols = (levels - low).to(torch.int32)
        statistics = {
            "entropy": scalar.entropy(torch.bincount(symbols)),
            "output_error": error / power if power else 0.0,
        }
        shared = self.granularity == "global" and not self.curvature
        parameters = rows.parameters if rows else {"step": (steps[:1] if shared else steps).to(source.device)}
        grid = Quantized(
            symbols, high - low + 1, source.sizes, parameters, {**(rows.side if rows else {}), "offset": low}, "grid",
            statistics=statistics,
            structure=Structure.of(source, arrays={"step": rows.array}) if rows else None,
        )  # fmt: skip
        return replace(grid, side={**grid.side, "seed": source.seed}, form="dithered-grid") if self.dither else grid

    def _at_bits(self, bits: int, source: Source) -> Quantized:
        plain = RTN(
            bits=bits, granularity=self.granularity, group=self.group, symmetric=self.symmetric, scales=self.scales,
            fit=self.fit,
        )  # fmt: skip
        q, grids = grids_of(plain, source)
        values, error, power = [], 0.0, 0.0
        for tensor, own, grid in zip(source.tensors, self._moments_of(source), grids, strict=True):
            if not tensor.size:
                values.append(torch.zeros_like(grid.scale))
                continue
            gram = own.gram.double()
            kept = source.weights[tensor.start : tensor.stop].double()
            whole = (
                kept.reshape(tensor.shape)
                if tensor.mask is None
                else torch.zeros(tensor.shape, dtype=torch.float64, device=source.device).masked_scatter(
                    tensor.mask, kept
                )
            )
            matrix, mask = own.rows(whole), None if tensor.mask is None else own.rows(tensor.mask)
            as_rows = replace(
                grid, scale=own.rows(grid.scale.reshape(tensor.shape)), zero=own.rows(grid.zero.reshape(tensor.shape))
            )
            if own.diagonal:  # no column can compensate another
                found = as_rows.levels(matrix, as_rows.scale, as_rows.zero) * as_rows.scale
            else:
                found = self._levels(matrix, gram, mask, 1.0, None, as_rows.choose)
            values.append(own.tensor(found, tensor.shape).reshape(grid.scale.shape))
            error, power = error + feedback.power(matrix - found, gram), power + feedback.power(matrix, gram)
        figures = {"output_error": error / power if power else 0.0}
        return replace(with_levels(q, grids, values, source), statistics=figures)

    def knob(self, source: Source) -> Knob:
        if self.bits is not None:
            return Knob("bits", 2, 8, "linear", integer=True, more_bytes="up")
        deviation = (scalar.moments(source)[1] or 1.0) if self.granularity == "global" else 1.0
        if self.curvature and isinstance(source.sensitivity, SecondMoments):
            deviation *= self._mean_cost(source) ** (self.curvature / 2)
        start = deviation * gaussian_step(2)
        return Knob("step", deviation / 256, deviation * 8, "log", more_bytes="down", start=start)

    def _mean_cost(self, source: Source) -> float:
        """The geometric mean of what errors cost over all weights."""
        own = self._moments_of(source)
        logs = tensor_costs(own, self.damping).log()
        for index, (tensor, moments) in enumerate(zip(source.tensors, own, strict=True)):
            rows = row_costs(tensor, moments) if tensor.shape else None
            logs[index] += 0.0 if rows is None else float(rows.clamp_min(CHEAPEST).log().mean())
        return float((logs * torch.tensor(source.sizes)).sum().div(source.n).exp())

    def _scales(self, source: Source) -> Tensor:
        """(1,) or (tensors,) float64, on the CPU: the unit of each tensor's step."""
        return step_scales(source, "layer" if self.granularity == "layer" else "global")

    def _steps(self, source: Source, moments: Sequence[Moments], scales: Tensor | None = None) -> Tensor:
        """(tensors,) float32, on the CPU: the steps by which the decoder multiplies each tensor's levels."""
        if self.step < SMALLEST_STEP:
            raise BadInput(f"a step of {self.step} is 0 in float32: take a larger one")
        if self.curvature:
            scales = tensor_costs(moments, self.damping) ** (-self.curvature / 2)
        elif scales is None:
            scales = self._scales(source)
        return steps_of(self.step, scales).expand(len(source.tensors))

    def _row_steps(self, source: Source, moments: Sequence[Moments], steps: Tensor) -> Entries | None:
        """Steps of rows, where errors of a tensor's rows cost differently."""
        if not self.curvature or self.dither:
            return None
        return row_steps(source, moments, steps, self.curvature)

    def _moments_of(self, source: Source) -> list[Moments]:
        """Those of each tensor, float32. Raises BadInput for what does not fit, or is not finite."""
        known: SecondMoments = self.needs(source, SecondMoments)
        return known.of_tensors(source.tensors)

    def _tensor(
        self, source: Source, tensor: SourceTensor, moments: Moments, step: Tensor
    ) -> tuple[Tensor, tuple[float, float]]:
        """(kept,) float64 levels of one tensor; the squared error of its outputs and their squares, summed over
        outputs.

        step: one, or (shape[0],) of the first axis.
        """
        if not tensor.size:
            return source.weights.new_empty(0, dtype=torch.float64), (0.0, 0.0)
        gram = moments.gram.double()
        mask = None if tensor.mask is None else moments.rows(tensor.mask)
        step = step.to(source.device).double()
        if step.dim():
            step = step.reshape(-1, *(1,) * (len(tensor.shape) - 1)).expand(tensor.shape)
        kept_step = step if not step.dim() else step.reshape(-1) if tensor.mask is None else step[tensor.mask]
        own = source.weights[tensor.start : tensor.stop].double() / kept_step

        def spread(kept: Tensor) -> Tensor:
            """(outputs, m), 0 where pruned."""
            whole = kept
            if tensor.mask is not None:
                whole = torch.zeros(tensor.shape, dtype=kept.dtype, device=kept.device)
                whole = whole.masked_scatter(tensor.mask, kept)
            return moments.rows(whole.reshape(tensor.shape))

        # the decoded weight is level - x (x the dither), so the levels must approximate w + x
        dithered = own + unit_dither(source.seed, (own.numel(),), own.device) if self.dither else own
        typical = float(step.log().mean().exp())
        levels = self._levels(spread(dithered), gram, mask, typical, source.rate)
        unit = moments.rows(step) if step.dim() else step
        lost, before = (spread(dithered) - levels) * unit, spread(own) * unit
        error = feedback.power(lost, gram), feedback.power(before, gram)
        whole = moments.tensor(levels, tensor.shape)
        return (whole.reshape(-1) if tensor.mask is None else whole[tensor.mask]), error

    def _levels(
        self,
        matrix: Tensor,
        h: Tensor,
        mask: Tensor | None,
        step: float,
        rate: Rate | None,
        choose: Choose = nearest,
    ) -> Tensor:
        """(O, m) float64 levels that ``choose`` selects (integers, if it is ``nearest``), 0 where the mask is False."""
        descending = self.act_order
        diagonal = h.shape[1] != h.shape[2]
        found: Iterable[Rows]
        if diagonal:
            found = [feedback.lone_columns(matrix, h, mask)]
        elif mask is not None and not bool(mask.all()):
            affordable = feedback.affordable(mask)
            solved = feedback.masked_rows if affordable else feedback.whole_rows
            found = solved(matrix, h, self.damping, descending, mask)
        else:
            found = feedback.whole_rows(matrix, h, self.damping, descending)
        # prices depend on all symbols; without any, a batch of rows after another
        batches = [list(found)] if self.lam > 0 else ([part] for part in found)
        # one column more for padding
        levels = matrix.new_zeros(len(matrix), matrix.shape[1] + 1)
        # columns are small, and each waits for the one before: threads that synchronize after each column take longer
        # than one thread, and many times as long where another process occupies one of their cores
        threads = torch.get_num_threads()
        with one_thread():
            for parts in batches:
                self._choose(parts, rate, step, choose, threads)
                for part in parts:
                    assert part.levels is not None
                    levels[part.rows[:, None, :], part.columns[:, :, None]] = part.levels
        return _rounded_where_unseen(levels[:, :-1], matrix, h, mask) if diagonal else levels[:, :-1]

    def _choose(self, parts: list[Rows], rate: Rate | None, step: float, choose: Choose, threads: int) -> None:
        """threads: of a beam search, whose rows wait for nothing."""
        if self.lam > 0 and rate is not None:
            self._priced(parts, rate, step, threads)
            return
        for part in parts:
            if self.beam_width > 1:
                part.search(np.zeros(1), self.reach, self.beam_width, threads)
            else:
                part.sweep(choose)
            for _ in range(self.descents):
                part.descend(choose)

    def _pull(self, parts: list[Rows], lam: float) -> float:
        """The cost assumed for the square of a weight that is still to be quantized; see ``cerwu``."""
        return 0.0

    def _priced(self, parts: list[Rows], rate: Rate, step: float, threads: int) -> None:
        # lambda in units of steps^2 times gain
        lam = self.lam * (mean_gain(parts) if self.unit == "step" else 1 / step**2)
        pull = self._pull(parts, lam)
        for part in parts:
            if pull:
                part.pulled(pull)
            part.levels = part.weights.round()
        prices = Prices(parts, rate, lam, self.reach, pull)
        for sweep in range(self.sweeps):
            prices.adaptive = sweep > 0
            for part in parts:
                if self.beam_width > 1:
                    part.search(prices.price.cpu().numpy(), self.reach, self.beam_width, threads)
                else:
                    part.sweep(prices)
            prices.count(parts)
        for _ in range(self.descents):
            for part in parts:
                part.descend(prices)
            prices.count(parts)


def _rounded_where_unseen(levels: Tensor, matrix: Tensor, h: Tensor, mask: Tensor | None) -> Tensor:
    """The levels, with plain rounding for inputs that no sample has: an embedding's row that was never looked up in the
    samples is still used in the network.

    matrix: (O, m) in steps; h: (G, 1, m).
    """
    unseen = (h == 0).expand(-1, len(matrix) // len(h), -1).reshape(matrix.shape)
    rounded = matrix.round() if mask is None else matrix.round() * mask
    return torch.where(unseen, rounded, levels)
