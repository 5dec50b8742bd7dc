"""A plugin's page: what ``nqbench show`` prints and what the site shows of it, from one source, its class."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from nqbench.cli._describe import Parameter, default_text, document, former, habits, parameters_of, specification
from nqbench.cli._example import Example, example_of
from nqbench.registry import Registered

HEADERS = ("parameter", "type", "default", "bounds", "meaning")


@dataclass(frozen=True)
class Page:
    """documentation: the class's own docstring. facts: label -> words: origin, paper, what it uses and takes.
    specification: module -> its docstring, formulas and bytes, the plugin's own module first."""

    entry: Registered
    documentation: str
    facts: dict[str, str]
    parameters: list[Parameter]
    example: Example | None
    specification: dict[str, str]

    @property
    def title(self) -> str:
        return f"{self.entry.cls.kind} {self.entry.cls.name}"

    @property
    def rows(self) -> list[tuple[str, ...]]:
        """The table of parameters, below ``HEADERS``."""
        return [(p.name, p.type, default_text(p), p.bounds, p.meaning) for p in self.parameters]

    def text(self) -> str:
        """For a terminal."""
        width = max(map(len, self.facts))
        parts = [
            self.title,
            self.documentation,
            "\n".join(f"{label:{width}}  {words}" for label, words in self.facts.items()),
            _table(self.rows) if self.parameters else "It has no parameters.",
        ]
        if self.example:
            where = f"in suites/{self.example.suite}.yaml" if self.example.suite else "in a suite"
            parts.append(f"{where}:\n\n" + "\n".join(f"    {line}" for line in self.example.text.splitlines()))
        parts += [f"{name}\n{'=' * len(name)}\n{text}" for name, text in self.specification.items()]
        return "\n\n".join(parts)

    def data(self) -> dict[str, Any]:
        """For machines."""
        cls = self.entry.cls
        return {
            "kind": cls.kind, "name": cls.name, "distribution": self.entry.distribution, "version": self.entry.version,
            "class": f"{cls.__module__}.{cls.__qualname__}", "paper": cls.paper, "documentation": self.documentation,
            "specification": "\n\n".join(f"{n}\n{'=' * len(n)}\n{text}" for n, text in self.specification.items()),
            "parameters": [asdict(parameter) for parameter in self.parameters], "habits": habits(cls),
            "example": asdict(self.example) if self.example else None, "schema": cls.documented_schema(),
        }  # fmt: skip


def page_of(entry: Registered) -> Page:
    cls = entry.cls
    facts = {"from": f"{entry.distribution} {entry.version}, {cls.__module__}.{cls.__qualname__}"}
    facts |= {"paper": cls.paper} if cls.paper else {}
    facts |= former(cls) | habits(cls)
    return Page(entry, document(entry), facts, parameters_of(cls), example_of(entry), specification(entry))


def _table(rows: list[tuple[str, ...]]) -> str:
    from tabulate import tabulate

    return tabulate(rows, HEADERS, tablefmt="simple", disable_numparse=True, maxcolwidths=[None, 24, None, 20, 60])
