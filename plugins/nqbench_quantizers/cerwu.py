"""Rate-constrained error feedback with a quadratic rate for what is still to come [CERWU, 2505.18758].

For a layer (w - q) H (w - q)^T + lambda sum_j bits(q_j) is to be small. ``gptq`` with a price chooses one column after
another, and takes later ones to cost nothing but error. Here they cost bits, too: as long as a weight is not chosen its
bits are those of a Gaussian of the layer's weights, whose variance is s^2, up to a constant::

    bits(q) ~ gamma q^2 / (2 s^2 ln 2)

With kappa = lambda gamma / (2 s^2 ln 2) the form is H' = H + kappa I about w' = w H H'^-1, to which optimal brain
surgeon has its exact solution; the column at hand pays its true bits in place of the quadratic ones:

    q_j = argmin d'_j (target'_j - q)^2 - kappa q^2 + lambda bits(q)

Weights shrink towards zero by as much as their bits are worth. The paper's rate is DeepCABAC's, here it is the coder's
own (``source.rate``). gamma = 0 is ``gptq`` with that price.
"""

from __future__ import annotations

import math

from pydantic import AliasChoices, ConfigDict, Field, model_validator

from nqbench_quantizers.feedback import Rows
from nqbench_quantizers.gptq import GPTQ


class CERWU(GPTQ, name="cerwu", paper="arXiv:2505.18758"):
    """Error feedback where bits have a price, those of later weights by a quadratic rate."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"step": 0.05}, {"step": 0.03, "lam": 0.3, "beam_width": 3, "gamma": 0.5}]}
    )

    lam: float = Field(0.1, gt=0, validation_alias=AliasChoices("lam", "lambda"))
    """The price lambda of a bit. In a suite it may be written ``lambda``."""
    gamma: float = Field(1.0, ge=0)
    """Weight of the quadratic rate; 0: none."""

    @model_validator(mode="after")
    def _entropy_coded(self) -> CERWU:
        if self.bits is not None:
            raise ValueError("cerwu prices an entropy code: it has no fixed bits")
        return self

    def _pull(self, parts: list[Rows], lam: float) -> float:
        total = sum(float(p.weights.square().sum()) for p in parts)
        count = sum(p.weights.numel() if p.kept is None else int(p.kept.sum()) for p in parts)
        variance = total / count if count else 0.0
        # weights below a step are all 0 anyway: they shall not pull without bounds
        return lam * self.gamma / (2 * max(variance, 1 / 12) * math.log(2))
