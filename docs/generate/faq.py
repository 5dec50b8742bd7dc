"""Questions that people ask with bad input: each is given while the site is built, and what is said is shown."""

from __future__ import annotations

import contextlib
import io
import os
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from generate import rst
from nqbench.cli import invoke

GOLDEN = "tests/container/golden/coder-huffman.nqz"


@dataclass(frozen=True)
class Asked:
    """A question, the command that asks it, and what to do. files: name -> text, beside the command. damaged: how an
    ``.nqz`` file called ``x.nqz`` is made of a sound one."""

    question: str
    command: str
    answer: str
    files: Mapping[str, str] = field(default_factory=dict)
    damaged: str = ""


def _suite(text: str) -> Mapping[str, str]:
    return {"mine.yaml": text}


ASKED = (
    Asked(
        "There is no plugin of the name that a paper uses",
        "nqbench show k-means",
        "Names are those of :doc:`plugins/index`; ``nqbench list`` prints them, and at the end what is "
        "broken or left out.",
    ),
    Asked(
        "Which suites are there?",
        "nqbench plan quickstrt",
        "A suite is a file, or the name of one that ships with nqbench (:doc:`suites`).",
    ),
    Asked(
        "A key of my suite is not taken",
        "nqbench plan mine.yaml",
        "Every message about a suite names file, line and key, and the nearest key that there is.",
        _suite("models: [lenet300: {data: digits}]\nquantisers: [kmeans]\n"),
    ),
    Asked(
        "A parameter is refused",
        "nqbench plan mine.yaml",
        "``nqbench show NAME`` tells each parameter's bounds. A list is swept where the parameter takes no list.",
        _suite("models: [lenet300: {data: digits}]\nquantizers:\n  - kmeans: {k: [4, 0]}\n"),
    ),
    Asked(
        "No trial is left",
        "nqbench plan mine.yaml",
        "Combinations that make no sense are no trials. A method with error feedback needs the second moments of the "
        "layers' inputs: add ``sensitivities: second-moments``. ``nqbench show NAME`` says what a quantizer takes.",
        _suite("models: [lenet300: {data: digits}]\nquantizers: [gptq]\n"),
    ),
    Asked(
        "``--only`` matches nothing",
        "nqbench plan quickstart --only coder=rans",
        "``nqbench plan`` lists the trials with the words that ``--only`` understands; ``--set coders=[rans]`` changes "
        "the suite instead.",
    ),
    Asked(
        "Is the file damaged?",
        "nqbench inspect x.nqz",
        "Every section carries a checksum. Get or make the file again: nothing of a damaged section is used.",
        damaged="a byte flipped",
    ),
    Asked(
        "The download of a file ended early",
        "nqbench inspect x.nqz",
        "A cut file is told from a damaged one.",
        damaged="cut off",
    ),
    Asked(
        "The file is of something else",
        "nqbench inspect mine.yaml",
        "Compressed files begin with ``NQZ``; :doc:`file-format` says what follows.",
        _suite("models: [lenet300]\n"),
    ),
    Asked(
        "My network is not found",
        "nqbench compress --model module:mine --data mine:batches --max-drop 0.5",
        "``module:function`` names a function without arguments that returns the network; ``nqbench show module`` has "
        "a complete example, and :doc:`../your-model` walks through one.",
    ),
    Asked(
        "How much may be lost?",
        "nqbench compress --model lenet300 --data digits --max-drop much",
        "Points of the metric (``0.5``), or a share of it (``1%``); ``--max-bytes 200k`` asks the other way round.",
    ),
    Asked(
        "Where is my run?",
        "nqbench report reports/quickstrat",
        "A run is the folder that ``--output`` named, ``reports/SUITE`` unless it was given.",
    ),
    Asked(
        "A package's name is taken",
        "nqbench new coder huffman",
        "Names are unique by kind. Whoever registers a name that is taken is refused, so that installing a package "
        "never changes what an older suite means.",
    ),
)  # fmt: skip


def said(asked: Asked, root: Path) -> str:
    """What the command prints to stderr, run beside its files; it has to fail."""
    sound = (root / GOLDEN).read_bytes()
    errors, before = io.StringIO(), Path.cwd()
    with tempfile.TemporaryDirectory() as folder:
        for name, text in asked.files.items():
            (Path(folder) / name).write_text(text, encoding="utf-8")
        if asked.damaged:
            flipped = bytes([*sound[:-9], sound[-9] ^ 1, *sound[-8:]])
            (Path(folder) / "x.nqz").write_bytes(flipped if "flipped" in asked.damaged else sound[:-20])
        os.chdir(folder)
        try:
            with contextlib.redirect_stderr(errors), contextlib.redirect_stdout(io.StringIO()):
                code = invoke(asked.command.split()[1:])
        finally:
            os.chdir(before)
    if code != 1:
        raise RuntimeError(f"{asked.command} ended with {code}, not with an error: {errors.getvalue()}")
    return errors.getvalue().strip().replace(str(Path(folder).resolve()), "/home/you")


def pages(root: Path) -> Mapping[str, str]:
    return {"faq.rst": "\n".join(_page(root))}


def _page(root: Path) -> Iterator[str]:
    yield rst.title("What error messages mean")
    yield "An error is one line: where, what was expected, what to do. These are given while this page is built, so"
    yield "that what stands here is what is said. A traceback is a bug of ours: please tell us.\n"
    for asked in ASKED:
        yield rst.section(asked.question)
        for name, text in asked.files.items():
            yield rst.literal(text, "yaml" if name.endswith(".yaml") else "text", name)
        yield rst.literal(f"$ {asked.command}\n{said(asked, root)}", "console")
        yield asked.answer + "\n"
