"""reStructuredText: what the generated pages are put together from."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence

_LIST = re.compile(r"\s*(?:[-*]|\d+\.|\(?[a-z0-9]\))\s")
_BORDER = re.compile(r"={3,}(?: +={3,})+")
"""Of a simple table, which goes on to the next blank line."""
_LITERAL = re.compile(r"``.+?``")


def title(text: str) -> str:
    return f"{'#' * _width(text)}\n{text}\n{'#' * _width(text)}\n"


def section(text: str, line: str = "=") -> str:
    return f"{text}\n{line * _width(text)}\n"


def _width(text: str) -> int:
    return max(4, len(text.encode()))


def literal(text: str, language: str = "text", caption: str = "") -> str:
    head = f".. code-block:: {language}\n" + (f"   :caption: {caption}\n" if caption else "")
    return head + "\n" + "\n".join(f"   {line}".rstrip() for line in text.splitlines()) + "\n"


def table(headers: Sequence[str], rows: Iterable[Sequence[str]], widths: str = "auto", classes: str = "") -> str:
    """Cells are reStructuredText of any number of lines."""
    lines = [".. list-table::", "   :header-rows: 1", f"   :widths: {widths}"]
    lines += [f"   :class: {classes}"] if classes else []
    lines.append("")
    for row in (headers, *rows):
        for index, cell in enumerate(row):
            first, *rest = cell.splitlines() or [""]
            lines.append(f"   {'* -' if index == 0 else '  -'} {first}".rstrip())
            lines += [f"       {line}".rstrip() for line in rest]
    return "\n".join(lines) + "\n"


def docstring(text: str) -> str:
    """A docstring of the house as reStructuredText: double backquotes are code, what is indented below a paragraph is a
    formula, and |w| is an absolute value, not a substitution."""
    return "\n".join(_lines(text.splitlines())) + "\n"


def escaped_lines(lines: Sequence[str]) -> list[str]:
    """Absolute values escaped outside code and outside doctests and literal blocks: for docstrings whose layout is
    reStructuredText already."""
    out, block = [], -1
    for line in lines:
        depth = len(line) - len(line.lstrip())
        if block >= 0 and line.strip() and depth <= block:
            block = -1
        plain = block < 0 and not line.lstrip().startswith((">>>", "..."))
        out.append(_bare(line) if plain else line)
        if block < 0 and line.rstrip().endswith("::"):
            block = depth
    return out


def inline(text: str) -> str:
    """A sentence: everything outside double backquotes stands as it is."""
    parts = re.split(r"(``.+?``)", _codes(" ".join(text.split())))
    return "".join(part if part.startswith("``") and len(part) > 4 else escaped(part) for part in parts)


def escaped(text: str) -> str:
    text = re.sub(r"([|*`\\])|(?<=\w)(_)(?!\w)", r"\\\g<0>", text)
    return re.sub(r"\b(?!https?:|mailto:)([a-z]+)://", r"\1\://", text)  # an address in words is no link


def _codes(text: str) -> str:
    """Single backquotes are code as well."""
    return re.sub(r"(?<!`)`([^`\n]+)`(?!`)", r"``\1``", text)


def _lines(lines: Sequence[str]) -> Iterator[str]:
    """Paragraphs and lists with absolute values escaped; indented blocks as literal ones."""
    within, listed, table, head = False, False, False, ""
    for line in lines:
        depth = len(line) - len(line.lstrip())
        table = bool(line.strip()) and (table or bool(_BORDER.fullmatch(line)))
        if table:
            yield _bare(line)
            continue
        if within and line.strip() and not depth:
            within = False
            yield ""
        if not line.strip():
            listed = listed and not within
            yield line
            continue
        if not depth:
            listed = bool(_LIST.match(line))
            within = head.rstrip().endswith("::") and not line.strip()
            head = line
            yield _bare(line)
        elif within or listed:
            yield line if within else _bare(line)
        elif head.rstrip().endswith("::"):  # a literal block that says so
            within = True
            yield line
        else:
            within = True
            yield ""
            yield "::"
            yield ""
            yield line


def _bare(line: str) -> str:
    """Escaped outside of code; ``=====  ====`` of a table stays."""
    if re.fullmatch(r"[=\- ]+", line):
        return line
    line = _codes(line)
    parts = _LITERAL.split(line)
    codes = _LITERAL.findall(line)
    return "".join(a + b for a, b in zip([p.replace("|", r"\|") for p in parts], [*codes, ""], strict=True))
