"""Sums of products of input vectors, by whichever way, against the unfolded definition."""

from __future__ import annotations

import pytest
import torch
from nqbench_training.grams import Missing, Products, gram, slides, spacing
from torch import Tensor, nn

from nqbench.api import Moments
from nqbench.api.toolkit.uses import Geometry
from nqbench.api.toolkit.windows import Window


def unfolded(layer: nn.Conv2d, x: Tensor) -> Tensor:
    """(B, groups, m, L) by torch's own im2col."""
    vectors = nn.functional.unfold(x, layer.kernel_size, layer.dilation, layer.padding, layer.stride)
    return vectors.reshape(len(x), layer.groups, -1, vectors.shape[-1])


@pytest.mark.parametrize(
    ("kernel", "options", "size", "sliding"),
    [
        ((3, 3), {"padding": 1}, (6, 5), True),
        ((5, 5), {"padding": 2}, (7, 9), True),
        ((5, 3), {"padding": (3, 0)}, (8, 6), True),
        ((3, 5), {"padding": (1, 2)}, (2, 6), True),
        ((2, 3), {"padding": 1}, (1, 5), True),
        ((3, 3), {}, (6, 5), False),
        ((1, 1), {}, (6, 5), False),
        ((3, 3), {"padding": 1, "stride": 2}, (6, 5), False),
        ((3, 3), {"padding": 2, "dilation": 2}, (6, 5), False),
        ((3, 3), {"padding": 1, "groups": 2}, (9, 9), False),
    ],
)
def test_moments_and_products_of_two_inputs_are_those_of_the_unfolded_vectors(
    kernel: tuple[int, int], options: dict[str, int], size: tuple[int, int], sliding: bool
) -> None:
    layer = nn.Conv2d(4, 6, kernel, **options)  # type: ignore[arg-type]
    window = Window.of(layer)
    assert slides(window) == sliding
    geometry = Geometry("convolution", 0, layer.groups, window)
    x, y = torch.randn(2, 60, 4, *size, generator=torch.Generator().manual_seed(0))
    a, b = unfolded(layer, x), unfolded(layer, y)
    count = a.shape[0] * a.shape[3]
    own, both = (Products(geometry, layer.weight.shape) for _ in range(2))
    own.add(x[:33])
    own.add(x[33:].contiguous(memory_format=torch.channels_last))
    both.add(x, y)
    torch.testing.assert_close(own.mean(), torch.einsum("bgil,bgjl->gij", a, a) / count, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(both.mean(), torch.einsum("bgil,bgjl->gij", a, b) / count, rtol=1e-4, atol=1e-5)


def test_a_linear_layer_on_sequences_sees_every_token() -> None:
    x = torch.randn(7, 5, 4, generator=torch.Generator().manual_seed(0))
    products = Products(Geometry("product"), torch.Size((3, 4)))
    products.add(x.reshape(-1, 4))
    torch.testing.assert_close(products.mean()[0], torch.einsum("bti,btj->ij", x, x) / 35)


@pytest.mark.parametrize(("groups", "places"), [(1, 3), (1, 100), (2, 3), (2, 100)])
def test_gram_sums_the_outer_products(groups: int, places: int) -> None:
    x = torch.randn(5, groups * 4, places, generator=torch.Generator().manual_seed(0))
    expected = torch.einsum("bgil,bgjl->gij", *[x.reshape(5, groups, 4, places)] * 2)
    torch.testing.assert_close(gram(x, groups), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("kernel", "side", "samples", "columns", "every"),
    [
        (3, 32, 1000, 64, 7),  # 9 rows of one channel: 128 samples are enough
        (3, 4, 1000, 1000, 1),  # 9,000 vectors of 16 a sample: 563 samples, more than half
        (3, 4, 1000, 400, 4),  # 3,600 vectors: 225 samples
        (3, 32, 1000, None, 1),
        (3, 32, 100, 1, 1),
        (3, 112, 100, 64, 6),  # 12,544 vectors a sample: 16 samples are enough
        (3, 64, 100, 64, 3),  # 4,096: 32 samples
    ],
)
def test_samples_are_spread_so_that_each_row_has_its_vectors(
    kernel: int, side: int, samples: int, columns: int | None, every: int
) -> None:
    window = Window((kernel, kernel), (1, 1), (1, 1), (1, 1))
    x = torch.zeros(samples, 1, side, side)
    assert spacing(Geometry("convolution", window=window), x, columns) == every
    assert spacing(Geometry("product"), x, columns) == 1


_CONVOLUTIONS: list[tuple[type[nn.Module], tuple[int, ...], dict[str, int], tuple[int, ...]]] = [
    (nn.Conv2d, (4, 6, 3), {"padding": 1}, (6, 5)),
    (nn.Conv2d, (2, 30, 3), {"padding": 1}, (6, 5)),  # more outputs than inputs
    (nn.Conv2d, (4, 6, 3), {"stride": 2, "dilation": 2}, (9, 8)),
    (nn.Conv2d, (4, 8, 3), {"groups": 4, "padding": 2}, (6, 5)),
    (nn.Conv2d, (4, 2, 1), {}, (6, 5)),
    (nn.Conv1d, (4, 6, 5), {"padding": 3, "stride": 2}, (11,)),
    (nn.Conv3d, (2, 3, 2), {"padding": 1}, (3, 4, 2)),
    (nn.ConvTranspose2d, (6, 4, 3), {"stride": 2, "padding": 1, "output_padding": 1}, (4, 5)),
    (nn.ConvTranspose2d, (4, 6, 2), {"groups": 2, "stride": 2}, (4, 5)),
    (nn.ConvTranspose1d, (4, 30, 2), {"dilation": 2}, (7,)),
]


@pytest.mark.parametrize(("layer", "sizes", "options", "places"), _CONVOLUTIONS)
def test_what_outputs_lack_is_that_of_the_unfolded_vectors(
    layer: type[nn.Module], sizes: tuple[int, ...], options: dict[str, int], places: tuple[int, ...]
) -> None:
    made = layer(*sizes, **options)
    weight = made.weight.detach()  # type: ignore[union-attr]
    turned = "Transpose" in layer.__name__
    window = Window(
        made.kernel_size, made.stride, made.padding, made.dilation, made.groups,  # type: ignore[arg-type]
        made.output_padding if turned else None,  # type: ignore[arg-type]
    )  # fmt: skip
    geometry = Geometry("convolution", 1 if turned else 0, window.groups, window)
    was, now = torch.randn(2, 70, sizes[0], *places, generator=torch.Generator().manual_seed(0))
    missing = Missing(geometry, weight)
    missing.add(was[:13], now[:13])
    missing.add(was[13:], now[13:])
    split = (len(now), window.groups, -1)
    before, here = (torch.unflatten(window.columns(x), 1, split[1:]) for x in (was, now))
    moments = Moments(torch.zeros(window.groups, here.shape[2], here.shape[2]), geometry.layout)
    rows = moments.rows(weight).reshape(window.groups, -1, here.shape[2])
    lacking = torch.einsum("gom,bgml->bgol", rows, before - here)
    expected = torch.einsum("bgol,bgml->gom", lacking, here) / (here.shape[0] * here.shape[3])
    torch.testing.assert_close(missing.mean(moments), expected.reshape(-1, here.shape[2]), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("outputs", [2, 9])
def test_what_a_product_s_outputs_lack_is_that_of_its_vectors(outputs: int) -> None:
    generator = torch.Generator().manual_seed(0)
    weight, (was, now) = torch.randn(outputs, 6, generator=generator), torch.randn(2, 50, 6, generator=generator)
    missing = Missing(Geometry("product"), weight)
    missing.add(was, now)
    expected = weight @ (was - now).T @ now / 50
    torch.testing.assert_close(missing.mean(Moments(torch.zeros(1, 6, 6))), expected, rtol=1e-4, atol=1e-5)
