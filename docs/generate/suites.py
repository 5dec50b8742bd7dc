"""The shipped suites: what each asks, how long it takes, and its file."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from pathlib import Path

import nqbench.suite
from generate import rst
from nqbench.suite import load, shipped


def pages(root: Path) -> Mapping[str, str]:
    intro = (
        "A suite is a YAML file: models, pruners, sensitivities, granularities, quantizers, trainings, positions, "
        "coders, seeds. Lists are swept, so that three quantizers with four steps each and two coders are 24 trials. "
        "``nqbench run NAME`` runs one that ships with nqbench, ``nqbench plan NAME`` says what it would do, "
        "``--only`` takes a part of it and ``--set`` changes a value.\n"
    )
    keys = inspect.cleandoc(nqbench.suite.__doc__ or "").partition("::\n\n")[2]
    parts = [rst.title("Suites"), intro, rst.section("Every key"), "All keys but ``models`` and ``quantizers`` (or "]
    parts[-1] += "``codecs``) may be left out, and a scalar stands for a list of one.\n"
    parts += [rst.literal(inspect.cleandoc(keys), "yaml"), rst.section("The suites that ship")]
    suites = {name: load(name) for name in shipped()}
    rows = [(f":ref:`{name} <suite-{name}>`", rst.inline(suite.question or "")) for name, suite in suites.items()]
    parts.append(rst.table(("suite", "question"), rows, "25 75"))
    for name, suite in suites.items():
        parts += [f".. _suite-{name}:\n", rst.section(name, "-"), rst.inline(suite.question or "") + "\n"]
        trials = f"{len(suite.trials()):,} trials" if not suite.target else "a search"
        parts += [f":takes: {rst.inline(suite.takes or '')}\n:asks for: {trials}\n"]
        parts.append(rst.literal(shipped()[name].read_text(encoding="utf-8"), "yaml", f"suites/{name}.yaml"))
    return {"suites.rst": "\n".join(parts)}
