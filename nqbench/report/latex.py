"""The ranking of methods as LaTeX tables for a paper (booktabs)."""

from __future__ import annotations

from nqbench import printable
from nqbench.report import escaping
from nqbench.report.data import ReportData
from nqbench.report.tables import Table, method_table, methods_note, quoted_with_measured


def latex(data: ReportData) -> str:
    """One table a model; needs ``\\usepackage{booktabs}``."""
    parts = [
        f"% nqbench, suite {printable.line(data.suite)}, run {printable.line(data.run)}; needs \\usepackage{{booktabs}}"
    ]
    for model, rows in data.methods.items():
        goal = data.goal_of(model)
        note = methods_note(goal, goal.told)
        parts.append(_float(method_table(rows), f"{model}. {note}"))
        if data.published_for(model):
            parts.append(_float(quoted_with_measured(data, model), f"{model}: published results, quoted."))
    return "\n\n".join(parts) + "\n"


def _float(table: Table, caption: str) -> str:
    def line(cells: tuple[str, ...]) -> str:
        text = " & ".join(escaping.latex(cell) for cell in cells)
        # the end of the line before looks for a length in brackets or a star, across the line's break
        return ("{}" if text.lstrip().startswith(("[", "*")) else "") + text + r" \\"

    columns = "".join("r" if numeric else "l" for numeric in table.numeric)
    return "\n".join(
        [
            r"\begin{table}",
            r"\centering\small",
            rf"\caption{{{escaping.latex(caption)}}}",
            rf"\begin{{tabular}}{{{columns}}}",
            r"\toprule",
            line(table.header),
            r"\midrule",
            *(line(row) for row in table.rows),
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{table}",
        ]
    )
