"""The page in headless Chromium: no errors, no requests, sorting and filtering work, numbers are the records'."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
from browser_kit import CONTRAST, LINES, click, complaints, draw_all, needed, opened, requests, scheme, sized, unnamed
from record_factory import digest, make
from test_reports import fill

from nqbench.cli.nightly import write_history
from nqbench.report import rebuild
from nqbench.results.record import Record
from nqbench.results.store import Store

pytestmark = needed


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Record]]:
    folder = tmp_path_factory.mktemp("page")
    records = fill(folder)
    rebuild(folder)
    return folder, records


@pytest.fixture
def page(browser: Any, report: tuple[Path, list[Record]]) -> Any:
    browser.get_log("browser")
    browser.get_log("performance")
    opened(browser, (report[0] / "index.html").as_uri())
    return browser


def column(browser: Any, field: str) -> list[str]:
    """The text of one column of the table of all configurations."""
    found: list[str] = browser.execute_script(
        """const at = [...document.querySelectorAll('#all th')].findIndex(th => th.dataset.field === arguments[0]);
        return [...document.querySelectorAll('#all tbody tr')].map(tr => tr.children[at].textContent)""",
        field,
    )
    return found


def test_it_draws_every_figure_without_an_error_or_a_request(page: Any) -> None:
    draw_all(page)
    assert page.execute_script("return document.querySelectorAll('.plot').length") == 9
    assert complaints(page) == []
    asked = requests(page)
    assert [url for url in asked if not url.startswith(("file:", "data:", "blob:"))] == []
    assert len([url for url in asked if url.startswith("file:")]) == 1


def test_the_front_of_bytes_against_quality_has_a_line_for_each_method_and_the_front_s(page: Any) -> None:
    draw_all(page)
    lines = page.execute_script(LINES)
    assert len(lines) == 4 + 1
    assert all(line.count("L") + line.count("H") >= 4 for line in lines)


def test_the_numbers_shown_are_the_records(page: Any, report: tuple[Path, list[Record]]) -> None:
    records = [record for record in report[1] if record.ok]
    shown = page.execute_script(
        """const fields = [...document.querySelectorAll('#all thead th')].map(th => th.dataset.field);
        return [...document.querySelectorAll('#all tbody tr')].map(tr =>
            Object.fromEntries(fields.map((f, i) => [f, tr.children[i].textContent])))"""
    )
    expected = {(r.model, f"{r.quantizer}(k={(r.quantizer_params or {})['k']}) global {r.coder}"): r for r in records}
    assert len(shown) == len(expected) == 40
    for row in shown:
        record = expected[row["model"], row["coding"]]
        assert row["file_bytes"] == f"{record.file_bytes:,}"
        assert row["ratio"] == f"{record.ratio:,.2f}"
        assert row["bits_per_weight"] == f"{record.bits_per_weight:.3f}"
        assert row["metric"] == f"{record.metric:.2f}"
        assert row["metric_delta"].replace("\u2212", "-") == f"{record.metric_delta:+.2f}"
        assert float(row["mse"]) == pytest.approx(record.mse, rel=5e-3)
        assert row["repeats"] == "deterministic"


def test_a_column_sorts_both_ways(page: Any) -> None:
    click(page, "#all th[data-field=file_bytes] button")
    sizes = [int(text.replace(",", "")) for text in column(page, "file_bytes")]
    assert sizes == sorted(sizes)
    assert page.execute_script("return document.querySelector('[aria-sort]').ariaSort") == "ascending"
    click(page, "#all th[data-field=file_bytes] button")
    assert [int(text.replace(",", "")) for text in column(page, "file_bytes")] == sizes[::-1]
    click(page, "#all th[data-field=coding] button")
    names = column(page, "coding")
    assert names.index("kmeans(k=4) global huffman") < names.index("kmeans(k=16) global huffman")


def test_filters_narrow_the_table(page: Any) -> None:
    choose = """const s = document.querySelector(arguments[0]);
        s.value = arguments[1]; s.dispatchEvent(new Event(arguments[2]))"""
    page.execute_script(choose, "#filter-model", "other", "change")
    assert set(column(page, "model")) == {"other"}
    page.execute_script(choose, "#filter-text", "KMEANS bzip2", "input")
    assert len(column(page, "model")) == 5
    assert page.execute_script("return document.querySelector('#count').textContent") == "5 of 40 rows"
    click(page, "#filter-holds")
    assert column(page, "holds") == ["yes"] * len(column(page, "holds"))
    # every row has the same granularity: there is nothing to choose
    assert page.execute_script("return document.querySelector('#filter-granularity').offsetParent === null")
    assert page.execute_script("return document.querySelector('#filter-coder_name').offsetParent !== null")


def test_it_works_by_keyboard_alone(page: Any) -> None:
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.keys import Keys

    def press(*keys: str) -> None:
        ActionChains(page).send_keys(*keys).perform()

    reached = set()
    for _ in range(60):
        press(Keys.TAB)
        reached.add(page.execute_script("const e = document.activeElement; return e.id || e.textContent.slice(0, 40)"))
    assert {"Skip to the ranking", "filter-text", "filter-model", "bytes"} <= reached
    page.execute_script("document.querySelector('button.open').focus()")
    press(Keys.ENTER)
    assert page.execute_script("return document.querySelector('#record').open")
    assert "zero" in page.execute_script("return document.querySelector('#record-body').textContent")
    press(Keys.ESCAPE)
    assert not page.execute_script("return document.querySelector('#record').open")


def test_it_fits_a_phone(page: Any) -> None:
    with sized(page, 390, mobile=True):
        page.refresh()
        draw_all(page)
        assert page.execute_script("return document.documentElement.scrollWidth") <= 390


@pytest.mark.parametrize("colours", ["light", "dark"])
def test_text_has_the_contrast_that_wcag_asks_for_in_both_schemes(page: Any, colours: str) -> None:
    with scheme(page, colours):
        background = page.execute_script("return getComputedStyle(document.body).backgroundColor")
        assert (background == "rgb(255, 255, 255)") is (colours == "light")
        assert min(page.execute_script(CONTRAST)) >= 4.5


def test_a_screen_reader_finds_a_name_for_everything(page: Any) -> None:
    assert unnamed(page) == []


def test_a_column_can_be_hidden_and_the_first_ones_stay_in_sight(page: Any) -> None:
    fields = "return [...document.querySelectorAll('#all th[data-field]')].map(th => th.dataset.field)"
    before = page.execute_script(fields)
    assert before[:6] == ["rank", "coding", "file_bytes", "ratio", "metric", "metric_delta"]
    click(page, "#columns input[data-field=mse]")
    assert page.execute_script(fields) == [field for field in before if field != "mse"]
    click(page, "#columns input[data-field=mse]")
    assert page.execute_script(fields) == before
    with sized(page, 700):
        page.refresh()
        places = """const box = document.querySelector('#all').parentElement; box.scrollLeft = arguments[0];
            return ['.rank', '.name', 'td:nth-child(3)'].map(
                (what) => document.querySelector('#all tbody ' + what).getBoundingClientRect().x)"""
        still, moved = (page.execute_script(places, at) for at in (0, 200))
        assert moved[:2] == still[:2]
        assert moved[2] == pytest.approx(still[2] - 200)


def test_what_matters_is_in_sight_at_1400_pixels_however_long_names_are(browser: Any, tmp_path: Path) -> None:
    long = {"epochs": 24, "schedule": "cosine", "distill_from_the_trained_network": 0.9}
    records = [
        make(
            k=k, pruner="a-pruner-with-a-long-name", pruner_params={**long, "keep": keep}, sensitivity="second-moments",
            sensitivity_params={"samples": 1000 * k}, training="finetune+batchnorm-of-a-long-name",
            training_params=[long | {"lr": keep}, {"batches": k}], key=digest([k, keep]),
        )
        for k in (4, 8) for keep in (0.1, 0.05)
    ]  # fmt: skip
    fill(tmp_path, records)
    rebuild(tmp_path)
    with sized(browser, 1400):
        browser.get((tmp_path / "index.html").as_uri())
        edges = browser.execute_script(
            """return ['file_bytes', 'ratio', 'metric', 'metric_delta', 'pruner', 'training'].map(
                (f) => document.querySelector(`#all th[data-field=${f}]`).getBoundingClientRect().right)"""
        )
        assert edges == sorted(edges)
        assert edges[3] < 1360


def test_a_figure_names_its_lines_and_the_float_network_and_no_name_covers_another(page: Any) -> None:
    with sized(page, 1400):
        page.refresh()
        draw_all(page)
        texts = page.execute_script(
            """const texts = [...document.querySelector('.plot').querySelectorAll('svg .mark-text text')];
            return texts.map((t) => { const r = t.getBoundingClientRect();
              return [t.textContent, r.left, r.top, r.right, r.bottom]; })"""
        )
        named = {text[0]: text[1:] for text in texts}
        assert {"kmeans huffman", "kmeans bzip2", "uniform huffman", "uniform bzip2"} <= set(named)
        assert any(text.startswith("float network: 98.00 %") for text in named)
        lines = [named[name] for name in named if name.startswith(("kmeans", "uniform"))]
        for place, (left, top, right, bottom) in enumerate(lines):
            assert right <= 1400
            for other in lines[place + 1 :]:
                assert bottom - 4 <= other[1] or other[3] - 4 <= top, (named, left)


def test_an_axis_is_logarithmic_or_linear_at_a_click(page: Any) -> None:
    marks = """const spots = [...document.querySelector('.plot').querySelectorAll('svg .mark-symbol path')];
        return spots.map((s) => [s.__data__ ? s.__data__.datum.file_bytes : null,
            +s.getAttribute('transform').match(/translate\\(([-\\d.]+)/)[1]])"""
    draw_all(page)
    shown: dict[str, list[list[float]]] = {}
    for kind in ("linear", "log"):
        page.execute_script(
            "document.querySelector('.plot').dataset.ready = ''; "
            "document.querySelector(`.scale button[value=${arguments[0]}]`).click()",
            kind,
        )
        draw_all(page)
        shown[kind] = page.execute_script(marks)
        pressed = page.execute_script("return document.querySelector('.scale [aria-pressed=true]').value")
        assert pressed == kind
    for kind, law in (("linear", float), ("log", math.log)):
        points = sorted((law(size), x) for size, x in shown[kind] if size)
        (first, left), (last, right) = points[0], points[-1]
        for size, x in points:
            assert x == pytest.approx(left + (size - first) / (last - first) * (right - left), abs=1.0)


def test_long_tables_are_shown_in_parts(browser: Any, tmp_path: Path) -> None:
    fill(tmp_path, [make(k=k) for k in range(2, 252)])
    rebuild(tmp_path)
    opened(browser, (tmp_path / "index.html").as_uri())
    assert len(column(browser, "rank")) == 100
    assert browser.execute_script("return document.querySelector('#more').textContent") == "Show 150 more"
    click(browser, "#more")
    assert len(column(browser, "rank")) == 250
    assert browser.execute_script("return document.querySelector('#more').offsetParent === null")


def test_text_from_records_is_never_markup(page: Any) -> None:
    failures = page.execute_script("return document.querySelector('#failures').innerHTML")
    assert "&lt;boom&gt;" in failures
    assert page.execute_script("return document.querySelectorAll('boom').length") == 0


@pytest.fixture(scope="module")
def nights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five nights: bytes that grow once, a metric that moves without a change point, and the rest still."""
    folder = tmp_path_factory.mktemp("nights")
    for night in range(5):
        records = [
            make(k=k, symbols=9_999 if (k, night > 2) == (4, True) else 5_000, wrong=20 + (night % 2 if k == 8 else 0))
            for k in (2, 4, 8)
        ]
        with Store.write(folder) as store:
            run = store.start_run("nights <of> tests", environment={"git_revision": f"{night}" * 40})
            for record in records:
                store.add(Record.from_dict({**record.to_dict(), "run": run, "suite": "nights <of> tests"}))
            store.end_run(run)
    write_history(folder)
    return folder / "history.html"


@pytest.fixture
def history(browser: Any, nights: Path) -> Any:
    browser.get_log("browser")
    browser.get_log("performance")
    browser.get(nights.as_uri())
    return browser


def test_the_history_loads_without_an_error_or_a_request(history: Any) -> None:
    assert history.title.startswith("nights <of> tests over the nights")
    assert complaints(history) == []
    assert [url for url in requests(history) if not url.startswith("data:")] == [history.current_url]


def test_the_history_marks_the_night_of_a_change_and_says_between_which_revisions(history: Any) -> None:
    figures = history.execute_script(
        """return [...document.querySelectorAll('figure')].filter(f => f.querySelector('line')).map(f => ({
            caption: f.querySelector('figcaption').textContent, text: f.querySelector('p').textContent,
            mark: f.querySelector('line').getBoundingClientRect().x,
            points: [...f.querySelectorAll('circle')].map(c => c.getBoundingClientRect().x)}))"""
    )
    assert sorted(figure["caption"].split(":")[0] for figure in figures) == ["file_bytes", "ratio"]
    for figure in figures:
        assert len(figure["points"]) == 5
        assert figure["points"][2] < figure["mark"] < figure["points"][3]
        assert figure["text"].startswith("worse: ")
        assert "between 222222222222 (" in figure["text"]
        assert " and 333333333333 (" in figure["text"]
    (size,) = [figure for figure in figures if figure["caption"].startswith("file_bytes")]
    old, new = make(k=4, symbols=5_000).file_bytes, make(k=4, symbols=9_999).file_bytes
    assert size["caption"] == f"file_bytes: {new:,} last, 5 nights"
    assert f"{old:,} → {new:,}" in size["text"]


def test_what_never_moved_is_folded_away_and_opens_by_keyboard(history: Any) -> None:
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.keys import Keys

    shown = "return [...document.querySelectorAll('td')].filter(td => td.checkVisibility()).length"
    assert history.execute_script(shown) == 0
    history.execute_script("[...document.querySelectorAll('summary')].at(-1).focus()")
    ActionChains(history).send_keys(Keys.ENTER).perform()
    # of three trials' four figures (bytes, ratio, mse, accuracy), two moved with a change point and one without
    assert history.execute_script(shown) == 5 * (3 * 4 - 3)


def test_the_history_fits_a_phone_and_keeps_its_contrast_in_the_dark(history: Any) -> None:
    with sized(history, 390, mobile=True), scheme(history, "dark"):
        history.refresh()
        history.execute_script("document.querySelectorAll('details').forEach(d => d.open = true)")
        assert history.execute_script("return document.documentElement.scrollWidth") <= 390
        contrast = CONTRAST.replace('"body", "a", ', '"body", ')
        assert min(history.execute_script(contrast)) >= 4.5
