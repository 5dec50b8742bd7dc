"""Figures are drawn once for the same rows, and anew for others; what was kept is what is drawn."""

from __future__ import annotations

from pathlib import Path

import pytest
from record_factory import sweep

from nqbench.report import ReportData, drawing
from nqbench.report.figures import figures
from nqbench.report.payload import datasets
from nqbench.results.goal import Goal


@pytest.fixture
def calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[ReportData]:
    """The reports whose figures were drawn, with a cache of the test's own."""
    monkeypatch.setenv("NQBENCH_CACHE", str(tmp_path))
    seen: list[ReportData] = []

    def draw(data: ReportData, named: dict[str, list[dict[str, object]]]) -> object:
        seen.append(data)
        return figures(data, named)

    monkeypatch.setattr(drawing, "figures", draw)
    return seen


def test_the_same_rows_are_drawn_once_and_other_rows_anew(calls: list[ReportData]) -> None:
    one, other = (ReportData("s", sweep(mse=mse)) for mse in (0.1, 0.2))
    wanted = figures(one, datasets(one))
    assert drawing.drawn(one, datasets(one)) == drawing.drawn(one, datasets(one)) == wanted
    assert len(calls) == 1
    drawing.drawn(other, datasets(other))
    drawing.drawn(ReportData("s", one.records, goal=Goal(drop=5.0)), datasets(one))
    assert len(calls) == 3


@pytest.mark.parametrize("damage", ["", "[1]", "{}", '{"figures": [{"name": "x"}]}'])
def test_what_was_damaged_is_drawn_again(calls: list[ReportData], tmp_path: Path, damage: str) -> None:
    data = ReportData("s", sweep())
    wanted = drawing.drawn(data, datasets(data))
    (kept,) = (tmp_path / "report").glob("figures-*.json")
    kept.write_text(damage)
    assert drawing.drawn(data, datasets(data)) == wanted
    assert len(calls) == 2
    assert wanted


def test_only_the_last_reports_figures_are_kept(calls: list[ReportData], tmp_path: Path) -> None:
    data = ReportData("s", sweep())
    (tmp_path / "report").mkdir()
    for index in range(60):
        (tmp_path / "report" / f"figures-{index}.json").write_text("[]")
    drawing.drawn(data, datasets(data))
    assert len(list((tmp_path / "report").glob("figures-*.json"))) == 50
