"""Pages that are made from the code say what the code says."""

from __future__ import annotations

import inspect
import io
import re
from pathlib import Path
from typing import Any

import pytest
from generate import api, commands, faq, fileformat, notebook, plugins, published, rst, suites
from generate.reading import read

import nqbench.api
from nqbench.cli import cli
from nqbench.container import sections_of
from nqbench.registry import registry
from nqbench.suite import shipped

ROOT = Path(__file__).parents[2]
GOLDEN = sorted((ROOT / "tests" / "container" / "golden").glob("*.nqz"))


@pytest.mark.parametrize("path", GOLDEN, ids=lambda p: p.stem)
def test_a_file_read_by_the_specification_alone_says_what_the_reader_says(path: Path) -> None:
    """Spans lie end to end over every byte, and the header's figures are those of ``nqbench.container``."""
    data = path.read_bytes()
    reading, sections = read(data), sections_of(data)
    for spans, whole in ((reading.outer, data), (reading.header, reading.plain)):
        assert [span.start for span in spans] == [0, *(span.stop for span in spans[:-1])]
        assert spans[-1].stop == len(whole)
    header = sections.header
    facts = reading.facts
    assert facts["producer"] == header.producer
    assert facts["plugins"] == [ref.name for ref in header.plugins]
    assert [(t["name"], t["kind"]) for t in facts["tensors"]] == [(t.name, t.kind) for t in header.tensors]
    assert [t.get("shape", ()) for t in facts["tensors"]] == [t.shape for t in header.tensors]
    assert [(g["form"], g["alphabet"]) for g in facts["groups"]] == [(g.form, g.alphabet) for g in header.groups]
    assert facts["streams"] == [(s.table, s.payload) for s in header.streams]
    assert {name: size for name, size in facts["sections"].items() if size} == {
        name: len(part) for name, part in sections.data.items() if part
    }


def test_a_damaged_file_is_not_read() -> None:
    data = bytearray(GOLDEN[0].read_bytes())
    data[-1] ^= 1
    with pytest.raises(ValueError, match="checksum"):
        read(bytes(data))


def test_the_byte_table_shows_every_byte_of_the_example() -> None:
    page = fileformat.pages(ROOT)["file-format.rst"]
    data = (ROOT / fileformat.EXAMPLE).read_bytes()
    assert f"a file of {len(data)} bytes" in page
    assert f"``{data[:3].hex(' ')}``" in page


def test_every_plugin_of_nqbench_has_a_page_with_its_parameters() -> None:
    pages = plugins.pages(ROOT)
    for entry in registry().all():
        if entry.distribution == "nqbench":
            page = pages[f"plugins/{entry.cls.kind}-{entry.cls.name}.rst"]
            assert all(f"``{name}``" in page for name in entry.cls.model_fields)
            assert f"{entry.cls.kind}-{entry.cls.name}" in pages["plugins/index.rst"]
            assert entry.cls.__module__ in page


def test_every_command_and_option_is_in_the_reference() -> None:
    import click

    page = commands.pages(ROOT)["commands.rst"]
    context = click.Context(cli, info_name="nqbench")
    for name in cli.list_commands(context):
        command = cli.get_command(context, name)
        assert command is not None
        assert f".. _command-nqbench-{name}:" in page
        for parameter in command.params:
            if isinstance(parameter, click.Option) and not parameter.hidden:
                assert parameter.opts[0] in page


def test_every_suite_is_shown_whole() -> None:
    page = suites.pages(ROOT)["suites.rst"]
    for name, path in shipped().items():
        assert f".. _suite-{name}:" in page
        assert path.read_text(encoding="utf-8").splitlines()[0] in page


def test_what_bad_input_says_is_one_line_that_names_it() -> None:
    for asked in faq.ASKED:
        said = faq.said(asked, ROOT)
        assert said.count("error: ") == 1, asked.command
        assert "Traceback" not in said
        assert "/tmp" not in said


def test_the_api_reference_has_every_class_and_function() -> None:
    told = "".join(api.pages(ROOT).values())
    for name in nqbench.api.__all__:
        if inspect.isclass(value := getattr(nqbench.api, name)) or inspect.isfunction(value):
            assert re.search(rf":: nqbench\.api\.{name}$", told, re.MULTILINE), name


def test_links_of_published_pages_lead_to_the_repository() -> None:
    pages = published.pages(ROOT)
    assert "](repo:reports/reference/lenet/leaderboard.md)" in pages["findings.md"]
    assert "](repo:reports/reference/beyond/resnets-chosen/leaderboard.md)" in pages["leaderboard.md"]
    assert "![" in pages["leaderboard.md"]
    assert "](reports" not in "".join(pages.values())
    assert published._linked("[a](b.md) [c](#d) [e](https://f) ![g](h.png)", "x/", "y/") == (
        "[a](repo:x/b.md) [c](#d) [e](https://f) ![g](y/x/h.png)"
    )


def publish_doctree(text: str, **options: Any) -> Any:
    """As docutils reads it, which comes with the extra ``docs``."""
    return pytest.importorskip("docutils.core").publish_doctree(text, **options)


def warnings_of(text: str) -> str:
    said = io.StringIO()
    publish_doctree(text, settings_overrides={"warning_stream": said, "report_level": 2, "halt_level": 5})
    return said.getvalue()


@pytest.mark.parametrize(
    ("text", "holds"),
    [
        ("The mean |w| of |w_i| and ``|x|``.", "<paragraph>The mean |w| of |w_i| and "),
        ("It is\n\n    J = D + |q|\n\nwith D.", "J = D + |q|</literal_block>"),
        ("It is\n    J = D\nand then.", "J = D</literal_block>"),
        ("Code::\n\n    a | b\n\nafter", "a | b</literal_block>"),
        ("- one\n  two |x|\n- three", "<list_item"),
        ("==== ====\na    b|\n==== ====\n\nafter", "<table"),
    ],
)
def test_docstrings_of_the_house_are_read_as_they_are_meant(text: str, holds: str) -> None:
    made = rst.docstring(text)
    assert warnings_of(made) == ""
    assert holds in str(publish_doctree(made).asdom().toxml()).replace("\0", "")


@pytest.mark.parametrize("text", ["a*b*c", "|x|", "name_", "``a|b`` and a_ *", "back\\slash", "x` y", "tcp://a:1"])
def test_a_sentence_is_shown_as_it_is_written(text: str) -> None:
    made = rst.inline(text)
    assert warnings_of(made) == ""
    assert publish_doctree(made).astext() == text.replace("``", "")
    assert "reference" not in publish_doctree(made).asdom().toxml()


def test_single_backquotes_are_code_too() -> None:
    for made in (rst.inline("of `x_` or ``y``"), rst.docstring("of `x_` or ``y``")):
        assert publish_doctree(made).asdom().toxml().count("<literal>") == 2


def test_a_notebook_without_outputs_is_run_in_order_in_one_namespace() -> None:
    def book(*sources: str) -> dict[str, Any]:
        return {"cells": [{"cell_type": "code", "source": [source], "outputs": []} for source in sources]}

    made = notebook.markdown(notebook.executed(book("x = 2", "print('a')\nx + 1", "None", "def f():\n    return 1")))
    assert made.count("```text") == 1
    assert "```text\na\n3\n```" in made
    with pytest.raises(RuntimeError, match="ZeroDivisionError"):
        notebook.executed(book("1 / 0"))
    stored = {"cells": [{"cell_type": "code", "source": "1 / 0", "outputs": [{"text": "as it was"}]}]}
    assert "as it was" in notebook.markdown(notebook.executed(stored))


def test_a_notebook_is_shown_with_its_outputs() -> None:
    book = {
        "cells": [
            {"cell_type": "markdown", "source": ["# Title\n", "text"]},
            {"cell_type": "code", "source": "1 + 1\n'```'", "outputs": [
                {"output_type": "stream", "text": ["\x1b[1mbold\x1b[0m\n"]},
                {"output_type": "execute_result", "data": {"text/plain": ["2"]}},
                {"output_type": "display_data", "data": {"image/png": "QUJD\n", "text/plain": ["<Figure>"]}},
            ]},
            {"cell_type": "code", "source": "", "outputs": []},
        ]
    }  # fmt: skip
    made = notebook.markdown(book)
    assert made.startswith("# Title\ntext\n\n````python\n1 + 1\n'```'\n````\n")
    assert "```text\nbold\n```" in made
    assert "```text\n2\n```" in made
    assert "data:image/png;base64,QUJD" in made
    assert "Figure" not in made
