"""Sphinx: furo, MyST for what is written by hand, reStructuredText for what the code says of itself.

``python docs/build.py OUT`` builds the site with warnings as errors and follows every link and anchor of it;
``sphinx-build docs OUT`` builds it too. Nothing is fetched, neither while it is built nor when it is read.
"""

import sys
from pathlib import Path

DOCS = Path(__file__).resolve().parent
sys.path.insert(0, str(DOCS))

from generate import write_all  # noqa: E402 - this folder is on the path now

from nqbench.version import __version__  # noqa: E402

project = "nqbench"
author = "The nqbench developers"
copyright = "The nqbench developers, Apache-2.0"
version = release = __version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["generate", "**.ipynb_checkpoints", "**/__pycache__", "generated/leaderboard.md"]
source_suffix = {".md": "markdown", ".rst": "restructuredtext"}
root_doc = "index"
nitpicky = False  # types of signatures are those of torch and numpy; links are followed by build.py

html_theme = "furo"
html_title = "nqbench"
html_static_path = ["_static"]
html_css_files = ["nqbench.css"]
html_copy_source = False
html_show_sphinx = False
html_theme_options = {
    "top_of_page_buttons": [],  # most pages are generated: there is no file to edit
    "footer_icons": [
        {"name": "GitHub", "url": "https://github.com/nqbench/nqbench", "html": "nqbench on GitHub", "class": ""}
    ],
}
pygments_style = "tango"
pygments_dark_style = "monokai"

myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 3
myst_url_schemes = {
    "https": None,
    "http": None,
    "mailto": None,
    "repo": "https://github.com/nqbench/nqbench/blob/main/{{path}}",
}
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
python_maximum_signature_line_length = 100
toc_object_entries = False
napoleon_use_rtype = False
napoleon_custom_sections = [("Example", "Examples")]


def _docstring(app, what, name, obj, options, lines):
    """Absolute values are no substitutions, here as on every generated page."""
    from generate.rst import escaped_lines

    lines[:] = escaped_lines(lines)


def _optional(app, docname, source):
    """A page in a toctree behind ``?`` is one that may be missing."""
    kept = []
    for line in source[0].splitlines():
        if line.startswith("?"):
            target = line[1:].rpartition("<")[2].rstrip(">").strip()
            if not any((DOCS / f"{target}{suffix}").is_file() for suffix in (".md", ".rst")):
                continue
            line = line[1:]
        kept.append(line)
    if docname == "index":
        source[0] = "\n".join(kept) + "\n"


def setup(app):
    app.connect("builder-inited", lambda app: write_all())
    app.connect("autodoc-process-docstring", _docstring, priority=900)
    app.connect("source-read", _optional)
