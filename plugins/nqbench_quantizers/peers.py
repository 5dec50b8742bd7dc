"""k-means of other libraries as quantizers, so that a suite can compare speeds. Each is registered only where its
library is installed: the optional extra ``peers``."""

from __future__ import annotations

import numpy as np
import torch
from pydantic import Field

from nqbench.api import Knob, Quantized, Quantizer, Source, scalar


class _Peer(Quantizer):
    """k codewords by another library; weights are assigned to the nearest codeword by nqbench."""

    k: int = Field(16, ge=1, le=65536)
    """Number of codewords."""

    def quantize(self, source: Source) -> Quantized:
        weights = source.weights.cpu().numpy()
        k = min(self.k, np.unique(weights[: 16 * self.k]).size if weights.size <= 16 * self.k else self.k)
        return scalar.nearest(source, torch.from_numpy(np.sort(self.centers(weights, k, source.seed))))

    def centers(self, weights: np.ndarray, k: int, seed: int) -> np.ndarray:
        """(k,) codewords of (n,) float32 weights."""
        raise NotImplementedError

    def knob(self, source: Source) -> Knob:
        return Knob("k", 2, max(2, min(256, source.n)), "log", integer=True, more_bytes="up")


class ScikitLearn(_Peer, name="sklearn-kmeans", requires="scikit-learn", paper="scikit-learn, sklearn.cluster.KMeans"):
    """scikit-learn's KMeans: Lloyd's iteration from one k-means++ start."""

    def uses_seed(self) -> bool:
        return True

    def centers(self, weights: np.ndarray, k: int, seed: int) -> np.ndarray:
        from sklearn.cluster import KMeans

        fit = KMeans(n_clusters=k, n_init=1, random_state=seed % 2**32).fit(weights[:, None])
        return np.asarray(fit.cluster_centers_[:, 0], dtype=np.float64)


class KMeans1D(_Peer, name="kmeans1d", requires="kmeans1d", paper="kmeans1d; Wu 1991"):
    """kmeans1d: the exact optimum in one dimension by the SMAWK algorithm."""

    def centers(self, weights: np.ndarray, k: int, seed: int) -> np.ndarray:
        import kmeans1d  # type: ignore[import-untyped, unused-ignore]

        return np.asarray(kmeans1d.cluster(weights, k).centroids, dtype=np.float64)


class Faiss(_Peer, name="faiss-kmeans", requires="faiss-cpu", paper="faiss, faiss.Kmeans"):
    """faiss's Kmeans: Lloyd's iteration on a sample, from random points."""

    def uses_seed(self) -> bool:
        return True

    def centers(self, weights: np.ndarray, k: int, seed: int) -> np.ndarray:
        import faiss

        fit = faiss.Kmeans(1, k, niter=25, seed=1 + seed % 2**30)
        fit.train(np.ascontiguousarray(weights[:, None]))
        return np.asarray(fit.centroids, dtype=np.float64).reshape(-1)
