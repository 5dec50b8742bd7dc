"""Every format says the records' numbers, and rebuilding gives the same files."""

from __future__ import annotations

import csv
import json
import os
import re
from pathlib import Path

import pytest
from record_factory import failed, make, sweep

from nqbench.cli import invoke
from nqbench.report import ReportData, escaping, load, rebuild, terminal, write_reports
from nqbench.report.figures import figures
from nqbench.report.latex import latex
from nqbench.report.payload import datasets
from nqbench.report.text import last_line, markdown
from nqbench.results.published import published_rows
from nqbench.results.record import PARTS, Record
from nqbench.results.store import Store, StoreError

PUBLISHED = [
    {"paper": "A paper | 1", "network": "net", "rows": [{"method": "theirs", "accuracy": 97.0, "ratio": 5.0}]},
    {"paper": "Another", "network": "elsewhere", "rows": [{"method": "far", "error": 1.0, "ratio": 500}]},
]
LOSS = {"linear": 0.1, "diagonal": 0.2, "gauss_newton": 0.3, "measured": 0.25}


def fill(folder: Path, records: list[Record] | None = None) -> list[Record]:
    """A finished run in ``folder``: the sweep and a failure, or the given records."""
    with Store.write(folder) as store:
        run = store.start_run("synthetic", "models: [net]\n", settings={"published": PUBLISHED, "drop": 1.0})
        written = records if records is not None else [*sweep(loss_increase=LOSS), failed(k=64)]
        written = [Record.from_dict({**record.to_dict(), "run": run}) for record in written]
        for record in written:
            store.add(record)
        store.end_run(run, "failed")
    return written


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Record]]:
    folder = tmp_path_factory.mktemp("finished")
    records = fill(folder)
    rebuild(folder)
    return folder, records


def test_records_json_holds_every_record_in_full(finished: tuple[Path, list[Record]]) -> None:
    folder, records = finished
    loaded = json.loads((folder / "records.json").read_text())["records"]
    assert [Record.from_dict(fields) for fields in loaded] == records
    assert all(fields["schema_version"] == 2 for fields in loaded)


GOALS: list[dict[str, object]] = [
    {},
    {"drop": 0.2},
    {"target": {"drop": 0.2}, "drop": 0.2},
    {"target": {"share": 1.0}},
    {"target": {"metric": 97.9}},
    {"target": {"bytes": 9_000}},
    {"target": {"drop": 1.0, "divergence": 0.02, "split": "train", "report": "chosen", "baseline": "uniform"}},
]


@pytest.mark.parametrize("goal", GOALS, ids=str)
def test_the_export_of_a_run_gives_the_reports_of_its_folder(goal: dict[str, object], tmp_path: Path) -> None:
    """The goal, what points were selected on, the baseline and the published rows travel in records.json; so do records
    that the run took from an earlier one."""
    settings = {"published": PUBLISHED, "baseline": "uniform", **goal}
    folder = tmp_path / "run"
    with Store.write(folder) as store:
        first = store.start_run("synthetic", "models: [net]\n")
        earlier, *later = sweep(loss_increase=LOSS)
        store.add(earlier.model_copy(update={"run": first}))
        store.end_run(first)
        run = store.start_run("synthetic", "models: [net]\n", settings=settings, argv=["nqbench", "run"])
        store.reuse(run, [earlier.key])
        for number, record in enumerate([*later, failed(k=64)]):
            changes = (
                {"selected_on": "train", "metrics": record.metrics | {"train.accuracy": 99.0}} if number == 1 else {}
            )
            store.add(record.model_copy(update={"run": run, **changes}))
        store.end_run(run, "failed")
    data, of_folder = rebuild(folder)
    again, of_export = rebuild(folder / "records.json", tmp_path / "again")
    assert again.goal == data.goal
    assert again.published == data.published != []
    assert earlier.key in [record.key for record in again.records]
    for name, path in of_folder.items():
        assert of_export[name].read_bytes() == path.read_bytes(), name


def test_records_csv_has_one_row_a_record_and_the_sizes_of_the_parts(finished: tuple[Path, list[Record]]) -> None:
    folder, records = finished
    with (folder / "records.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [row["key"] for row in rows] == [record.key for record in records]
    assert "correct" not in rows[0]
    for row, record in zip(rows, records, strict=True):
        if record.ok:
            assert int(row["file_bytes"]) == sum(int(row[f"parts.{part}"]) for part in PARTS)
            assert float(row["metric"]) == record.metric
            assert record.quantizer_params == {"k": int(row["quantizer_params.k"]), "zero": "center"}
        else:
            assert row["file_bytes"] == ""
            assert "<boom>" in row["error"]


def test_the_columns_do_not_depend_on_the_order_of_the_records(tmp_path: Path) -> None:
    records = [*sweep(), failed(k=64)]
    headers = []
    for index, order in enumerate((records, records[::-1])):
        folder = tmp_path / str(index)
        write_reports(folder, ReportData("synthetic", order))
        headers.append((folder / "records.csv").read_text().splitlines()[0])
    assert headers[0] == headers[1]
    assert headers[0].startswith("schema_version,run,time,suite,status,key,trial,model,")


def test_leaderboard_json_and_csv_rank_the_same_rows(finished: tuple[Path, list[Record]]) -> None:
    folder, records = finished
    document = json.loads((folder / "leaderboard.json").read_text())
    with (folder / "leaderboard.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert document["goal"] == {"drop": 1.0}
    assert [row["configuration"] for row in document["rows"]] == [row["configuration"] for row in rows]
    by_key = {record.key: record for record in records}
    for row in document["rows"]:
        (key,) = row["keys"]
        assert (row["file_bytes"], row["metric"], row["mse"]) == (
            by_key[key].file_bytes, by_key[key].metric, by_key[key].mse,
        )  # fmt: skip
    assert [row["quoted"] for row in document["published"]] == [True, True]
    assert not any(row["configuration"] == "theirs" for row in document["rows"])


def test_a_rebuild_changes_nothing(finished: tuple[Path, list[Record]]) -> None:
    folder, _ = finished
    _, paths = rebuild(folder)
    before = {name: path.read_bytes() for name, path in paths.items()}
    _, again = rebuild(folder)
    assert {name: path.read_bytes() for name, path in again.items()} == before
    assert not list(folder.glob("**/*.tmp"))


def test_markdown_tables_are_whole_and_escaped(finished: tuple[Path, list[Record]]) -> None:
    text = markdown(load(finished[0]))
    tables = [line for line in text.splitlines() if line.startswith("|")]
    assert any("A paper \\| 1" in line for line in tables)
    assert "`ValueError: <boom>`" in text
    assert "6,910" in text
    for model in ("## net", "## other"):
        assert model in text


def test_the_terminal_shows_the_first_rows_and_says_what_it_left_out(finished: tuple[Path, list[Record]]) -> None:
    text = terminal(load(finished[0]), limit=3)
    assert "... and 17 more rows in leaderboard.md" in text
    assert "1 not ok" in text
    assert "deterministic" in text


def test_latex_has_as_many_cells_as_columns_in_every_line(finished: tuple[Path, list[Record]]) -> None:
    text = latex(load(finished[0]))
    assert text.count(r"\toprule") == text.count(r"\bottomrule") == text.count(r"\begin{table}") == 3
    for block in text.split(r"\begin{tabular}{")[1:]:
        columns = len(block.partition("}")[0])
        lines = [line for line in block.splitlines() if line.endswith(r" \\")]
        assert lines
        assert all(line.replace(r"\&", "").count(" & ") == columns - 1 for line in lines)
    assert escaping.latex("50 %_{x}") == r"50 \%\_\{x\}"


def test_a_published_row_says_how_far_the_best_measured_one_is(finished: tuple[Path, list[Record]]) -> None:
    # quoted: ratio 5 at 97.0 %; smallest measured file at 97.0 % or better: 6,910 bytes, ratio 40,400 / 6,910
    assert f"{100 * (40_400 / 6_910 / 5 - 1):+.1f} %" in markdown(load(finished[0]))


def test_a_store_without_a_single_good_record_still_reports(tmp_path: Path) -> None:
    fill(tmp_path, [failed()])
    data, paths = rebuild(tmp_path)
    assert data.rows == []
    assert "1 not ok" in terminal(data)
    assert "No trial ended well" in paths["index.html"].read_text()


def test_a_model_without_data_is_reported_by_rate_and_distortion(tmp_path: Path) -> None:
    nothing = {"metric": None, "metric_float": None, "metric_name": None, "metric_delta": None, "correct": None}
    fill(tmp_path, [make(k=k, **nothing) for k in (2, 4, 8)])  # type: ignore[arg-type]
    data, paths = rebuild(tmp_path)
    assert "| holds |" not in paths["leaderboard.md"].read_text()
    assert not any("rate-accuracy" in name for name in paths)
    assert any("rate-distortion" in name for name in paths)
    assert len(data.rows) == 3


def test_the_rate_distortion_bound_is_drawn_where_records_know_it(tmp_path: Path) -> None:
    fill(tmp_path, [make(k=k, statistics={"bound_bits": 0.5 * k, "layer_error": 1 / k}) for k in (2, 4, 8)])
    data, paths = rebuild(tmp_path)
    assert any("1-bound" in name for name in paths)
    assert "the bound at the same error" in paths["index.html"].read_text()
    assert [row["bound_bits"] for row in datasets(data)["rows"]] == [0.5 * row.knob_value for row in data.rows]
    fill(tmp_path / "other", [make(k=k) for k in (2, 4, 8)])
    assert not any("bound" in name for name in rebuild(tmp_path / "other")[1])


def test_svg_and_png_come_from_the_same_specification(tmp_path: Path) -> None:
    fill(tmp_path, sweep()[:10])
    _, paths = rebuild(tmp_path, images=True)
    drawing = paths["1-rate-accuracy.svg"].read_text()
    assert drawing.startswith("<svg")
    assert "file, bytes" in drawing
    assert paths["1-rate-accuracy.png"].read_bytes().startswith(b"\x89PNG")


def test_the_last_line_of_a_traceback_is_the_reason() -> None:
    assert last_line("Traceback\n  File\nValueError: no\n\n") == "ValueError: no"
    assert last_line(None) == "no reason was recorded"


def test_published_rows_of_models_that_were_not_measured_stand_apart() -> None:
    data = ReportData("s", sweep(), published=published_rows(PUBLISHED))
    assert [row.method for row in data.published_for("net")] == ["theirs"]
    assert [row.method for row in data.published_elsewhere] == ["far"]


def test_the_axis_of_bytes_is_labelled_as_far_as_published_points_reach() -> None:
    rows = [{"method": "theirs", "accuracy": 97.0, "ratio": 0.05}]
    data = ReportData("s", sweep(), published=published_rows([{**PUBLISHED[0], "rows": rows}]))
    found = datasets(data)
    (quoted,) = found["published"]
    assert quoted["file_bytes"] > 5 * max(row.file_bytes for row in data.rows)
    chart = next(figure for figure in figures(data, found) if figure.name.endswith("rate-accuracy"))
    labels = re.findall(r'"values": \[([^\]]*)\]', json.dumps(chart.spec))
    ends = [[float(value) for value in text.split(",")] for text in labels if re.fullmatch(r"[\d., e+]+", text)]
    assert any(values[-1] > quoted["file_bytes"] / 3 for values in ends)


def test_the_command_rebuilds_and_prints(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fill(tmp_path)
    assert invoke(["report", str(tmp_path), "--drop", "0"]) == 0
    shown = capsys.readouterr().out
    assert "lose at most 0 points" in shown
    assert str(tmp_path / "index.html") in shown


def test_the_command_says_in_one_line_what_is_missing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert invoke(["report", str(tmp_path)]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert "no such file" in error
    fill(tmp_path)
    assert invoke(["report", str(tmp_path), "--run", "yesterday"]) == 1
    assert "no run 'yesterday'" in capsys.readouterr().err


def test_a_search_s_goal_and_what_is_not_monotone_are_said_in_every_form(tmp_path: Path) -> None:
    with Store.write(tmp_path) as store:
        run = store.start_run("s", settings={"published": PUBLISHED, "target": {"metric": 97.0}, "baseline": None})
        for k, symbols, wrong in ((2, 500, 30), (4, 800, 90), (8, 900, 20)):  # 97.0, 91.0, 98.0
            record = make(k=k, symbols=symbols, wrong=wrong, selected_on="test", ratio=4000 / symbols)
            store.add(Record.from_dict({**record.to_dict(), "run": run, "suite": "s"}))
        for k, symbols in ((2, 600), (4, 700)):
            record = make(k=k, symbols=symbols, wrong=20, quantizer="kmeans", selected_on="test", ratio=5.0)
            store.add(Record.from_dict({**record.to_dict(), "run": run, "suite": "s"}))
        store.end_run(run)
    data = load(tmp_path)
    shown = terminal(data)
    assert "Ranked by bytes among rows that reach 97;" in shown
    (line,) = [line for line in shown.splitlines() if line.strip().startswith("1  uniform")]
    header = next(line for line in shown.splitlines() if "not monotone" in line)
    assert "× published" in header
    assert "1.60" in line  # 8.0 / 5.0, the quoted row of 97.0 %
    assert [row.violations for row in data.methods["net"]] == [1, 0]
    _, paths = rebuild(tmp_path)
    assert "the smallest of the files that reach 97" in paths["index.html"].read_text(encoding="utf-8")
    assert "not monotone" in paths["leaderboard.md"].read_text(encoding="utf-8")


def test_a_link_under_a_reports_name_is_replaced_and_not_followed(tmp_path: Path) -> None:
    outside, folder = tmp_path / "outside", tmp_path / "out"
    outside.write_text("mine")
    fill(folder)
    for name in ("leaderboard.md", "index.html", f".records.json.{os.getpid()}.tmp"):
        (folder / name).symlink_to(outside)
    _, paths = rebuild(folder)
    assert outside.read_text() == "mine"
    assert not any(path.is_symlink() for path in paths.values())
    (folder / "figures").rename(folder / "moved")
    (folder / "figures").symlink_to(tmp_path)
    with pytest.raises(StoreError, match="figures: is a symbolic link"):
        rebuild(folder)
