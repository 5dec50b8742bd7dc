"""Writes optima.json: kmeans1d's optimal sums of squares, which the tests hold `kmeans` to.

    pip install kmeans1d; python tests/plugins/quantizers/make_optima.py

kmeans1d (Wu 1991; Gronlund et al. 2017) finds the exact optimum of one-dimensional k-means; with 256 clusters of 10^6
numbers it takes a minute, so its answers are kept. The numbers are those of the model `synthetic`, which are the same
everywhere.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

FILE = Path(__file__).with_name("optima.json")
N = 1_000_000
LAWS = ("laplace", "mixture")
CODEWORDS = (16, 32, 256)


def main() -> None:
    import kmeans1d
    from nqbench_models.synthetic import sample

    found = {}
    for law in LAWS:
        weights = sample(N, law, 1.0, 0)
        for k in CODEWORDS:
            clusters, centroids = kmeans1d.cluster(weights, k)
            errors = weights.astype(np.float64) - np.asarray(centroids)[np.asarray(clusters)]
            found[f"{law} {k}"] = float(np.mean(errors**2))
    FILE.write_text(json.dumps({"version": kmeans1d.__version__, "n": N, "mse": found}, indent=1) + "\n")


if __name__ == "__main__":
    main()
