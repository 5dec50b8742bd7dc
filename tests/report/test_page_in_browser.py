"""The page in headless Chromium: no errors, no requests, sorting and filtering work, numbers are the records'."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from record_factory import make
from test_reports import fill

from nqbench.cli.nightly import write_history
from nqbench.report import rebuild
from nqbench.results.record import Record
from nqbench.results.store import Store

webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(
    not (CHROMIUM and DRIVER), reason="chromium and chromedriver are not installed (Debian: chromium chromium-driver)"
)


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Record]]:
    folder = tmp_path_factory.mktemp("page")
    records = fill(folder)
    rebuild(folder)
    return folder, records


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    from selenium.webdriver.chrome.options import Options
    from selenium.webdriver.chrome.service import Service

    options = Options()
    options.binary_location = CHROMIUM
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(DRIVER))
    yield driver
    driver.quit()


@pytest.fixture
def page(browser: Any, report: tuple[Path, list[Record]]) -> Any:
    browser.get_log("browser")
    browser.get_log("performance")
    browser.get((report[0] / "index.html").as_uri())
    return browser


def wait(browser: Any, script: str, seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not browser.execute_script(f"return {script}"):
        assert time.monotonic() < deadline, f"never came true: {script}"
        time.sleep(0.05)


def column(browser: Any, field: str) -> list[str]:
    """The text of one column of the table of all configurations."""
    found: list[str] = browser.execute_script(
        """const at = [...document.querySelectorAll('#all th')].findIndex(th => th.dataset.field === arguments[0]);
        return [...document.querySelectorAll('#all tbody tr')].map(tr => tr.children[at].textContent)""",
        field,
    )
    return found


def click(browser: Any, selector: str) -> None:
    browser.execute_script("document.querySelector(arguments[0]).click()", selector)


def draw_all(browser: Any) -> None:
    browser.execute_script("dispatchEvent(new Event('beforeprint'))")
    wait(browser, "[...document.querySelectorAll('.plot')].every(p => p.dataset.ready)")


def test_it_draws_every_figure_without_an_error_or_a_request(page: Any) -> None:
    draw_all(page)
    assert page.execute_script("return document.querySelectorAll('.plot').length") == 9
    assert [entry for entry in page.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")] == []
    requests = [
        message["params"]["request"]["url"]
        for entry in page.get_log("performance")
        if (message := json.loads(entry["message"])["message"])["method"] == "Network.requestWillBeSent"
    ]
    assert [url for url in requests if not url.startswith(("file:", "data:", "blob:"))] == []
    assert len([url for url in requests if url.startswith("file:")]) == 1


def test_the_numbers_shown_are_the_records(page: Any, report: tuple[Path, list[Record]]) -> None:
    records = [record for record in report[1] if record.ok]
    shown = page.execute_script(
        """const fields = [...document.querySelectorAll('#all th')].map(th => th.dataset.field);
        return [...document.querySelectorAll('#all tbody tr')].map(tr =>
            Object.fromEntries(fields.map((f, i) => [f, tr.children[i].textContent])))"""
    )
    expected = {(r.model, f"{r.quantizer}(k={(r.quantizer_params or {})['k']}) global {r.coder}"): r for r in records}
    assert len(shown) == len(expected) == 40
    for row in shown:
        record = expected[row["model"], row["configuration"]]
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
    click(page, "#all th[data-field=configuration] button")
    names = column(page, "configuration")
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
    page.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride", {"width": 390, "height": 844, "deviceScaleFactor": 1, "mobile": True}
    )
    try:
        page.refresh()
        draw_all(page)
        assert page.execute_script("return document.documentElement.scrollWidth") <= 390
    finally:
        page.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


CONTRAST = """
const parse = (text) => text.match(/[\\d.]+/g).slice(0, 3).map((v) => {
  const c = v / 255; return c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4; });
const light = (rgb) => 0.2126 * rgb[0] + 0.7152 * rgb[1] + 0.0722 * rgb[2];
const back = light(parse(getComputedStyle(document.body).backgroundColor));
return ["body", "a", ".soft", "td", ".bad"].map((selector) => {
  const ink = light(parse(getComputedStyle(document.querySelector(selector)).color));
  return (Math.max(ink, back) + 0.05) / (Math.min(ink, back) + 0.05); })
"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_has_the_contrast_that_wcag_asks_for_in_both_schemes(page: Any, scheme: str) -> None:
    page.execute_cdp_cmd(
        "Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    )
    background = page.execute_script("return getComputedStyle(document.body).backgroundColor")
    assert (background == "rgb(255, 255, 255)") is (scheme == "light")
    assert min(page.execute_script(CONTRAST)) >= 4.5
    page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})


def test_long_tables_are_shown_in_parts(browser: Any, tmp_path: Path) -> None:
    fill(tmp_path, [make(k=k) for k in range(2, 252)])
    rebuild(tmp_path)
    browser.get((tmp_path / "index.html").as_uri())
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
    assert [entry for entry in history.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")] == []
    requests = [
        message["params"]["request"]["url"]
        for entry in history.get_log("performance")
        if (message := json.loads(entry["message"])["message"])["method"] == "Network.requestWillBeSent"
    ]
    assert [url for url in requests if not url.startswith("data:")] == [history.current_url]


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
    history.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride", {"width": 390, "height": 844, "deviceScaleFactor": 1, "mobile": True}
    )
    dark = {"features": [{"name": "prefers-color-scheme", "value": "dark"}]}
    history.execute_cdp_cmd("Emulation.setEmulatedMedia", dark)
    try:
        history.refresh()
        history.execute_script("document.querySelectorAll('details').forEach(d => d.open = true)")
        assert history.execute_script("return document.documentElement.scrollWidth") <= 390
        contrast = CONTRAST.replace('"body", "a", ', '"body", ')
        assert min(history.execute_script(contrast)) >= 4.5
    finally:
        history.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
        history.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
