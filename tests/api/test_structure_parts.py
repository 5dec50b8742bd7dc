"""Tables by rule, granularities and the Hadamard transform, each against an independent derivation."""

import itertools
import time
from statistics import NormalDist

import numpy as np
import pytest
import scipy.linalg
import torch

from nqbench.api import BadInput, Per
from nqbench.api.hadamard import rotate, rotate_back, signs
from nqbench.api.tables import table_of


@pytest.mark.parametrize(("rule", "dtype", "count"), [
    ("e4m3", torch.float8_e4m3fn, 253), ("e5m2", torch.float8_e5m2, 247),
])  # fmt: skip
def test_eight_bit_floats_are_torch_s_finite_ones(rule, dtype, count):
    every = torch.arange(256, dtype=torch.uint8).view(dtype).float()
    finite = torch.unique(every[torch.isfinite(every)] + 0.0)
    assert torch.equal(torch.from_numpy(table_of(rule, count).copy()), finite)


def test_fp4_is_the_standard_s_table():
    positive = [0, 0.5, 1, 1.5, 2, 3, 4, 6]
    assert table_of("fp4", 15).tolist() == [-v for v in positive[:0:-1]] + positive


def test_nf4_is_the_normal_quantiles_of_its_paper():
    """Eight quantiles of the positive half, seven of the negative, and 0, divided by the largest."""
    quantile, most = NormalDist().inv_cdf, 0.9677083
    positive = [quantile(p) for p in np.linspace(most, 0.5, 9)[:-1]]
    negative = [-quantile(p) for p in np.linspace(most, 0.5, 8)[:-1]]
    expected = np.sort([*positive, 0.0, *negative]) / max(positive)
    np.testing.assert_allclose(table_of("nf4", 16), expected, atol=2e-7)


@pytest.mark.parametrize(("rule", "d"), [("zd", 1), ("zd", 2), ("zd", 3), ("d4", 4)])
def test_the_first_points_of_a_lattice_by_brute_force(rule, d):
    points = [p for p in itertools.product(range(-5, 6), repeat=d) if rule == "zd" or sum(p) % 2 == 0]
    points = sorted((sum(x * x for x in p), p) for p in points)
    most = sum(norm <= 25 for norm, _ in points)
    for count in (1, 2, most // 3, most):
        assert table_of(rule, count, d).tolist() == [list(p) for _, p in points[:count]]


def test_the_shells_of_e8_have_the_sizes_of_its_theta_series():
    """240 sigma_3(n) points of squared norm 2n; all differ by vectors of the lattice, whose least norm is 2."""
    shells = [240 * sum(k**3 for k in range(1, n + 1) if n % k == 0) for n in range(1, 4)]
    points = table_of("e8", 1 + sum(shells), 8)
    norms, counts = np.unique((points.astype(np.float64) ** 2).sum(1), return_counts=True)
    assert norms.tolist() == [0, 2, 4, 6]
    assert counts.tolist() == [1, *shells]
    assert len(np.unique(points, axis=0)) == len(points)
    few = points[:241].astype(np.float64)
    apart = ((few[:, None] - few[None]) ** 2).sum(2)
    assert apart[apart > 0].min() == 2


def test_the_largest_tables_are_made_at_once():
    start = time.process_time()
    for rule, d in (("zd", 1), ("zd", 2), ("zd", 16), ("d4", 4), ("e8", 8)):
        assert table_of(rule, 1 << 16, d).shape == (1 << 16, d)
    assert time.process_time() - start < 5
    for wrong in (
        ("zd", 5, 17),
        ("zd", (1 << 16) + 1, 2),
        ("nf4", 15, 1),
        ("e8", 5, 4),
        ("nf5", 16, 1),
        ("int", 4, 2),
        ("int", (1 << 16) + 1, 1),
    ):
        with pytest.raises(BadInput):
            table_of(*wrong)


SHAPES = [(), (5,), (3, 7), (4, 2, 3), (2, 3, 2, 2), (0, 4), (3, 0)]


@pytest.mark.parametrize(
    ("former", "today"), [("all", "global"), ("tensor", "layer"), ("axis", "channel"), ("block", "group")]
)
def test_a_granularity_by_its_former_word_is_that_of_today(former, today):
    assert Per(former, 1) == Per(today, 1)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("per", [Per("global"), Per("layer"), Per("channel"), Per("channel", 1), Per("column"),
                                 Per("group", 2), Per("group", 4), Per("group", 100)], ids=str)  # fmt: skip
def test_a_granularity_by_the_place_of_each_weight(per, shape):
    if per.by == "channel" and per.size >= len(shape):
        with pytest.raises(BadInput, match="has no axis"):
            per.entries(shape)
        return
    numel = int(np.prod(shape))
    rows = shape[0] if len(shape) > 1 else 1
    length = numel // rows if rows else 0
    expected = []
    for place, index in enumerate(np.ndindex(shape)):
        row, column = divmod(place, length)
        each = -(-length // per.size) if per.by == "group" else 0
        expected.append({"global": 0, "layer": 0, "column": column}.get(per.by, -1))
        if per.by == "channel":
            expected[-1] = index[per.size]
        if per.by == "group":
            expected[-1] = row * each + column // per.size
    count = per.entries(shape)
    assert count == (max(expected) + 1 if expected else per.by == "global")
    entries = torch.arange(max(count, 1), dtype=torch.float32)[:count]
    assert per.spread(entries, shape).tolist() == expected
    places = torch.arange(numel, dtype=torch.float32) + 1
    matrix = per.gathered(places, shape, fill=-1.0)
    if numel:
        assert matrix.shape[0] == count
        for entry in range(count):
            own = [place + 1 for place, e in enumerate(expected) if e == entry]
            assert [v for v in matrix[entry].tolist() if v > 0] == own
    assert torch.equal(per.scattered(matrix, shape), places)


@pytest.mark.parametrize(("lengths", "block"), [([16, 16], 16), ([16, 16], 4), ([7, 0, 13, 1], 8), ([37], 32)])
def test_the_transform_is_hadamard_s_matrix_block_by_block(lengths, block):
    x = torch.randn(sum(lengths), generator=torch.Generator().manual_seed(0))
    seed, rotated = 12345678901234, None
    sign = signs(seed, x).numpy()
    expected, at = [], 0
    for length in lengths:
        while length:
            size = min(block, 1 << (length.bit_length() - 1))
            matrix = scipy.linalg.hadamard(size) / np.sqrt(size)
            expected.append(matrix @ (sign * x.numpy())[at : at + size])
            at, length = at + size, length - size
    rotated = rotate(x, torch.tensor(lengths), block, seed)
    np.testing.assert_allclose(rotated.numpy(), np.concatenate(expected), atol=1e-5)
    torch.testing.assert_close(rotate_back(rotated, torch.tensor(lengths), block, seed), x, atol=1e-6, rtol=1e-5)
    assert 0 < (signs(seed, torch.empty(1000)) > 0).float().mean() < 1


def test_the_inverse_transform_has_its_transpose_as_gradient():
    y = torch.randn(21, generator=torch.Generator().manual_seed(1)).requires_grad_()
    weights = torch.randn(21, generator=torch.Generator().manual_seed(2))
    (rotate_back(y, torch.tensor([14, 7]), 8, 3) * weights).sum().backward()
    torch.testing.assert_close(y.grad, rotate(weights, torch.tensor([14, 7]), 8, 3))
