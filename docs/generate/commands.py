"""The reference of the command line, from click's own declarations."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import click

from generate import rst
from nqbench.cli import cli

CODES = """A command ends with 0 where all is well, 1 for wrong use (one line says what, where, and what to do), 2 if
trials failed, 3 where something got worse (``compare``, ``nightly``), 130 if it was interrupted.
"""


def pages(root: Path) -> Mapping[str, str]:
    context = click.Context(cli, info_name="nqbench")
    parts = [rst.title("Commands"), _help(cli), CODES]
    for name in cli.list_commands(context):
        command = cli.get_command(context, name)
        assert command is not None
        parts += _command(command, click.Context(command, info_name=name, parent=context), "=")
    return {"commands.rst": "\n".join(parts)}


def _command(command: click.Command, context: click.Context, line: str) -> Iterator[str]:
    path = context.command_path
    yield f".. _command-{path.replace(' ', '-')}:\n"
    yield rst.section(path, line)
    pieces = " ".join(command.collect_usage_pieces(context))
    yield rst.literal(f"{path} {pieces}")
    yield _help(command)
    rows = [_option(option, context) for option in command.params if isinstance(option, click.Option)]
    if rows:
        yield rst.table(("option", "what it does"), rows, "35 65")
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            inner = command.get_command(context, name)
            assert inner is not None
            yield from _command(inner, click.Context(inner, info_name=name, parent=context), "-")


def _help(command: click.Command) -> str:
    """Paragraphs; one that begins with click's mark against rewrapping stays as it is written."""
    text = inspect.cleandoc((command.help or "").partition("\f")[0])
    told = []
    for paragraph in re.split(r"\n\s*\n", text):
        if paragraph.startswith("\b"):
            told.append(rst.literal(paragraph.removeprefix("\b").strip("\n")))
        else:
            told.append(re.sub(r"(?<!`)`([^`]+)`(?!`)", r"``\1``", _plain(paragraph)) + "\n")
    return "\n".join(told)


def _plain(paragraph: str) -> str:
    """Escaped outside backquotes, of one or two."""
    parts = re.split(r"(`+[^`]+`+)", " ".join(paragraph.split()))
    return "".join(part if part.startswith("`") else rst.escaped(part) for part in parts)


def _option(option: click.Option, context: click.Context) -> tuple[str, str]:
    record = option.get_help_record(context)
    names, text = record if record else (", ".join(option.opts), "hidden")
    return f"``{' '.join(names.split())}``", _plain(text)
