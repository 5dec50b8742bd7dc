"""Reports: terminal, Markdown, CSV, JSON, HTML. All are derived from the records and say their numbers."""

from nqbench.report.data import ReportData, load
from nqbench.report.files import rebuild, write_reports
from nqbench.report.text import terminal

__all__ = ["ReportData", "load", "rebuild", "terminal", "write_reports"]
