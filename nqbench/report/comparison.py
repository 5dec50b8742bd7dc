"""A comparison as text, Markdown, JSON and JUnit XML."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from xml.etree import ElementTree

from nqbench import printable
from nqbench.report import escaping
from nqbench.report.numbers import places, significant
from nqbench.report.tables import Table
from nqbench.report.text import markdown_table
from nqbench.results.compare import ORDER, Change, Comparison
from nqbench.results.figure_names import EXACT, SECONDS

SHOWN = 40


def summary(comparison: Comparison) -> str:
    """One line: how many trials are what."""
    counts = Counter(comparison.trials.values())
    text = ", ".join(f"{counts[verdict]} {verdict}" for verdict in ORDER if counts[verdict])
    return f"{len(comparison.trials)} trials: {text}"


def notable(comparison: Comparison) -> list[Change]:
    """All changes, the worst first, and by size."""
    found = [change for change in comparison.changes if change.verdict != "same"]
    return sorted(found, key=lambda change: (ORDER.index(change.verdict), -abs(change.change or 0.0)))


def changes_table(changes: Sequence[Change]) -> Table:
    header = ("verdict", "model", "configuration", "figure", "baseline", "candidate", "change", "p", "why")
    rows = tuple(
        (
            change.verdict,
            change.model,
            change.configuration,
            change.figure,
            number(change.baseline),
            number(change.candidate),
            amount(change),
            "" if change.p is None else significant(change.p, 2),
            change.reason,
        )
        for change in changes
    )
    return Table(header, rows, (False, False, False, False, True, True, True, True, False))


def number(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:,.0f}" if float(value).is_integer() and abs(value) >= 100 else f"{value:.6g}"


def amount(change: Change) -> str:
    """Relative, in per cent; of a metric in its unit, points of a percentage."""
    if change.change is None:
        return ""
    if change.figure in EXACT or change.figure.startswith(SECONDS):
        return f"{100 * change.change:+.2f} %"
    digits = 2 if change.unit == "points" else places([change.change], change.unit)
    return f"{change.change:+.{digits}f} {change.unit}".rstrip()


def methods_table(comparison: Comparison) -> Table:
    counts: dict[str, Counter[str]] = {}
    trial_of = comparison.trials
    members: dict[str, set[str]] = {}
    for change in comparison.changes:
        members.setdefault(f"{change.model}: {change.method}", set()).add(change.trial)
    for method, trials in members.items():
        counts[method] = Counter(trial_of[trial] for trial in trials)
    methods = sorted(comparison.methods.items(), key=lambda item: ORDER.index(item[1]))
    present = [verdict for verdict in ORDER if any(count[verdict] for count in counts.values())]
    rows = tuple((verdict, name, *(str(counts[name][v] or "") for v in present)) for name, verdict in methods)
    return Table(("verdict", "method", *present), rows, (False, False, *(True for _ in present)))


def terminal(comparison: Comparison, *, limit: int = SHOWN) -> str:
    from tabulate import tabulate

    def draw(table: Table) -> str:
        aligned = ["right" if numeric else "left" for numeric in table.numeric]
        return tabulate(table.rows, table.header, tablefmt="simple", colalign=aligned, disable_numparse=True)

    changes = notable(comparison)
    parts = [summary(comparison), draw(methods_table(comparison))]
    if changes:
        parts.append(draw(changes_table(changes[:limit])))
    if len(changes) > limit:
        parts.append(f"... and {len(changes) - limit} more")
    return printable.plain("\n\n".join([*parts, *comparison.notes]) + "\n")


def markdown(comparison: Comparison, *, limit: int = SHOWN) -> str:
    """For a pull request or a workflow's summary."""
    changes = notable(comparison)
    parts = [
        f"# {escaping.markdown(comparison.candidate.suite)}: {_headline(comparison)}",
        f"{summary(comparison)}. Baseline: run {escaping.markdown(comparison.baseline.run)}; "
        f"candidate: run {escaping.markdown(comparison.candidate.run)}.",
        markdown_table(methods_table(comparison)),
    ]
    if changes:
        parts += ["## What changed", markdown_table(changes_table(changes[:limit]))]
    if len(changes) > limit:
        parts.append(f"... and {len(changes) - limit} more")
    return "\n\n".join([*parts, *(f"_{escaping.markdown(note)}_" for note in comparison.notes)]) + "\n"


def _headline(comparison: Comparison) -> str:
    return {0: "no regression", 2: "trials failed", 3: "REGRESSION"}[comparison.exit_code]


def as_json(comparison: Comparison) -> str:
    document = {
        "suite": comparison.candidate.suite,
        "baseline": {"path": comparison.baseline.path, "run": comparison.baseline.run},
        "candidate": {"path": comparison.candidate.path, "run": comparison.candidate.run},
        "exit_code": comparison.exit_code,
        "trials": comparison.trials,
        "methods": comparison.methods,
        "notes": list(comparison.notes),
        "changes": [asdict(change) for change in comparison.changes],
    }
    return json.dumps(document, indent=1) + "\n"


def junit(comparison: Comparison) -> str:
    """One test case a trial: worse and failed ones are failures, inconclusive, new and gone ones are skipped."""
    by_trial: dict[str, list[Change]] = {}
    for change in comparison.changes:
        by_trial.setdefault(change.trial, []).append(change)
    verdicts = comparison.trials
    bad = sum(verdict in ("worse", "failed") for verdict in verdicts.values())
    unsure = sum(verdict in ("inconclusive", "new", "gone") for verdict in verdicts.values())
    suite = ElementTree.Element("testsuite", name=printable.line(f"nqbench {comparison.candidate.suite}"))
    suite.attrib.update(tests=str(len(verdicts)), failures=str(bad), errors="0", skipped=str(unsure))
    for trial, verdict in verdicts.items():
        changes = by_trial[trial]
        first = changes[0]
        name, group = (
            printable.line(f"{first.configuration} [{trial}]"),
            printable.line(f"{first.model}.{first.method}"),
        )
        case = ElementTree.SubElement(suite, "testcase", classname=group, name=name)
        lines = [
            f"{c.figure}: {c.verdict} {number(c.baseline)} -> {number(c.candidate)} {amount(c)} {c.reason}".rstrip()
            for c in changes
            if c.verdict != "same"
        ]
        if verdict in ("worse", "failed"):
            ElementTree.SubElement(case, "failure", message=verdict, type=verdict).text = printable.plain(
                "\n".join(lines)
            )
        elif verdict in ("inconclusive", "new", "gone"):
            ElementTree.SubElement(case, "skipped", message=printable.plain(f"{verdict}: {'; '.join(lines)}"))
    ElementTree.indent(suite)
    return '<?xml version="1.0" encoding="utf-8"?>\n' + ElementTree.tostring(suite, encoding="unicode") + "\n"
