"""The command ``nqbench``: a table of commands, each a small file beside this one that is imported when it is called.

``nqbench/cli/<command>.py`` defines one ``click.Command`` of that name. ``nqbench --help`` reads only the table below,
so it imports nothing but click. This module alone turns errors into text and exit codes:

====  ==========================================================
0     all well
1     wrong use: click's own usage errors, and every NqbenchError
2     trials failed
3     regression
130   interrupted
====  ==========================================================

A command ends with a code of its own through ``click.get_current_context().exit(code)``.

(Not in the package's ``__init__``: there, importing the command ``list`` would hide Python's ``list``.)
"""

from __future__ import annotations

import errno
import importlib
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from nqbench import printable
from nqbench.engine.signals import terminated_as_interrupted
from nqbench.version import __version__

OK, WRONG_USE, TRIALS_FAILED, REGRESSION, INTERRUPTED = 0, 1, 2, 3, 130

COMMANDS = {
    "run": "Run a suite and print its leaderboard. The same command resumes an interrupted run.",
    "plan": "Print the trials of a suite and the work that they share, without running them.",
    "list": "List the plugins: quantizers, coders, models and all other kinds.",
    "show": "Show a plugin's parameters with defaults, bounds, meaning and source paper.",
    "new": "Write a plugin package of your own, ready to install, with its conformance test.",
    "check": "Run the conformance checks of a plugin's kind.",
    "report": "Rebuild the leaderboards of a run from its records.",
    "compare": "Compare two runs: what got worse, better, or stayed the same.",
    "nightly": "Run a suite and compare it with a baseline.",
    "merge": "Merge the records of several runs into one.",
    "verify": "Decode every stored file of a run in a fresh process and evaluate it again.",
    "inspect": "Print what is inside an .nqz file and what each part costs.",
    "compress": "Compress a model into an .nqz file.",
    "decompress": "Write an .nqz file's tensors as safetensors.",
    "cluster": "Write a text that starts a cluster and runs a suite on it.",
    "cache": "Show, prune or clear the cache of stages.",
    "reference": "Get the published pages and trained networks.",
    "submit": "Write rows of a run as a submission for a board.",
    "board": "A leaderboard that anyone can add to and anyone can check.",
    "serve": "Serve a folder of reports over HTTP.",
}
"""Every command in the order of ``--help``; one whose file is not there yet is not shown."""


class Commands(click.Group):
    """A group that knows its commands' names and one-line helps without importing them."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        folder = Path(__file__).parent
        return [name for name in COMMANDS if (folder / f"{name}.py").is_file()]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self.list_commands(ctx):
            return None
        module = importlib.import_module(f"nqbench.cli.{cmd_name}")
        for value in vars(module).values():
            if isinstance(value, click.Command) and value.name == cmd_name:
                return value
        raise RuntimeError(f"nqbench/cli/{cmd_name}.py defines no click command of the name '{cmd_name}'")

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0]
        known = self.list_commands(ctx)
        if name not in known and not name.startswith("-"):
            ctx.fail(f"unknown command '{name}'{_did_you_mean(name, known)}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, COMMANDS[name]) for name in self.list_commands(ctx)])


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120})
@click.version_option(__version__, prog_name="nqbench")
def cli() -> None:
    """Measure how small the weights of a trained network can be made, in bytes on disk, and at which accuracy.

    Start with `nqbench run quickstart`; `nqbench COMMAND --help` explains a command.
    """


def main(args: Sequence[str] | None = None) -> None:
    """The console script: run a command and leave with its exit code."""
    sys.exit(invoke(sys.argv[1:] if args is None else args))


def invoke(args: Sequence[str]) -> int:
    """Run a command in this process. Returns the exit code; errors are one line on stderr, and so are notes."""
    warnings.showwarning = _show
    try:
        with terminated_as_interrupted():
            result = cli.main(list(args), prog_name="nqbench", standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.ctx.get_help() if error.ctx else "")
        return WRONG_USE
    except click.ClickException as error:
        _complain(error.format_message())
        if isinstance(error, click.UsageError) and error.ctx:
            click.echo(f"try: {error.ctx.command_path} --help", err=True)
        return WRONG_USE
    except (click.Abort, KeyboardInterrupt):
        _complain("interrupted")
        return INTERRUPTED
    except OSError as error:
        if error.filename is None and error.errno not in _NO_ROOM:
            raise
        _complain(f"{error.filename or 'the disk'}: {error.strerror}")
        return WRONG_USE
    except Exception as error:
        if not _is_for_the_user(error):
            raise  # a bug: its traceback is what we want to see
        _complain(str(error))
        return WRONG_USE
    return result if isinstance(result, int) else OK  # outside standalone mode click returns ctx.exit's code


_NO_ROOM = (errno.ENOSPC, errno.EDQUOT)
_showwarning = warnings.showwarning


def _show(
    message: Warning | str, category: type[Warning], filename: str, lineno: int, *rest: Any, **named: Any
) -> None:
    """A note as its text alone; any other warning as Python shows it."""
    errors = sys.modules.get("nqbench.api.errors")
    if errors is not None and issubclass(category, errors.Note):
        click.echo(f"note: {printable.line(str(message))}", err=True)
    else:
        _showwarning(message, category, filename, lineno, *rest, **named)


def _complain(text: str) -> None:
    click.echo(f"error: {printable.line(text)}", err=True)


def _is_for_the_user(error: Exception) -> bool:
    """Whether it is an NqbenchError, without importing nqbench.api (and torch) to find out."""
    errors = sys.modules.get("nqbench.api.errors")
    return errors is not None and isinstance(error, errors.NqbenchError)


def _did_you_mean(name: str, known: list[str]) -> str:
    import difflib  # not nqbench.registry's, which imports torch

    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f"; did you mean '{near[0]}'?" if near else f"; known: {', '.join(known)}"
