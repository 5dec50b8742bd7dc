"""A page for every plugin, from its class: the same that ``nqbench show`` prints (``nqbench.cli._page``)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from generate import rst
from nqbench.cli._page import HEADERS, Page, page_of
from nqbench.registry import KINDS, registry

ABOUT = {
    "model": "A trained network with its data, its loss and its metric.",
    "pruner": "Network to pruned network and masks.",
    "sensitivity": "What is known of the loss's curvature: a weight for each weight, or second moments of inputs.",
    "quantizer": "Real weights to symbols and a codebook, a grid or a table, and back.",
    "training": "What happens around quantization: fine-tuning, learning-compression, layer by layer.",
    "positions": "How the places of pruned weights are written.",
    "coder": "Symbols to bytes and back, exactly.",
    "codec": "A published method that quantizes and codes in one piece.",
    "engine": "Where trials run: processes of this machine, or other machines.",
}


def pages(root: Path) -> Mapping[str, str]:
    """Of nqbench's own plugins, those that other packages bring and that are installed here as well."""
    made = [page_of(entry) for entry in registry().all() if entry.distribution == "nqbench"]
    found = {f"plugins/{page.entry.cls.kind}-{page.entry.cls.name}.rst": _page(page) for page in made}
    return {"plugins/index.rst": "\n".join(_index(made)), **found}


def _index(made: list[Page]) -> Iterator[str]:
    yield rst.title("Every plugin")
    yield "``nqbench list`` prints this list, with the plugins of other packages that are installed; ``nqbench show"
    yield "NAME`` prints a plugin's page.\n"
    for kind in KINDS:
        own = [page for page in made if page.entry.cls.kind == kind]
        if not own:
            continue
        plural = kind if kind == "positions" else {"sensitivity": "sensitivities"}.get(kind, f"{kind}s")
        yield rst.section(plural.capitalize())
        yield ABOUT[kind] + "\n"
        rows = [(f":doc:`{_name(page)} <{kind}-{_name(page)}>`", rst.inline(page.entry.summary)) for page in own]
        yield rst.table(("name", "what it does"), rows, "20 80")
        yield ".. toctree::\n   :hidden:\n"
        yield "\n".join(f"   {kind}-{_name(page)}" for page in own) + "\n"


def _name(page: Page) -> str:
    return page.entry.cls.name


def _page(page: Page) -> str:
    parts = [rst.title(f"{page.entry.cls.name} ({page.entry.cls.kind})"), rst.docstring(page.documentation)]
    facts = "\n".join(f":{label}: {rst.inline(words)}" for label, words in page.facts.items())
    parts += [facts.replace(":--model", r":\--model") + "\n", rst.section("Parameters")]
    rows = [(f"``{name}``", rst.inline(kind), rst.inline(default), rst.inline(bounds), rst.inline(meaning))
            for name, kind, default, bounds, meaning in page.rows]  # fmt: skip
    parts.append(rst.table(HEADERS, rows, "14 16 12 14 44", "parameters") if rows else "It has no parameters.\n")
    if page.example:
        parts.append(rst.section("In a suite"))
        if page.example.suite:
            parts.append(f"As ``suites/{page.example.suite}.yaml`` has it (:ref:`suite-{page.example.suite}`):\n")
        parts.append(rst.literal(page.example.text, "yaml"))
    parts.append(rst.section("Formulas and bytes"))
    for module, text in page.specification.items():
        parts += [f".. rubric:: {module}\n", _demoted(rst.docstring(text))]
    return "\n".join(parts)


def _demoted(text: str) -> str:
    """Headings of a module's docstring as rubrics: they are no sections of this page."""
    lines = text.splitlines()
    out: list[str] = []
    for line, below in zip(lines, [*lines[1:], ""], strict=True):
        underlined = below and set(below) <= {"-"} and len(below) >= len(line) > 0 and not line.startswith(" ")
        if underlined or (line and set(line) <= {"-"} and out and out[-1].startswith(".. rubric::")):
            if underlined:
                out.append(f".. rubric:: {line}")
            else:
                out.append("")
            continue
        out.append(line)
    return "\n".join(out) + "\n"
