"""Escapes names, parameters and errors for each format, so that they are shown as text and never act as markup.

Suites, plugins and records come from other people: a name may hold HTML, a link, an end of a cell or of a line, or the
control codes of a terminal.
"""

from __future__ import annotations

import re

from nqbench.printable import line

_INLINE = re.compile(
    r"""
    [\\`|~]                                  # code, a cell
    | \](?=[(\[:])                           # a link, an image; there are no references that [a] alone could name
    | \*(?=\S)                               # emphasis; before a space or the end, as in "1* |", it begins none
    | (?<![A-Za-z0-9])_ | _(?![A-Za-z0-9])   # the same; inside a word it begins none
    | <(?=[A-Za-z/!?])                       # a tag; elsewhere, as in p < 0.001, it is text
    | &(?=\#?[A-Za-z0-9]+;)                  # a character reference
    """,
    re.VERBOSE,
)
"""What would begin markup inside a line of Markdown."""
_BLOCK = re.compile(
    r"^(\d{1,9}(?=[.)](?:\s|$)))?(?:[>[]|#(?=#{0,5}(?:\s|$))|[*+-](?=\s|-*$)|(?<=\d)[.)])|(?<!\S)#(?=#*$)"
)
"""What would begin a quotation, a heading, an item, a box or a rule at the beginning of a line, or end a heading."""
_REFERENCES = {"<": "&lt;", ">": "&gt;", "&": "&amp;"}
_LATEX = str.maketrans({
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "−": "$-$", "±": r"$\pm$", "×": r"$\times$",
    "<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}",
})  # fmt: skip


def markdown(text: str) -> str:
    """Text that Markdown shows as it is, on one line, inside a cell or a sentence. Only what would begin markup is
    escaped, so that tables can be read as plain text."""
    return _INLINE.sub(lambda found: _REFERENCES.get(found.group(), "\\" + found.group()), line(text))


def markdown_line(text: str) -> str:
    """The same for a whole line: a paragraph, a heading, or an item of a list."""

    def escaped(found: re.Match[str]) -> str:
        number, mark = found[1] or "", found[0][len(found[1] or "") :]
        return number + _REFERENCES.get(mark, "\\" + mark)

    return _BLOCK.sub(escaped, markdown(text))


def code(text: str) -> str:
    """A line of Markdown that shows the text as code, whatever backticks are in it."""
    shown = line(text) or " "
    fence = "`" * (1 + max((len(run) for run in re.findall("`+", shown)), default=0))
    padded = f" {shown} " if shown.startswith("`") or shown.endswith("`") else shown
    return f"{fence}{padded}{fence}"


def latex(text: str) -> str:
    return line(text).translate(_LATEX)
