"""Error feedback against the surgeon's update by elimination, brute force, and the cases that are known on paper."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from nqbench_quantizers import feedback
from nqbench_quantizers.cerwu import CERWU
from nqbench_quantizers.gptq import GPTQ
from nqbench_quantizers.prices import Prices
from nqbench_quantizers.watersic import WaterSIC
from pydantic import ValidationError
from scipy.stats import kstest
from torch import Tensor

from nqbench.api import BadInput, Coder, Quantized, SecondMoments, Source, SourceTensor, dither


def moments(m: int, groups: int = 1, seed: int = 0) -> Tensor:
    """(groups, m, m) of correlated inputs, positive definite."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(groups, m, 4 * m, generator=generator) + torch.randn(groups, 1, 4 * m, generator=generator)
    return x @ x.mT / (4 * m)


def weights(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * 0.1


def source(w: Tensor, h: Tensor, mask: Tensor | None = None) -> Source:
    kept = w.reshape(-1) if mask is None else w[mask]
    tensor = SourceTensor("w", tuple(w.shape), 0, kept.numel(), mask)
    return Source(kept, (tensor,), SecondMoments((h,)), rate=Coder().rate)


def levels(q: Quantized) -> Tensor:
    return q.symbols.double() + q.side["offset"]


def damped(h: Tensor, damping: float) -> Tensor:
    h = h.double()
    return h + damping * h.diagonal().mean() * torch.eye(len(h), dtype=torch.float64)


def surgeon(w: Tensor, h: Tensor, step: float) -> Tensor:
    """Hassibi and Stork's update, weight by weight, with the inverse of what is left by elimination."""
    w, inverse = w.double().clone(), torch.linalg.inv(h)
    out = torch.zeros_like(w)
    for j in range(w.shape[1]):
        out[:, j] = (w[:, j] / step).round()
        error = (w[:, j] - step * out[:, j]) / inverse[j, j]
        w -= error[:, None] * inverse[j]
        inverse = inverse - torch.outer(inverse[:, j], inverse[j]) / inverse[j, j]
    return out


def cost(w: Tensor, q: Tensor, h: Tensor) -> float:
    e = w.double() - q.double()
    return float(((e @ h.double()) * e).sum())


def test_levels_are_those_of_the_surgeons_update_with_the_inverse_by_elimination() -> None:
    w, h = weights(7, 12), moments(12)
    q = GPTQ(step=0.07, damping=0.02).quantize(source(w, h))
    step = float(q.parameters["step"])
    assert torch.equal(levels(q).reshape(7, 12), surgeon(w, damped(h[0], 0.02), step))
    torch.testing.assert_close(q.reconstruct(), (levels(q) * step).float())


def test_targets_are_the_surgeons_pushed_weights() -> None:
    w, h, step = weights(3, 6), moments(6), 0.09
    seen: list[Tensor] = []

    def watch(rows: feedback.Rows, j: int, target: Tensor, gain: Tensor) -> Tensor:
        seen.append(target[0].clone())
        return target.round()

    next(feedback.whole_rows(w.double() / step, h.double(), 0.01, False)).sweep(watch)
    pushed, inverse = w.double() / step, torch.linalg.inv(damped(h[0], 0.01))
    for j in range(6):
        torch.testing.assert_close(seen[j], pushed[:, j], rtol=1e-5, atol=1e-8)
        pushed = pushed - ((pushed[:, j] - pushed[:, j].round()) / inverse[j, j])[:, None] * inverse[j]
        inverse = inverse - torch.outer(inverse[:, j], inverse[j]) / inverse[j, j]


def test_the_sum_over_columns_is_the_quadratic_form() -> None:
    h = moments(9).double()
    lower, gain = feedback.factor(h, 0.0)
    torch.testing.assert_close(lower[0].T @ gain[0].diag() @ lower[0], h[0], rtol=1e-6, atol=1e-6)
    assert torch.equal(lower[0].triu(1), torch.zeros(9, 9, dtype=torch.float64))


def test_feedback_is_on_average_better_than_rounding_and_no_better_than_the_best_of_all() -> None:
    step, gained = 0.15, []
    for seed in range(40):
        w, h = weights(1, 5, seed=seed), moments(5, seed=seed)
        q = GPTQ(step=step, damping=0.0).quantize(source(w, h)).reconstruct().reshape(1, 5)
        nearest = (w / step).round()
        around = itertools.product(*[[int(v) + k for k in (-1, 0, 1)] for v in nearest[0]])
        best = min(cost(w, torch.tensor([point]) * step, h[0]) for point in around)
        assert cost(w, q, h[0]) >= best * (1 - 1e-5)
        gained.append(cost(w, q, h[0]) / cost(w, nearest * step, h[0]))
    assert np.exp(np.mean(np.log(gained))) < 0.8


def test_uncorrelated_inputs_leave_rounding() -> None:
    w = weights(6, 10)
    h = torch.diag(torch.linspace(0.1, 5, 10))[None]
    q = GPTQ(step=0.05).quantize(source(w, h))
    assert torch.equal(levels(q), (w.double() / float(q.parameters["step"])).round().reshape(-1))


def test_a_dither_moves_what_the_levels_have_to_meet_and_is_taken_off_again() -> None:
    w, h = weights(7, 12), moments(12)
    s = source(w, h).with_(seed=5)
    q = GPTQ(step=0.07, damping=0.02, dither=True).quantize(s)
    step, x = float(q.parameters["step"]), dither(5, 1.0, 84).double().reshape(7, 12)
    assert torch.equal(levels(q).reshape(7, 12), surgeon(w.double() + step * x, damped(h[0], 0.02), step))
    torch.testing.assert_close(q.reconstruct().reshape(7, 12), (step * (levels(q).reshape(7, 12) - x)).float())
    found = cost(w, q.reconstruct().reshape(7, 12), h[0]) / cost(w, torch.zeros_like(w), h[0])
    assert q.statistics["output_error"] == pytest.approx(found, rel=1e-5)
    assert not torch.equal(q.symbols, GPTQ(step=0.07, damping=0.02, dither=True).quantize(s.with_(seed=6)).symbols)


def test_dithered_errors_are_uniform_even_where_all_weights_are_alike() -> None:
    w = torch.full((400, 50), 0.123)
    plain, dithered = (
        (GPTQ(step=0.1, dither=on).quantize(source(w, torch.eye(50)[None])).reconstruct() - 0.123) / 0.1
        for on in (False, True)
    )
    assert plain.unique().numel() == 1
    assert kstest(dithered.numpy(), "uniform", (-0.5, 1)).pvalue > 0.01
    assert float(dithered.square().mean()) == pytest.approx(1 / 12, rel=0.02)


@pytest.mark.parametrize("beam_width", [1, 4])
def test_pruned_places_have_no_dither(beam_width: int) -> None:
    w, h = weights(6, 10), moments(10)
    mask = torch.rand(6, 10, generator=torch.Generator().manual_seed(1)) < 0.5
    q = GPTQ(step=0.05, dither=True, beam_width=beam_width).quantize(source(w * mask, h, mask))
    deployed = torch.zeros(6, 10).masked_scatter(mask, q.reconstruct())
    x = dither(0, 1.0, int(mask.sum()))
    torch.testing.assert_close(deployed[mask] / 0.05 + x, levels(q).float())
    shift = torch.zeros(6, 10).masked_scatter(mask, 0.05 * x)
    rounded = torch.where(mask, 0.05 * ((w + shift) / 0.05).round() - shift, 0)
    assert cost(w * mask, deployed, h[0]) < cost(w * mask, rounded, h[0])


def test_uncorrelated_inputs_leave_scalar_quantization_with_a_price() -> None:
    w, lam = weights(40, 10), 0.2
    q = GPTQ(step=0.05, lam=lam, sweeps=1, reach=20).quantize(source(w, torch.eye(10)[None]))
    t = (w.double() / float(q.parameters["step"])).reshape(-1)
    span = int(t.abs().max().ceil()) + 1
    grid = torch.arange(-span, span + 1, dtype=torch.float64)
    counts = torch.bincount((t.round() + span).long(), minlength=len(grid))
    bits = torch.from_numpy(Coder().rate(counts.numpy()))
    # damping adds one percent to the gain, and to the unit of lambda
    expected = grid[((t[:, None] - grid).square() + lam * bits).argmin(1)]
    assert torch.equal(levels(q), expected)


def test_each_choice_is_the_argmin_of_its_formula() -> None:
    w, h, lam = weights(5, 8).double() / 0.1, moments(8).double(), 0.3
    (rows,) = feedback.whole_rows(w, h, 0.01, False)
    rows.levels = rows.weights.round()
    prices = Prices([rows], Coder().rate, lam, 3)
    target = rows.weights[:, 4] + 0.31
    got = prices(rows, 4, target, rows.gain[:, 4, None])
    for r in range(5):
        t = float(target[0, r])
        tried = {round(t) + k for k in range(-3, 4)} | {0}
        span = prices.span
        values = {x: float(rows.gain[0, 4]) * (t - x) ** 2 + float(prices.price[x + span]) for x in tried}
        assert values[int(got[0, r])] == pytest.approx(min(values.values()), rel=1e-12)


def test_adaptive_prices_end_with_the_counts_of_the_last_sweep() -> None:
    (rows,) = feedback.whole_rows(weights(30, 20).double() / 0.05, moments(20).double(), 0.01, False)
    rows.levels = rows.weights.round()
    prices = Prices([rows], Coder().rate, 0.5, 1)
    prices.adaptive = True
    rows.sweep(prices)
    kept = prices.counts.clone()
    prices.count([rows])
    assert torch.equal(kept, prices.counts)
    assert int(kept.sum()) == 600


def test_a_higher_price_gives_fewer_bits_and_a_larger_error() -> None:
    w, h = weights(60, 40), moments(40)
    figures = [GPTQ(step=0.03, lam=lam).quantize(source(w, h)).statistics for lam in (0.0, 0.1, 0.4)]
    assert figures[0]["entropy"] > figures[1]["entropy"] > figures[2]["entropy"]
    assert figures[0]["output_error"] < figures[1]["output_error"] < figures[2]["output_error"]


def test_descent_ends_where_no_single_change_helps_and_never_made_it_worse() -> None:
    w, h, step = weights(6, 10), moments(10), 0.1
    before = cost(w, GPTQ(step=step, damping=0.0).quantize(source(w, h)).reconstruct().reshape(6, 10), h[0])
    values = GPTQ(step=step, damping=0.0, descents=30).quantize(source(w, h)).reconstruct().reshape(6, 10)
    after = cost(w, values, h[0])
    assert after < before
    for r, j, k in itertools.product(range(6), range(10), (-1, 1)):
        other = values.clone()
        other[r, j] += k * step
        assert cost(w, other, h[0]) >= after - 1e-9


@pytest.mark.parametrize("lam", [0.0, 0.2])
def test_blocks_change_nothing(lam: float) -> None:
    results = []
    for block in (1, 7, 128):
        (rows,) = feedback.whole_rows(weights(9, 50).double() / 0.04, moments(50).double(), 0.01, False)
        rows.levels = rows.weights.round()
        prices = Prices([rows], Coder().rate, lam, 1)
        rows.sweep(prices, block=block)
        rows.descend(prices, block=block)
        assert rows.levels is not None
        results.append(rows.levels)
    assert all(torch.equal(results[0], other) for other in results)


def test_act_order_is_natural_order_of_the_permuted_layer() -> None:
    w, h = weights(6, 14), moments(14)
    h = h * torch.linspace(0.5, 2, 14)[torch.randperm(14, generator=torch.Generator().manual_seed(3))].outer(
        torch.ones(14)
    )
    h = (h + h.mT) / 2 + 2 * torch.eye(14)
    order = torch.argsort(h[0].diagonal(), descending=True)
    got = levels(GPTQ(step=0.05, act_order=True).quantize(source(w, h))).reshape(6, 14)
    permuted = levels(GPTQ(step=0.05).quantize(source(w[:, order], h[:, order][:, :, order]))).reshape(6, 14)
    assert torch.equal(got[:, order], permuted)


def test_groups_are_layers_of_their_own() -> None:
    w, h = weights(6, 2, 3, 3), moments(18, groups=3)
    got = levels(GPTQ(step=0.05).quantize(source(w, h))).reshape(3, 2, 18)
    for g in range(3):
        alone = GPTQ(step=0.05).quantize(source(w[2 * g : 2 * g + 2], h[g : g + 1]))
        assert torch.equal(got[g].reshape(-1), levels(alone))


def test_a_step_per_tensor_is_a_multiple_of_its_deviation() -> None:
    first, second = weights(4, 6), 10 * weights(3, 5, seed=1)
    h = (moments(6), moments(5))
    tensors = (SourceTensor("a", (4, 6), 0, 24, None), SourceTensor("b", (3, 5), 24, 39, None))
    both = Source(torch.cat([first.reshape(-1), second.reshape(-1)]), tensors, SecondMoments(h))
    q = GPTQ(step=0.5, granularity="layer").quantize(both)
    for name, w, moment, part in (("a", first, h[0], slice(0, 24)), ("b", second, h[1], slice(24, 39))):
        step = float(np.float32(0.5 * w.double().std(correction=0)))
        alone = GPTQ(step=step).quantize(source(w, moment))
        assert torch.equal(levels(q)[part], levels(alone)), name
        torch.testing.assert_close(q.reconstruct()[part], alone.reconstruct())
    one = GPTQ(step=0.5, granularity="layer").quantize(source(first, h[0]))
    assert torch.equal(levels(one), levels(q)[:24])


@pytest.mark.parametrize("act_order", [False, True])
def test_a_pruned_row_is_a_layer_of_its_kept_columns(act_order: bool) -> None:
    w, h = weights(8, 12), moments(12)
    mask = torch.rand(8, 12, generator=torch.Generator().manual_seed(1)) < 0.5
    mask[3] = False
    quantizer = GPTQ(step=0.05, act_order=act_order, damping=0.01)
    got, start = levels(quantizer.quantize(source(w, h, mask))), 0
    for row, chosen in zip(w, mask, strict=True):
        size = int(chosen.sum())
        if size:
            alone = quantizer.quantize(source(row[chosen][None], h[:, chosen][:, :, chosen]))
            assert torch.equal(got[start : start + size], levels(alone))
        start += size
    assert start == len(got)


def test_shared_factors_keep_pruned_places_at_zero_and_still_gain(monkeypatch: pytest.MonkeyPatch) -> None:
    w, h = weights(40, 16), moments(16)
    mask = torch.rand(40, 16, generator=torch.Generator().manual_seed(1)) < 0.6
    w = w * mask
    errors = []
    for quantize in ("rounded", "shared", "own"):
        if quantize == "shared":
            monkeypatch.setattr(feedback, "affordable", lambda mask: False)
        else:
            monkeypatch.undo()
        flat = source(w, torch.diag_embed(h.diagonal(dim1=1, dim2=2)) if quantize == "rounded" else h, mask)
        values = torch.zeros_like(w)
        values[mask] = GPTQ(step=0.1).quantize(flat).reconstruct()
        errors.append(cost(w, values, h[0]))
    assert errors[2] < errors[1] < errors[0]


@pytest.mark.parametrize("lam", [0.0, 0.3])
@pytest.mark.parametrize("damping", [0.0, 0.01])
def test_degenerate_moments_give_a_finite_result(lam: float, damping: float) -> None:
    w, one = weights(4, 6), torch.ones(6)
    for h in (
        torch.zeros(6, 6),
        torch.outer(one, one),
        torch.diag(torch.tensor([1.0, 0, 0, 2, 0, 1e-30])),
        -torch.eye(6),
    ):
        for mask in (None, torch.rand(4, 6, generator=torch.Generator().manual_seed(2)) < 0.5):
            q = GPTQ(step=0.05, lam=lam, damping=damping).quantize(source(w, h[None], mask))
            assert bool(torch.isfinite(q.reconstruct()).all())
            assert float(q.reconstruct().abs().max()) < 5


def test_a_dead_input_costs_nothing_and_no_moments_at_all_leave_rounding() -> None:
    w = weights(4, 3)
    h = torch.diag(torch.tensor([1.0, 0.0, 2.0]))[None]
    got = levels(GPTQ(step=0.02).quantize(source(w, h))).reshape(4, 3)
    assert bool((got[:, 1] == 0).all())
    assert bool((got[:, [0, 2]] != 0).any())
    blind = GPTQ(step=0.02).quantize(source(w, torch.zeros(1, 3, 3)))
    assert torch.equal(levels(blind), (w.double() / float(blind.parameters["step"])).round().reshape(-1))


def test_without_moments_there_is_no_error_feedback() -> None:
    with pytest.raises(BadInput, match="sensitivity"):
        GPTQ().quantize(Source(torch.ones(3)))


@pytest.mark.parametrize(
    ("method", "fields", "named"),
    [
        (GPTQ, {"group": 32}, "group would have no effect"),
        (GPTQ, {"symmetric": False, "scales": "float16", "fit": "search"}, "symmetric, scales, fit would have"),
        (GPTQ, {"bits": 3, "step": 0.1}, "step would have no effect"),
        (WaterSIC, {"group": 32}, "group would have no effect"),
        (CERWU, {"scales": "float16"}, "scales would have no effect"),
    ],
)
def test_what_would_have_no_effect_is_refused(method: type[GPTQ], fields: dict[str, Any], named: str) -> None:
    with pytest.raises(ValidationError, match=named):
        method(**fields)
    # a record says every parameter, those at their defaults, too
    assert method(**method(step=0.1).model_dump()).step == 0.1
    assert GPTQ(**GPTQ(bits=4, granularity="group", group=8).model_dump()).group == 8


def test_the_rate_is_asked_for_only_where_bits_have_a_price() -> None:
    assert not GPTQ().uses_rate()
    assert GPTQ(lam=0.1).uses_rate()
    assert GPTQ.model_validate({"step": 0.1, "lambda": 0.2}).lam == 0.2


def searched(w: Tensor, h: Tensor, price: np.ndarray, reach: int, beam_width: int) -> Tensor:
    """(R, m) levels; w: (R, m) in steps."""
    (rows,) = feedback.whole_rows(w.double(), h.double(), 0.01, False)
    rows.search(price, reach, beam_width)
    assert rows.levels is not None
    return rows.levels[0].T


def test_a_search_by_several_threads_finds_the_same() -> None:
    (rows,) = feedback.whole_rows((weights(100, 20) / 0.1).double(), moments(20).double(), 0.01, False)
    rows.search(np.zeros(1), 1, 4)
    alone = rows.levels
    assert alone is not None
    rows.levels = None
    rows.search(np.zeros(1), 1, 4, threads=3)
    assert rows.levels is not None
    assert torch.equal(rows.levels, alone)


def test_one_survivor_is_rounding_with_feedback() -> None:
    w, h = weights(9, 20) / 0.1, moments(20)
    (rows,) = feedback.whole_rows(w.double(), h.double(), 0.01, False)
    rows.sweep(lambda rows, j, target, gain: target.round())
    assert rows.levels is not None
    assert torch.equal(searched(w, h, np.zeros(1), 1, 1), rows.levels[0].T)


@pytest.mark.parametrize("lam", [0.0, 0.3])
def test_where_no_beginning_is_dropped_the_cheapest_of_all_rows_is_found(lam: float) -> None:
    m, span = 4, 4
    h = moments(m, seed=3)
    price = lam * np.abs(np.arange(-span, span + 1)) ** 0.5
    for seed in range(6):
        w = weights(1, m, seed=seed) / 0.1
        got = searched(w, h, price, 2, 256)
        around = itertools.product(*[[int(v) + k for k in range(-2, 3)] for v in w[0].round()])
        points = torch.tensor([p for p in around if max(map(abs, p)) <= span], dtype=torch.float64)
        e = w.double() - torch.cat([points, got])
        total = ((e @ damped(h[0], 0.01)) * e).sum(1)
        total += torch.from_numpy(price)[(torch.cat([points, got]) + span).long()].sum(1)
        assert float(total[-1]) == pytest.approx(float(total[:-1].min()), rel=1e-9)


def test_a_wider_beam_leaves_smaller_errors() -> None:
    w, h = weights(30, 24), moments(24)
    errors = []
    for beam_width in (1, 4, 16):
        q = GPTQ(step=0.2, beam_width=beam_width).quantize(source(w, h))
        errors.append(cost(w, q.reconstruct().reshape(30, 24), damped(h[0], 0.01)))
    assert errors[0] > 1.05 * errors[1] > errors[2]


def test_a_beam_minds_masks_and_prices() -> None:
    w = weights(12, 10)
    mask = torch.rand(12, 10, generator=torch.Generator().manual_seed(2)) < 0.6
    w = w * mask
    few = GPTQ(step=0.05, beam_width=8).quantize(source(w, moments(10), mask))
    assert few.n == int(mask.sum())
    assert torch.equal(levels(few), levels(GPTQ(step=0.05, beam_width=8).quantize(source(w, moments(10), mask))))
    priced = GPTQ(step=0.05, beam_width=8, lam=0.3).quantize(source(w, moments(10), mask))
    assert (priced.statistics or {})["entropy"] < (few.statistics or {})["entropy"]


@pytest.mark.parametrize("beam_width", [1, 3])
def test_rows_in_batches_give_what_all_at_once_give(monkeypatch: pytest.MonkeyPatch, beam_width: int) -> None:
    w, h = weights(40, 24), moments(24)
    source = Source(w.reshape(-1), (SourceTensor("w", (40, 24), 0, 960),), SecondMoments((h.float(),)))
    quantizer = GPTQ(step=0.1, beam_width=beam_width)
    whole = quantizer.quantize(source)
    monkeypatch.setattr(feedback, "_CHUNK_ENTRIES", 24 * 7)
    assert len(list(feedback.whole_rows(w.double(), h.double(), 0.01, False))) == 6
    assert torch.equal(quantizer.quantize(source).symbols, whole.symbols)
