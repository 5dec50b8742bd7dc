"""Escapes names, parameters and errors for each format, so that they are shown as text and never act as markup.

Suites, plugins and records come from other people: a name may hold HTML, a link, an end of a cell or of a line, or the
control codes of a terminal.
"""

from __future__ import annotations

import re

from nqbench.printable import line

_HTML = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;"})
_MARKDOWN = re.compile(r"[\\`*\[\]|~]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])")
"""What begins emphasis, code, a link, an image or a cell; an underscore inside a word begins nothing."""
_LATEX = str.maketrans({
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "−": "$-$", "±": r"$\pm$", "×": r"$\times$",
    "<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}",
})  # fmt: skip


def markdown(text: str) -> str:
    """A line of Markdown that shows the text as it is."""
    return _MARKDOWN.sub(lambda found: "\\" + found.group(), line(text).translate(_HTML))


def code(text: str) -> str:
    """A line of Markdown that shows the text as code, whatever backticks are in it."""
    shown = line(text) or " "
    fence = "`" * (1 + max((len(run) for run in re.findall("`+", shown)), default=0))
    padded = f" {shown} " if shown.startswith("`") or shown.endswith("`") else shown
    return f"{fence}{padded}{fence}"


def latex(text: str) -> str:
    return line(text).translate(_LATEX)
