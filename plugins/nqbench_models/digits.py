"""The handwritten digits that come with scikit-learn: 1,797 greyscale images of 8 x 8 pixels, without a download.

The split is fixed: images 0, 3, 6, ... in stored order are the test set (599), the others the training set (1,198).
"""

from __future__ import annotations

from functools import cache

import numpy as np
import torch

from nqbench.api import Split
from nqbench_models.images import Images

NAME = "digits (scikit-learn, every third image for the test)"
MEAN = 0.306
"""Mean intensity, in [0, 1]."""


@cache
def digits(split: Split) -> Images:
    """pixels: (N, 1, 8, 8) uint8 in [0, 255] (the stored 0..16, scaled)."""
    from sklearn.datasets import load_digits

    bundle = load_digits()
    pixels = np.rint(bundle.images * (255 / 16)).astype(np.uint8)[:, None]
    test = np.arange(len(pixels)) % 3 == 0
    chosen = test if split == "test" else ~test
    return Images(torch.from_numpy(pixels[chosen]), torch.from_numpy(bundle.target[chosen].astype(np.int64)))
