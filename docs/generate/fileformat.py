"""The file format: its specification as the code has it, and a small file read by it, byte by byte."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import nqbench.container
from generate import rst
from generate.reading import Span, read

EXAMPLE = "tests/container/golden/coder-huffman.nqz"
SHOWN = 16
"""Bytes of a row that are shown; of longer fields the first ones."""


def pages(root: Path) -> Mapping[str, str]:
    return {"file-format.rst": "\n".join(_page(root))}


def _page(root: Path) -> Iterator[str]:
    data = (root / EXAMPLE).read_bytes()
    reading = read(data)
    summary, _, specification = (nqbench.container.__doc__ or "").partition("\n\n")
    yield rst.title("The file format")
    yield rst.docstring(summary)
    yield "This page is the module's own documentation, from which reader and writer were written; and then a file,"
    yield "read by a program that knows nothing but this page. Old files stay readable.\n"
    yield rst.docstring(specification)
    yield rst.section("A file, byte by byte")
    names = ", ".join(f"``{tensor['name']}``" for tensor in reading.facts["tensors"])
    yield f"``{EXAMPLE}`` is a file of {len(data)} bytes: a network of the tensors {names}, two of them quantized to a"
    yield "codebook of five values and coded by Huffman. Offsets and bytes are in hexadecimal.\n"
    yield rst.table(("offset", "bytes", "field", "value"), _rows(reading.outer, data), "10 38 28 24", "bytes")
    yield rst.section("Its header, inflated", "-")
    yield f"The {len(reading.plain)} bytes that the deflated header stands for:\n"
    yield rst.table(("offset", "bytes", "field", "value"), _rows(reading.header, reading.plain), "10 38 28 24", "bytes")


def _rows(spans: list[Span], data: bytes) -> Iterator[tuple[str, str, str, str]]:
    for span in spans:
        part = data[span.start : span.stop]
        shown = part[:SHOWN].hex(" ") + (" ..." if len(part) > SHOWN else "")
        yield f"``{span.start:02x}``", f"``{shown}``", rst.inline(span.what), rst.inline(span.means)
