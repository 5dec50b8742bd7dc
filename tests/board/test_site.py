"""The site of a board: what its pages say, that they are text whoever wrote it, and how they are in a browser."""

from __future__ import annotations

import hashlib
import json
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest
from browser_kit import CONTRAST, LINES, click, complaints, draw_all, needed, opened, requests, scheme, sized, unnamed
from record_factory import make

from nqbench.api.errors import BadInput
from nqbench.board.again import command
from nqbench.board.board import Board
from nqbench.board.bundle import file_name
from nqbench.board.manifest import Distribution
from nqbench.board.rows import BoardRow, Check, Found, row_id
from nqbench.board.site import build_site
from nqbench.results.record import Record

SCRIPT = "<script>document.title = 'taken'</script>"
WHERE = "Python 3.11.7, torch 2.13.0, Imaginary 1"


def put(board: Board, record: Record, number: int, **changes: Any) -> BoardRow:
    """A row as if it had been checked."""
    data = f"file {number}".encode() * 3
    sha256 = hashlib.sha256(data).hexdigest()
    found = Found(
        file_bytes=record.file_bytes or 0,
        parts=record.parts.model_dump() if record.parts else {},
        decoded_sha256="d" * 64,
        ratio=record.ratio or 0,
        file_ratio=record.file_ratio or 0,
        own_ratio=1.0,
        bits_per_weight=record.bits_per_weight or 0,
        metric=record.metric or 0,
        metrics=record.metrics,
        metric_float=record.metric_float or 0,
        correct=record.correct,
        examples=record.examples,
        same_network=number % 2 == 0,
    )
    time = f"2026-11-{number % 27 + 1:02}T00:00:00.000000+00:00"
    said: dict[str, Any] = {
        "id": row_id(record, sha256),
        "record": record,
        "file": sha256,
        "suite": hashlib.sha256(b"name: s\n").hexdigest(),
        "who": "Somebody",
        "licence": "CC-BY-4.0",
        "created": time,
        "added": time,
        "bundle": "b" * 64,
        "found": found,
        "distributions": (Distribution(name="theirs", version="1.0", source="https://example.org/x"),),
        "checks": (Check(time=time, where=WHERE, nqbench="0.1.0", exact=True),),
    }
    row = BoardRow(**(said | changes))
    board._keep(row, data, "name: s\n" if row.suite else "")
    return row


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two networks, hostile names among the rows, and published results."""
    folder = tmp_path_factory.mktemp("site")
    board = Board.at(folder / "board", "Board of <b>tests</b>")
    number = 0
    for quantizer in ("uniform", "kmeans"):
        for k in (2, 4, 8, 16):
            put(board, make(quantizer=quantizer, k=k), number := number + 1)
    put(board, make(k=32, coder="spy"), 20, who=SCRIPT, code=("coder spy of theirs 1.0",), suite=None)
    put(board, make(k=64, model="other", suite=f"{SCRIPT}"), 21, who=None)
    put(board, make(k=64, model="other", quantizer_params={"k": 64, "zero": SCRIPT}), 22)
    (board.folder / "published.yaml").write_text(
        '- {paper: "A paper", network: net, rows: [{method: "theirs & <i>others</i>", accuracy: 97.5, ratio: 9.0}]}\n'
    )
    build_site(board, folder / "site", "https://example.org/board")
    return folder


def rows_of(site: Path) -> list[BoardRow]:
    return Board.open(site / "board").rows()


class Links(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self.elements: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append(tag)
        self.found += [value for name, value in attrs if name in ("href", "src") and value]


def test_every_link_of_every_page_leads_somewhere_and_nothing_is_fetched_from_elsewhere(site: Path) -> None:
    pages = sorted((site / "site").rglob("*.html"))
    assert len(pages) == 1 + 2 + 11
    for page in pages:
        links = Links()
        links.feed(page.read_text())
        assert "b" not in links.elements
        assert "i" not in links.elements
        for link in links.found:
            if link.startswith(("#", "data:", "https://")):
                continue
            assert (page.parent / unquote(urlsplit(link).path)).is_file(), (page, link)


def test_a_row_page_says_what_the_board_found_and_how_to_make_it_again(site: Path) -> None:
    for row in rows_of(site):
        text = (site / "site" / "rows" / f"{row.id}.html").read_text()
        assert f"{row.found.file_bytes:,} bytes" in text
        assert f"{row.found.metric:.2f}" in text
        assert row.file in text
        assert WHERE in text
        for size in row.found.parts.values():
            assert not size or f'<td class="n">{size:,}</td>' in text
        if row.suite:
            assert f"quantizer.k={(row.record.quantizer_params or {})['k']}" in text
            assert (site / "site" / "suites" / f"{row.suite[:12]}.yaml").read_text() == "name: s\n"
        assert ("takes code beside nqbench" in text) is bool(row.code)
        data = (site / "board" / file_name(row.file)).read_bytes()
        assert (site / "site" / file_name(row.file)).read_bytes() == data
        assert json.loads((site / "site" / "rows" / f"{row.id}.json").read_text())["id"] == row.id


def test_a_small_metric_keeps_its_digits_on_every_page(tmp_path: Path) -> None:
    """A divergence of 0.00289 nats is not 0.00."""
    board = Board.at(tmp_path / "board")
    judged = {"metric_name": "divergence", "metric_unit": "nats", "metric_higher_is_better": False, "correct": None}
    row = put(board, make(metric=0.00289, metric_float=0.00125, metrics={"divergence": 0.00289}, **judged), 1)
    build_site(board, tmp_path / "site")
    for page in (tmp_path / "site").rglob("*.html"):
        text = page.read_text()
        assert "0.00289" in text, page
        assert " 0.00 nats" not in text
    assert "+0.00164 from 0.00125" in (tmp_path / "site" / "rows" / f"{row.id}.html").read_text()


@pytest.fixture
def strict(tmp_path: Path) -> Path:
    """The site of a board of which no row holds, although there are rows."""
    board = Board.at(tmp_path / "board", drop=0.001)
    for number, k in enumerate((4, 8), 1):
        put(board, make(k=k), number)
    build_site(board, tmp_path / "site")
    return tmp_path / "site"


def test_where_no_row_holds_none_is_called_the_smallest_that_does(strict: Path) -> None:
    for row in rows_of(strict.parent):
        assert f'<td class="n">{row.found.file_bytes:,}</td>' not in (strict / "index.html").read_text()
    (page,) = (strict / "networks").glob("*.html")
    assert "No file is here yet of those that lose at most 0.001" in page.read_text()


def test_the_command_is_of_the_row_s_trial() -> None:
    record = make(
        k=8, quantizer="kmeans", seed=3, pruner="magnitude", pruner_params={}, training="a+b", training_params=[{}, {}]
    )
    assert command(record, "my suite.yaml") == (
        "nqbench run 'my suite.yaml' --only model=net,pruner=magnitude,sensitivity=none,quantizer=kmeans,training=a+b,"
        "coder=huffman,quantizer.k=8,granularity=global,seed=3"
    )


def test_the_feeds_say_the_same_as_the_rows(site: Path) -> None:
    document = json.loads((site / "site" / "board.json").read_text())
    by_id = {row.id: row for row in rows_of(site)}
    assert {row["id"] for row in document["rows"]} == set(by_id)
    for told in document["rows"]:
        row = by_id[told["id"]]
        assert (told["file_bytes"], told["metric"], told["who"]) == (row.found.file_bytes, row.found.metric, row.who)
        assert told["metric_low"] < told["metric"] < told["metric_high"]
        assert (site / "site" / told["page"]).is_file()
        assert (site / "site" / told["file"]).is_file()
    assert [row["method"] for row in document["published"]] == ["theirs & <i>others</i>"]
    feed = json.loads((site / "site" / "feed.json").read_text())
    assert feed["version"] == "https://jsonfeed.org/version/1.1"
    newest = sorted(by_id.values(), key=lambda row: row.added, reverse=True)
    assert [item["id"] for item in feed["items"]] == [row.id for row in newest]
    assert all(item["url"].startswith("https://example.org/board/rows/") for item in feed["items"])


def test_it_is_built_again_over_itself_and_over_nothing_else(site: Path, tmp_path: Path) -> None:
    board = Board.at(tmp_path / "board")
    one, two = (put(board, make(k=k), k) for k in (4, 8))
    build_site(board, tmp_path / "site")
    (board.folder / "rows" / f"{two.id}.json").unlink()
    build_site(board, tmp_path / "site")
    assert [path.stem for path in (tmp_path / "site" / "rows").glob("*.html")] == [one.id]
    assert len(list((tmp_path / "site" / "files").iterdir())) == 1
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "mine.txt").write_text("mine")
    with pytest.raises(BadInput, match="not empty"):
        build_site(board, tmp_path / "other")
    build_site(Board.at(tmp_path / "none"), tmp_path / "empty")
    assert "No row yet" in (tmp_path / "empty" / "index.html").read_text()


# -- in a browser ----------------------------------------------------------------------------------------------------
@pytest.fixture
def network(browser: Any, site: Path) -> Any:
    browser.get_log("browser")
    browser.get_log("performance")
    (path,) = (site / "site" / "networks").glob("net-*.html")
    opened(browser, path.as_uri())
    return browser


@needed
def test_the_pages_work_from_the_disk_without_an_error_or_a_request(network: Any, site: Path) -> None:
    draw_all(network)
    assert complaints(network) == []
    assert all(url.startswith(("file:", "data:", "blob:")) for url in requests(network))
    assert network.execute_script("return document.querySelectorAll('#all tbody tr').length") == 9
    assert network.execute_script("return document.querySelectorAll('.plot svg .mark-symbol path').length") > 9
    # the methods of more than one row, and the front
    assert len([line for line in network.execute_script(LINES) if "L" in line or "H" in line]) == 2 + 1
    assert "theirs & <i>others</i>" in network.execute_script("return document.querySelector('#published').textContent")


@needed
def test_the_index_says_none_yet_where_no_row_holds(browser: Any, site: Path, strict: Path) -> None:
    cells = "return [...document.querySelectorAll('#networks tr')].map((line) => line.cells[3].textContent)"
    browser.get((strict / "index.html").as_uri())
    assert browser.execute_script(cells) == ["smallest that holds", "none yet"]
    browser.get((site / "site" / "index.html").as_uri())
    assert browser.execute_script(cells) == ["smallest that holds", "none yet", "8,320"], "of the second some hold"


@needed
def test_text_of_submitters_is_text_on_every_page(browser: Any, site: Path) -> None:
    for page in sorted((site / "site").rglob("*.html")):
        browser.get(page.as_uri())
        assert browser.title != "taken"
        assert browser.execute_script("return [...document.querySelectorAll('b, i')].length") == 0
    taken = next(row for row in rows_of(site) if row.who == SCRIPT)
    browser.get((site / "site" / "rows" / f"{taken.id}.html").as_uri())
    assert SCRIPT in browser.execute_script("return document.body.textContent")


@needed
def test_it_is_used_by_keyboard_and_leads_to_a_row_s_own_page(network: Any) -> None:
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.keys import Keys

    reached = []
    for _ in range(40):
        ActionChains(network).send_keys(Keys.TAB).perform()
        reached.append(
            network.execute_script(
                "const e = document.activeElement; return e.id || e.value || e.textContent.slice(0, 30)"
            )
        )
    for one, next_one in (
        ("Skip to the ranking", "filter-text"),
        ("filter-text", "filter-holds"),
        ("columns", "bytes"),
    ):
        assert reached.index(one) < reached.index(next_one), reached
    click(network, "#all th[data-field=metric] button")
    network.execute_script("document.querySelector('#all tbody th a').focus()")
    ActionChains(network).send_keys(Keys.ENTER).perform()
    assert "/rows/" in network.current_url
    assert network.execute_script("return document.querySelector('.crumbs a').textContent") == "Board of <b>tests</b>"


@needed
@pytest.mark.parametrize("colours", ["light", "dark"])
def test_every_kind_of_page_has_names_for_a_screen_reader_contrast_and_the_width_of_a_phone(
    browser: Any, site: Path, colours: str
) -> None:
    pages = [site / "site" / "index.html", *sorted((site / "site" / "networks").glob("net-*"))]
    pages += [site / "site" / "rows" / f"{row.id}.html" for row in rows_of(site) if row.code]
    with sized(browser, 390, mobile=True), scheme(browser, colours):
        for page in pages:
            browser.get(page.as_uri())
            if page.parent.name == "networks":
                draw_all(browser)
            assert unnamed(browser) == [], page
            assert browser.execute_script("return document.documentElement.scrollWidth") <= 390, page
            there = '["body", "a", ".soft", "td", ".bad"].filter((s) => document.querySelector(s))'
            contrast = CONTRAST.replace('["body", "a", ".soft", "td", ".bad"]', there)
            assert min(browser.execute_script(contrast)) >= 4.5, page


@needed
def test_rows_are_filtered_by_who(network: Any) -> None:
    network.execute_script(
        "const s = document.querySelector('#filter-who'); s.value = arguments[0]; s.dispatchEvent(new Event('change'))",
        SCRIPT,
    )
    assert network.execute_script("return document.querySelector('#count').textContent") == "1 of 9 rows"
