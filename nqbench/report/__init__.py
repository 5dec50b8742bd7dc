"""Reports: terminal, Markdown, CSV, JSON, HTML. All are made from the records and show the same figures."""

from nqbench.report.data import ReportData, load
from nqbench.report.files import rebuild, write_reports
from nqbench.report.text import terminal

__all__ = ["ReportData", "load", "rebuild", "terminal", "write_reports"]
