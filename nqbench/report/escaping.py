"""Escapes names, parameters and errors for each format, so that they are shown as text and never act as markup.

Suites, plugins and records come from other people: a name may hold HTML, a link, an end of a cell or of a line, or the
control codes of a terminal.
"""

from __future__ import annotations

import re

from nqbench.printable import line

_MARKUP = re.compile(
    r"""
    [\\`*\[\]|~]                             # emphasis, code, a link, an image, a cell
    | (?<![A-Za-z0-9])_ | _(?![A-Za-z0-9])   # emphasis; inside a word it begins nothing
    | <(?=[A-Za-z/!?])                       # a tag; elsewhere, as in p < 0.001, it is text
    | &(?=\#?[A-Za-z0-9]+;)                  # a character reference
    | (?<!\S)\#(?=\#*$)                      # the end of a heading
    | ^> | ^\#(?=\#{0,5}(?:\s|$)) | ^[+-](?=\s|-*$)  # a quotation, a heading, an item, a rule
    """,
    re.VERBOSE,
)
"""What would begin markup in a line of Markdown, besides ``_NUMBER``."""
_NUMBER = re.compile(r"^(\d{1,9})([.)])(?=\s|$)")
"""What would begin an item of a numbered list."""
_REFERENCES = {"<": "&lt;", ">": "&gt;", "&": "&amp;"}
_LATEX = str.maketrans({
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "−": "$-$", "±": r"$\pm$", "×": r"$\times$",
    "<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}",
})  # fmt: skip


def markdown(text: str) -> str:
    """A line of Markdown that shows the text as it is. Only what would begin markup is escaped, so that tables can be
    read as plain text."""
    escaped = _MARKUP.sub(lambda found: _REFERENCES.get(found.group(), "\\" + found.group()), line(text))
    return _NUMBER.sub(r"\1\\\2", escaped)


def code(text: str) -> str:
    """A line of Markdown that shows the text as code, whatever backticks are in it."""
    shown = line(text) or " "
    fence = "`" * (1 + max((len(run) for run in re.findall("`+", shown)), default=0))
    padded = f" {shown} " if shown.startswith("`") or shown.endswith("`") else shown
    return f"{fence}{padded}{fence}"


def latex(text: str) -> str:
    return line(text).translate(_LATEX)
