"""Rate-constrained error feedback with a quadratic rate for the columns still to be quantized [CERWU, 2505.18758].

The objective for a layer is (w - q) H (w - q)^T + lambda sum_j bits(q_j). ``gptq`` with a price chooses one column
after another and ignores the bits of the columns still to come. Here their bits count too: until a weight is quantized,
its rate is approximated by that of a Gaussian with the variance s^2 of the layer's weights, up to a constant::

    bits(q) ~ gamma q^2 / (2 s^2 ln 2)

With kappa = lambda gamma / (2 s^2 ln 2) the form is H' = H + kappa I about w' = w H H'^-1, which optimal brain surgeon
minimizes exactly; the column being quantized is charged its actual bits instead of the quadratic approximation:

    q_j = argmin d'_j (target'_j - q)^2 - kappa q^2 + lambda bits(q)

Weights shrink towards zero according to the price of their bits. The paper takes the rate of DeepCABAC; here it is that
of the trial's coder (``source.rate``). With gamma = 0 the method is ``gptq`` with that price.
"""

from __future__ import annotations

import math

from pydantic import AliasChoices, ConfigDict, Field, model_validator

from nqbench_quantizers.feedback import Rows
from nqbench_quantizers.gptq import GPTQ


class CERWU(GPTQ, name="cerwu", paper="arXiv:2505.18758"):
    """Error feedback with a price on bits; the bits of columns still to come are approximated by a quadratic rate."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"step": 0.05}, {"step": 0.03, "lam": 0.3, "beam_width": 3, "gamma": 0.5}]}
    )

    lam: float = Field(0.1, gt=0, validation_alias=AliasChoices("lam", "lambda"))
    """The price lambda of a bit. In a suite it may be written ``lambda``."""
    gamma: float = Field(1.0, ge=0)
    """gamma, the weight of the quadratic rate; 0: none."""

    @model_validator(mode="after")
    def _entropy_coded(self) -> CERWU:
        if self.bits is not None:
            raise ValueError("cerwu prices the bits of an entropy coder: `bits` cannot be given")
        return self

    def _pull(self, parts: list[Rows], lam: float) -> float:
        total = sum(float(p.weights.square().sum()) for p in parts)
        count = sum(p.weights.numel() if p.kept is None else int(p.kept.sum()) for p in parts)
        variance = total / count if count else 0.0
        # a layer whose weights are all below a step is quantized to 0 anyway: kappa must not grow without bounds
        return lam * self.gamma / (2 * max(variance, 1 / 12) * math.log(2))
