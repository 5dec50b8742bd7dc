"""Suites: a YAML file -> a validated ``Suite`` -> trials, handed out by a ``Schedule``."""

from nqbench.suite.document import SuiteError
from nqbench.suite.find import shipped
from nqbench.suite.grid import Dropped
from nqbench.suite.published import PublishedRow
from nqbench.suite.schedule import GridSchedule, Schedule
from nqbench.suite.spec import Measure, Target
from nqbench.suite.suite import Suite, load
from nqbench.suite.trial import Choice, Trial

__all__ = [
    "Choice",
    "Dropped",
    "GridSchedule",
    "Measure",
    "PublishedRow",
    "Schedule",
    "Suite",
    "SuiteError",
    "Target",
    "Trial",
    "load",
    "shipped",
]
