"""A metric is written with as many digits as tell its smallest figure from nothing; percentages with two decimals."""

from __future__ import annotations

import pytest

from nqbench.report.numbers import figure, places


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (98.2, "%", "98.20 %"),
        (0.04, "%", "0.04 %"),
        (0.00289, "nats", "0.00289 nats"),
        (0.0, "nats", "0.00 nats"),
        (29.6, "", "29.60"),
        (0.82032, "", "0.820"),
        (1e-9, "nats", "0.000000 nats"),
        (None, "nats", ""),
        (float("nan"), "", "nan"),
    ],
)
def test_one_figure(value: float | None, unit: str, text: str) -> None:
    assert figure(value, unit) == text


def test_a_column_has_the_digits_of_its_smallest_figure() -> None:
    assert places([0.303, 0.00289, None, 0.0, float("inf")], "nats") == 5
    assert places([], "nats") == places([None], "") == places([12.0, -700.0], "") == 2
    assert places([1e-5, 99.0], "%") == 2
