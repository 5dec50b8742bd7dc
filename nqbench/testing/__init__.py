"""Conformance checks: the same for this project's plugins and for yours.

In a test file of a plugin package::

    from nqbench.testing import parametrize
    from my_package import MyQuantizer

    @parametrize(MyQuantizer)
    def test_conformance(check):
        check()

or on the command line, once the package is installed: ``nqbench check NAME``.

A class is checked with its default parameters and with each of the parameter sets that it lists as
``model_config = ConfigDict(json_schema_extra={"examples": [{"bits": 2}, ...]})``; an instance is checked as it is. If a
method cannot pass a check by its nature, state the reason, by ``expected_failures={"check": "reason"}``
given to ``parametrize`` or stated as a class variable; if the check passes nevertheless, that is a failure.
"""

# each of these modules adds its checks to the list
from nqbench.testing import (
    codecs,
    coders,
    common,
    engines,
    models,
    movement,
    positions,
    quantizers,
    task_plugins,
    writing,
)
from nqbench.testing.check import (
    BoundCheck,
    Check,
    Failed,
    Result,
    checks_for,
    configurations,
    parametrize,
    require,
    run_checks,
)
from nqbench.testing.devices import torch_everywhere

__all__ = [
    "BoundCheck",
    "Check",
    "Failed",
    "Result",
    "checks_for",
    "codecs",
    "coders",
    "common",
    "configurations",
    "engines",
    "models",
    "movement",
    "parametrize",
    "positions",
    "quantizers",
    "require",
    "run_checks",
    "task_plugins",
    "torch_everywhere",
    "writing",
]
