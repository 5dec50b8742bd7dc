"""Names, parameters and errors of others are text in every format: no markup, no link, no control code."""

from __future__ import annotations

import random
import re
import sys
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import pytest
from record_factory import failed, make

from nqbench.cli import invoke
from nqbench.cli.nightly import compare_night, write_history
from nqbench.report import ReportData, escaping, rebuild, terminal
from nqbench.report.payload import details
from nqbench.results.exports import read_side
from nqbench.results.record import Record
from nqbench.results.store import Store

HOSTILE = (
    "<img src=x onerror=alert(1)> [a](javascript:b) ![c](//d) | `e` *f* _g_ &amp; \\end{table} \"'"
    "\x1b[2J\x00\ud800\u202e\n# h"
)
FIELDS = ("model", "quantizer", "coder", "pruner", "sensitivity", "positions", "metric_name", "metric_unit", "knob")
PARAMETERS = ("model_params", "quantizer_params", "coder_params")


def hostile(run: str, k: int, **changes: object) -> Record:
    text = HOSTILE.replace("\ud800", "")  # no text in a database has half a pair
    fields = dict.fromkeys(FIELDS, text) | {field: {text: text, "k": k} for field in PARAMETERS}
    fields |= {"training": text, "training_params": [{text: str(k)}], "metrics": {text: 98.0}}
    make_one = failed if changes.pop("bad", False) else make
    return make_one(k=k).model_copy(update={**fields, "run": run, **changes})


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two nights of a suite all of whose names are hostile, with every file that can be made of them."""
    folder = tmp_path_factory.mktemp("hostile")
    text = HOSTILE.replace("\ud800", "")
    quoted = [{"model": model, "method": text, "paper": text, "accuracy": 97.0, "ratio": 5.0} for model in ("x", text)]
    with Store.write(folder) as store:
        for worse in (0, 1000):
            run = store.start_run(text, text, argv=[text], environment={text: text}, settings={"published": quoted})
            for k in (2, 4):
                store.add(hostile(run, k, mse=0.1 + worse))
            store.add(hostile(run, 8, bad=True, error=text))
            store.end_run(run)
    with Store.read(folder) as store:
        first = store.runs()[0].run
    rebuild(folder)
    compare_night(folder, read_side(folder, first))
    write_history(folder)
    return folder


def shown(text: str) -> str:
    """What Markdown shows: code taken out, escapes undone."""
    return re.sub(r"\\([!-/:-@\[-`{-~])", r"\1", text)


@pytest.mark.parametrize("name", ["leaderboard.md", "compare.md"])
def test_markdown_has_no_markup_of_a_name(folder: Path, name: str) -> None:
    text = (folder / name).read_text()
    assert "onerror" in text
    outside = re.sub(r"(`+)(?!`).*?(?<!`)\1(?!`)", "", re.sub(r"\\`", "", text))
    assert not re.search("<[A-Za-z/!?]", outside)
    assert not re.search(r"(?<!\\)`|(?<!\\)\][(\[:]", outside)
    assert not re.search(r"(?<!\\)\*f|(?<!\\)_g", outside)
    assert "\n# h" not in text
    assert not re.search("[\x00-\x08\x0b-\x1f\u202e]", text)
    rows = [line for line in text.splitlines() if line.startswith("|")]
    tables = re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE)
    assert rows
    for table in tables:
        assert len({len(re.findall(r"(?<!\\)\|", row)) for row in table.splitlines()}) == 1


def test_latex_has_no_command_of_a_name(folder: Path) -> None:
    lines = (folder / "leaderboard.tex").read_text().splitlines()
    text = "\n".join(line for line in lines if not line.startswith("%"))
    assert text.count(r"\end{table}") == text.count(r"\begin{table}")
    assert "onerror" in text
    assert not re.search("[\x00-\x08\x0b-\x1f\u202e]", text)


@pytest.mark.parametrize("method", ["[2] theirs", "*theirs"])
def test_latex_s_end_of_a_line_takes_no_bracket_or_star_from_the_next_row(tmp_path: Path, method: str) -> None:
    r"""TeX looks for ``\\*`` and ``\\[2pt]`` past the break of the line."""
    quoted = [{"paper": "p", "network": "net", "rows": [{"method": method, "accuracy": 97.0, "ratio": 5.0}]}]
    with Store.write(tmp_path) as store:
        run = store.start_run("s", "", settings={"published": quoted})
        store.add(make(run=run))
        store.end_run(run)
    rebuild(tmp_path)
    text = (tmp_path / "leaderboard.tex").read_text()
    assert f"\n{{}}{method}" in text
    assert not re.search(r"(\\|rule)\s*[\[*]", text)


@pytest.mark.parametrize(
    ("file", "linked"),
    [
        (f"files/{'0' * 32}.nqz", True),
        ("javascript:alert(document.domain)//files/a.nqz", False),
        ("files/../../x.nqz", False),
        ("https://example.org/files/a.nqz", False),
        ("files/a.nqz?x#y", False),
        ("files/a.nqz\n", False),
        (None, False),
    ],
)
def test_a_page_links_to_a_record_s_file_only_where_that_is_one_of_its_folder(file: str | None, linked: bool) -> None:
    data = ReportData(suite="s", records=[make(file=file)])
    ((_, _, told, link),) = details(data)
    assert (told, link) == (file, linked)


def test_junit_is_xml(folder: Path) -> None:
    suite = ElementTree.parse(folder / "junit.xml").getroot()
    assert suite.tag == "testsuite"
    assert {child.tag for child in suite.iter()} <= {"testsuite", "testcase", "failure", "skipped"}
    assert all("<img src=x onerror=alert(1)>" in case.attrib["name"] for case in suite.iter("testcase"))


class Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: set[str] = set()
        self.attributes: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.add(tag)
        self.attributes |= {name for name, _ in attrs}


@pytest.mark.parametrize("name", ["index.html", "history.html"])
def test_a_page_has_no_element_of_a_name(folder: Path, name: str) -> None:
    text = (folder / name).read_text()
    assert "onerror" in text
    tags = Tags()
    tags.feed(text)
    assert not tags.found & {"img"}
    assert "onerror" not in tags.attributes


def test_a_terminal_gets_no_control_code(folder: Path) -> None:
    text = terminal(rebuild(folder)[0])
    assert "onerror" in text
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202e]", text)


def test_an_error_about_a_suite_of_somebody_else_has_no_control_code(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "suite.yaml"
    path.write_text('models: {lenet300: {data: "\\e[2J\\u202e"}}\nquantizers: kmeans\n')
    assert invoke(["plan", str(path)]) == 1
    said = capsys.readouterr().err
    assert "must be 'mnist' or 'digits'" in said
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202e]", said)


def test_every_character_is_one_line_of_text_in_markdown() -> None:
    for code in (*range(0x3000), *range(0x3000, sys.maxunicode, 101)):
        text = escaping.markdown(f"a{chr(code)}b")
        assert not set(text) & set("\n\r")
        assert not re.search("<[A-Za-z/!?]", text)


PIECES = [
    *"<>&`*_[]()|~#+-!\\/;:=.\"' ",
    "a",
    "1",
    "<b>",
    "</b>",
    "<!-- ",
    "<?",
    "&lt;",
    "&#60;",
    "10. ",
    "# ",
    "- ",
    "---",
]


def drawn(source: random.Random) -> str:
    return "".join(source.choices(PIECES, k=source.randint(1, 9)))


def test_markdown_shows_any_text_as_it_is() -> None:
    """As an independent parser of CommonMark renders it: in a heading, an item, a paragraph and cells of a table."""
    markdown_it = pytest.importorskip("markdown_it")
    parser = markdown_it.MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"])
    source = random.Random(0)
    for _ in range(1500):
        text = " ".join(drawn(source).split()) or "a"
        whole, escaped = escaping.markdown_line(text), escaping.markdown(text)
        for form, tags in (("# {}", ["h1"]), ("- {}", ["ul", "li"]), ("{}", ["p"])):
            page = Page(parser.render(form.format(whole)))
            assert (page.tags, page.text.strip()) == (tags, text), (text, whole)
        page = Page(parser.render(f"| {escaped} | b |\n| --- | --- |\n| c | {escaped} |\n"))
        assert [cell.strip() for cell in page.cells] == [text, "b", "c", text], (text, escaped)
        assert set(page.tags) <= {"table", "thead", "tbody", "tr", "th", "td"}, (text, escaped)


class Page(HTMLParser):
    """The elements of a page, its text, and its text between two tags."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.text = ""
        self.cells: list[str] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag in ("th", "td"):
            self.cells.append("")

    def handle_data(self, data: str) -> None:
        self.text += data
        if self.cells:
            self.cells[-1] += data


@pytest.mark.parametrize(
    "text", ["p < 0.001", "a > b", "R&D", "x<2", "conv1.weight", "-3", "1.5", "50 % & more", "#", "1*"]
)
def test_what_begins_no_markup_reads_as_plain_text(text: str) -> None:
    assert escaping.markdown(text) == text


def test_code_ends_where_it_ends_whatever_backticks_are_in_it() -> None:
    for text in ("a", "a`b", "``", "`a``b```", ""):
        found = re.fullmatch(r"(`+)(?!`)(.*?)(?<!`)\1", escaping.code(text))
        assert found is not None
        assert found.group(2).strip() == text
