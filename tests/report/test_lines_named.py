"""Names of lines, intervals, and colours that colour-blind readers can tell apart."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from record_factory import digest, make, sweep

from nqbench.report import ReportData
from nqbench.report.figures import COLOURS, GREY, SHAPES, figures, ticks
from nqbench.report.naming import NAMED, OTHERS, logarithmic, names, prominent, shortened, span, spread
from nqbench.report.payload import datasets
from nqbench.results.goal import Goal
from nqbench.results.leaderboard import leaderboard
from nqbench.results.stats import wilson

DEFICIENCIES = {
    # Machado, Oliveira and Fernandes 2009, severity 1, of linear RGB
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "tritanopia": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
    "none": [[1, 0, 0], [0, 1, 0], [0, 0, 1]],
}
TO_XYZ = np.array(
    [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]
)


def lab(colour: str, seen: str) -> np.ndarray:
    """CIE L*a*b* under D65 of a colour as somebody sees it."""
    srgb = np.array([int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)])
    linear = np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
    linear = np.clip(np.array(DEFICIENCIES[seen]) @ linear, 0, 1)
    x, y, z = (TO_XYZ @ linear) / (TO_XYZ @ np.ones(3))
    f = [v ** (1 / 3) if v > (6 / 29) ** 3 else v / (3 * (6 / 29) ** 2) + 4 / 29 for v in (x, y, z)]
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


@pytest.mark.parametrize("seen", list(DEFICIENCIES))
def test_lines_differ_in_colour_to_every_reader_or_in_their_marks(seen: str) -> None:
    lines = [*zip(COLOURS[:NAMED], SHAPES, strict=True), (GREY, "")]
    for (one, mark), (other, its) in itertools.combinations(lines, 2):
        apart = float(np.linalg.norm(lab(one, seen) - lab(other, seen)))  # 2.3 can just be told
        assert apart > 9, (one, other, apart)
        assert mark != its


@given(st.lists(st.floats(0, 100), min_size=1, max_size=9), st.floats(0.1, 9))
def test_names_keep_their_order_and_their_distance_and_stay_inside_where_there_is_room(
    wanted: list[float], apart: float
) -> None:
    wanted = sorted(wanted)
    places = spread(wanted, 0.0, 100.0, apart)
    for low, high in itertools.pairwise(places):
        assert high - low >= apart - 1e-9
    assert max(places) <= 100 + 1e-9
    if apart * (len(wanted) - 1) <= 100:
        assert min(places) >= -1e-9
    free = all(b - a >= apart for a, b in itertools.pairwise(wanted))
    if free:
        assert places == pytest.approx(wanted)


@pytest.mark.parametrize(
    ("words", "longest", "expected"),
    [
        (
            [["q(k=1)", "t(steps=60, all=true)", "a"], ["q(k=1)", "t(steps=60, all=true)", "b"]],
            12,
            ["q(k=1) t a", "q(k=1) t b"],
        ),
        ([["q(k=1)", "t(steps=60)"], ["q(k=2)", "t(steps=60)"]], 8, ["q(k=1) t", "q(k=2) t"]),
        ([["q(k=1)", "t(steps=60)"], ["q(k=2)", "t(steps=60)"]], 6, ["q(k=1)", "q(k=2)"]),
        ([["q(k=1)"], ["q(k=2)"]], 2, ["q(k=1)", "q(k=2)"]),
        ([["quantizer"], [""]], 3, ["quantizer", ""]),
        # one has a training and the other has none: without that word nobody could tell
        (
            [["q", "learning-compression", "a"], ["q", "learning-compression", "b"], ["powers-of-two", "", "a"]],
            16,
            ["q learning-co… a", "q learning-co… b", "powers-of-two a"],
        ),
    ],
)
def test_long_names_lose_what_tells_nothing_apart(words: list[list[str]], longest: int, expected: list[str]) -> None:
    assert shortened(words, longest) == expected


def test_a_line_is_called_by_what_tells_it_apart_and_no_two_alike() -> None:
    data = ReportData("s", sweep())
    found = prominent(data, "net")
    assert sorted(found.values()) == ["kmeans bzip2", "kmeans huffman", "uniform bzip2", "uniform huffman"]
    shares = [
        make(
            k=k,
            pruner="p",
            pruner_params={"epochs": round(100 * keep), "keep": keep, "lr": 0.1},
            key=digest([k, keep]),
        )
        for keep in (0.1, 0.05, 0.02)
        for k in (4, 8)
    ]
    # one parameter says it all; a share says more than a count
    assert set(prominent(ReportData("s", shares), "net").values()) == {"p(keep=0.1)", "p(keep=0.05)", "p(keep=0.02)"}


def test_no_name_loses_its_last_word() -> None:
    words = [["", "gptq(curvature=0, step=0.05, beam_width=1)"], ["", "gptq(curvature=1, step=1)"], ["nncodec", ""]]
    assert all(shortened([name[::-1] for name in words], 12))


def test_fixed_bits_are_named_by_them_and_not_by_what_only_steps_have() -> None:
    plain = {"bits": None, "step": 0.05, "curvature": 0.0, "beam_width": 1, "group": 64}
    given = [
        ("bits", {"bits": bits, "group": 128} | extra) for bits in (3, 4) for extra in ({}, {"symmetric": False})
    ] + [("step", {"step": step, "beam_width": 8, "curvature": share}) for step in (0.1, 0.2) for share in (0.0, 0.5)]
    records = [
        make(quantizer="gptq", quantizer_params={**plain, "symmetric": True, **own}, knob=knob, key=digest(own))
        for knob, own in given
    ]
    assert sorted(prominent(ReportData("s", records), "net").values()) == [
        "gptq(bits, symmetric=false)",
        "gptq(bits, symmetric=true)",
        "gptq(step, curvature=0)",
        "gptq(step, curvature=0.5)",
    ]
    others = [make(quantizer=f"q{at}", k=4, symbols=90000 + at, wrong=20) for at in range(NAMED - 1)]
    first = {name for name in prominent(ReportData("s", [*records, *others]), "net").values() if "gptq" in name}
    assert first in ({"gptq(bits)"}, {"gptq(step)"})  # a grey line has the other


def test_of_many_methods_the_first_ranked_are_named_and_the_others_are_grey() -> None:
    many = [make(quantizer=f"q{i:02}", k=k, symbols=1000 * i + 100 * k, wrong=20) for i in range(1, 12) for k in (4, 8)]
    data = ReportData("s", many)
    found = prominent(data, "net")
    assert list(found.values()) == [f"q{i:02}" for i in range(1, NAMED + 1)]
    lines = [row["line"] for row in datasets(data)["rows"]]
    assert lines.count(OTHERS) == 2 * (11 - NAMED)
    ends = {end["line"]: end for end in names(data, "net", found)}
    assert ends["q01"]["file_bytes"] == max(record.file_bytes or 0 for record in many[:2])


def fields(spec: Any, field: str) -> Iterator[dict[str, Any]]:
    """The encodings of a field, wherever they stand in a figure."""
    if isinstance(spec, dict):
        if spec.get("field") == field:
            yield spec
        for part in spec.values():
            yield from fields(part, field)
    elif isinstance(spec, list | tuple):
        for part in spec:
            yield from fields(part, field)


@pytest.mark.parametrize("methods", [1, NAMED, NAMED + 1])
def test_a_legend_has_others_where_there_are_some_and_a_colour_and_a_shape_for_each_line(methods: int) -> None:
    data = ReportData("s", [make(quantizer=f"q{i}", k=4, symbols=1000 + i, wrong=20) for i in range(methods)])
    drawn = figures(data, datasets(data))
    scales = [part["scale"] for figure in drawn for part in fields(figure.spec, "line") if "scale" in part]
    lines = {row["line"] for row in datasets(data)["rows"]}
    assert scales
    assert all(set(scale["domain"]) == lines for scale in scales)
    assert all(len(scale["range"]) == len(lines) for scale in scales)
    assert (OTHERS in lines) == (methods > NAMED)


@pytest.mark.parametrize(
    ("hits", "n", "low", "high"),
    # Newcombe 1998, table I, method 3
    [
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
        (29, 29, 0.883, 1),
    ],
)
def test_wilson_s_interval_is_the_published_one(hits: int, n: int, low: float, high: float) -> None:
    assert wilson(hits, n) == pytest.approx((low, high), abs=6e-5)


def test_the_interval_is_of_the_share_of_right_answers_alone() -> None:
    (right,) = leaderboard([make(k=4, wrong=100)])
    assert (right.metric_low, right.metric_high) == pytest.approx([100 * end for end in wilson(900, 1000)])
    wrong = {"metric_name": "error", "metric_higher_is_better": False, "metric_float": 2.0, "metric_delta": 8.0}
    (error,) = leaderboard([make(k=4, wrong=100, **wrong, metric=10.0, metrics={"error": 10.0})])
    assert (error.metric_low, error.metric_high) == pytest.approx([100 * end for end in wilson(100, 1000)])
    (other,) = leaderboard([make(k=4, wrong=100, metric=77.0, metrics={"accuracy": 77.0})])
    assert other.metric_low is None
    seeds = leaderboard([make(k=4, wrong=100, seed=seed) for seed in (1, 2)])
    assert seeds[0].metric_low is None


def test_of_many_settings_of_one_quantizer_the_first_stands_for_all_while_others_are_not_named() -> None:
    many = [
        make(quantizer="a", k=4, symbols=1000 + n, quantizer_params={"k": 4, "n": n}, wrong=20, key=digest(n))
        for n in range(8)
    ]
    others = [make(quantizer=name, k=4, symbols=5000 + at, wrong=20) for at, name in enumerate("bcde")]
    named = list(prominent(ReportData("s", [*many, *others]), "net").values())
    assert named == ["a(n=0)", "a(n=1)", "b", "c", "d", "e"]


def distances(*losses: float) -> ReportData:
    """One method, judged by its distance from the float network."""
    records = [
        make(
            k=k, symbols=9000 - 1000 * k, metric=loss, metric_float=0.0, metric_delta=loss, metric_name="divergence",
            metric_unit="nats", metric_higher_is_better=False, metrics={"divergence": loss}, correct=None,
        )
        for k, loss in enumerate(losses, 2)
    ]  # fmt: skip
    return ReportData("s", records, goal=Goal())


def test_a_distance_from_the_float_network_is_drawn_and_ranked_in_tenths_of_a_nat() -> None:
    data = distances(0.001, 0.01, 0.09, 0.2, 3.0)
    assert [row.holds for row in data.rows] == [True, True, True, False, False]
    assert data.told == "lose at most 0.1 nats"
    rows = data.by_model["net"]
    assert logarithmic(rows)
    low, high = span(rows, data.reach("net")) or (0, 0)
    assert 0 < low < 0.001
    assert 0.2 < high < 1  # what lost three nats is no network any more
    (end,) = names(data, "net", prominent(data, "net"))
    assert low < end["at"] < high
    assert not logarithmic(distances(0.0, 0.1).by_model["net"])  # a file that changes nothing has no logarithm


@pytest.mark.parametrize(
    ("low", "high"),
    [(47_000, 200_000), (44_000_000, 80_000_000), (900_000, 4_500_000), (0.004, 1.3), (7, 7), (1, 10**9)],
)
def test_a_logarithmic_axis_has_round_numbers_that_stand_beside_one_another(low: float, high: float) -> None:
    found = ticks(low, high)
    assert 1 <= len(found) <= 30
    assert all(low * 0.95 <= tick <= high * 1.05 for tick in found)
    assert all(b / a > 1.19 for a, b in itertools.pairwise(found))
    if high > 1.8 * low:
        assert len(found) >= 3
