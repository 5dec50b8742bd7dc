"""The command's frame: which commands there are, what each exit code means, and that errors are one line."""

import os
import signal
import subprocess
import sys
import time
import types

import click
import pytest

import nqbench
from nqbench import cli
from nqbench.api import BadInput

HEAVY = ("torch", "numpy", "pandas", "pydantic", "ruamel", "sqlalchemy", "pluggy", "nqbench.api", "nqbench.registry")


@pytest.fixture
def command(monkeypatch):
    """Make ``nqbench plan`` run a function of the test's."""

    def install(body):
        module = types.ModuleType("nqbench.cli.plan")
        module.plan = click.command("plan")(body)
        monkeypatch.setitem(sys.modules, "nqbench.cli.plan", module)

    return install


def test_help_lists_every_command_that_has_a_file_and_imports_nothing_heavy():
    code = (
        "import sys\nfrom nqbench.cli import invoke\ncode = invoke(['--help'])\n"
        f"print([name for name in {HEAVY} if name in sys.modules], code)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    *helped, last = done.stdout.splitlines()
    assert last == "[] 0"
    for name in cli.cli.list_commands(click.Context(cli.cli)):
        assert any(line.split()[:1] == [name] for line in helped), name


@pytest.mark.parametrize("name", cli.cli.list_commands(click.Context(cli.cli)))
def test_every_command_explains_itself(name, capsys):
    assert cli.invoke([name, "--help"]) == cli.OK
    assert f"Usage: nqbench {name}" in capsys.readouterr().out


def test_version_is_the_distribution_s(capsys):
    assert cli.invoke(["--version"]) == cli.OK
    assert capsys.readouterr().out == f"nqbench, version {nqbench.__version__}\n"


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["pln"], "error: unknown command 'pln'; did you mean 'plan'?\n"),
        (["plan"], "error: Missing argument 'SUITE'.\n"),
        (["plan", "x", "--profil", "a"], "error: No such option '--profil'"),
        (["plan", "nonesuch"], "error: nonesuch: there is no such file"),
    ],
)
def test_wrong_use_is_one_line_and_exit_code_1(args, message, capsys):
    assert cli.invoke(args) == cli.WRONG_USE
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.startswith(message)
    assert sum(line.startswith("error: ") for line in shown.err.splitlines()) == 1


def test_no_command_shows_the_help_as_wrong_use(capsys):
    assert cli.invoke([]) == cli.WRONG_USE
    assert "Commands:" in capsys.readouterr().out


def test_an_error_for_the_user_is_one_line_without_a_traceback(command, capsys):
    def body():
        raise BadInput("the first line\n  and the second")

    command(body)
    assert cli.invoke(["plan"]) == cli.WRONG_USE
    assert capsys.readouterr().err == "error: the first line and the second\n"


def test_a_bug_keeps_its_traceback(command):
    def body():
        raise ZeroDivisionError

    command(body)
    with pytest.raises(ZeroDivisionError):
        cli.invoke(["plan"])


@pytest.mark.parametrize("code", [cli.OK, cli.TRIALS_FAILED, cli.REGRESSION])
def test_a_command_ends_with_the_code_that_it_says(command, code):
    command(lambda: click.get_current_context().exit(code))
    assert cli.invoke(["plan"]) == code


def test_ctrl_c_is_130(command, capsys):
    def body():
        raise KeyboardInterrupt

    command(body)
    assert cli.invoke(["plan"]) == cli.INTERRUPTED
    assert capsys.readouterr().err.endswith("error: interrupted\n")


def test_main_leaves_with_the_exit_code():
    with pytest.raises(SystemExit) as left:
        cli.main(["nonesuch"])
    assert left.value.code == cli.WRONG_USE


def test_sigterm_ends_any_command_as_ctrl_c_does(command, capsys):
    """Whatever it is at: a compression, a nightly's comparison, a report."""

    @command
    def body():
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(10)

    before = signal.getsignal(signal.SIGTERM)
    assert cli.invoke(["plan"]) == cli.INTERRUPTED
    assert capsys.readouterr().err.strip() == "error: interrupted"
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.parametrize(
    "command",
    [
        ["decompress", "/dev/zero"],
        ["inspect", "/dev/zero"],
        ["compare", "/dev/zero.json", "/dev/zero.json"],
        ["compress", "--model", "lenet300", "--data", "digits", "--output", "/proc/nowhere/x.nqz"],
    ],
)
def test_what_has_no_end_and_what_cannot_be_written_is_a_line(
    command: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.invoke(command) == 1
    assert sum(line.startswith("error: ") for line in capsys.readouterr().err.splitlines()) == 1


def test_a_disk_without_room_is_a_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def full(*args: object, **kwargs: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("nqbench.container.read_sections", full)
    assert cli.invoke(["inspect", "x.nqz"]) == 1
    assert capsys.readouterr().err == "error: the disk: No space left on device\n"
