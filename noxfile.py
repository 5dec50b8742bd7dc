"""The habits of the house, in the environment that you are in: ``nox`` for all that a change must pass, ``nox -l``
for the list, ``nox -s quick -- tests/suite`` for a part.

No session makes an environment of its own, for PyTorch is large: ``pip install -c constraints.txt -e
".[test,dev,docs]"`` has everything. ``.ci/run`` does the same on a clean checkout.
"""

from __future__ import annotations

import sys

import nox

nox.options.default_venv_backend = "none"
nox.options.sessions = ["lint", "types", "layers", "tests", "docs"]


def python(session: nox.Session, *arguments: str) -> None:
    session.run(sys.executable, *arguments)


@nox.session
def lint(session: nox.Session) -> None:
    """Style and format; ``nox -s lint -- --fix`` mends what can be mended."""
    mend = "--fix" in session.posargs
    python(session, "-m", "ruff", "check", *(["--fix"] if mend else []), ".")
    python(session, "-m", "ruff", "format", *([] if mend else ["--check"]), ".")


@nox.session
def types(session: nox.Session) -> None:
    """mypy, strict."""
    python(session, "-m", "mypy")


@nox.session
def layers(session: nox.Session) -> None:
    """Who may import whom."""
    python(session, "-c", "from importlinter.cli import lint_imports_command as run; run()")


@nox.session
def quick(session: nox.Session) -> None:
    """What fails first: tests that are not marked slow, up to the first failure."""
    python(session, "-m", "pytest", "-q", "-x", "-m", "not slow", *session.posargs)


@nox.session
def tests(session: nox.Session) -> None:
    """All tests, two at a time."""
    python(session, "-m", "pytest", "-n", "2", *session.posargs)


@nox.session
def docs(session: nox.Session) -> None:
    """The site into build/site; a warning is an error, a link or an anchor that leads nowhere too."""
    python(session, "docs/build.py", "build/site", *session.posargs)


@nox.session
def wheel(session: nox.Session) -> None:
    """Wheel and sdist, the wheel tried in an empty folder on every Python that is to be had."""
    python(session, ".ci/wheel.py", *session.posargs)


@nox.session
def benchmarks(session: nox.Session) -> None:
    """Times of the coders and of the quantizers; ``nox -s benchmarks -- gptq`` for another of ``benchmarks/``."""
    for name in session.posargs or ["coders", "quantizers"]:
        python(session, f"benchmarks/{name}.py")
