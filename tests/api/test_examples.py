"""The examples in the docstrings of nqbench.api run, and give what they say."""

from __future__ import annotations

import doctest
import importlib
import pkgutil

import pytest

from nqbench import api

MODULES = [
    module.name for module in pkgutil.walk_packages(api.__path__, "nqbench.api.") if "kernels" not in module.name
]
RUNNER = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.IGNORE_EXCEPTION_DETAIL)


@pytest.mark.parametrize("name", MODULES)
def test_every_example_of_a_module_gives_what_it_says(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    module = importlib.import_module(name)
    for examples in doctest.DocTestFinder().find(module):
        result = RUNNER.run(examples)
        assert result.failed == 0, capsys.readouterr().out


def test_an_example_that_is_wrong_fails() -> None:
    (wrong,) = doctest.DocTestFinder().find(_wrong)
    assert doctest.DocTestRunner(verbose=False).run(wrong, out=lambda text: None).failed == 1


def _wrong() -> None:
    """
    >>> 1 + 1
    3
    """
