"""What ``nqbench run`` says while it runs and when it ends."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import termios
from pathlib import Path

import pytest
from probe_distribution import Log, command, suite

from nqbench.cli import invoke

SUITE = """
    name: spoken
    models: [probe]
    quantizers:
      - levels: {k: [2, 5]}
      - troubled: {how: refuse, k: 7}
    coders: [plain]
"""


def on_a_terminal(*args: object) -> tuple[int, str]:
    """Exit code and what a terminal of 120 columns shows."""
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (40, 120))
    process = subprocess.Popen(
        command(*args), stdout=theirs, stderr=theirs, env={**os.environ, "COLUMNS": "120", "TERM": "xterm"}
    )
    os.close(theirs)
    shown = b""
    while True:
        try:
            block = os.read(ours, 4096)
        except OSError:  # Linux's way to say that the other end is closed
            break
        if not block:
            break
        shown += block
    os.close(ours)
    return process.wait(timeout=60), shown.decode()


def test_a_run_prints_a_line_a_trial_the_leaderboard_the_report_and_the_seconds(
    probe: Log, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path, out = suite(tmp_path / "s.yaml", SUITE), tmp_path / "out"
    assert invoke(["run", str(path), "--output", str(out)]) == 2
    said = capsys.readouterr()
    lines = said.err.splitlines()
    assert lines[0] == "3 trials"
    assert sorted(line[:5] for line in lines[1:4]) == ["[1/3]", "[2/3]", "[3/3]"]
    assert re.search(r"probe levels\(k=2\) global plain: [\d,]+ B, \d+\.\d\d %", said.err)
    assert "probe troubled global plain: failed: these weights will not do" in said.err
    assert lines[-1] == "1 trial failed; the same command runs what failed again"
    assert said.out.splitlines()[-2] == f"report: {out / 'index.html'}"
    assert re.fullmatch(r"seconds: \d+\.\d", said.out.splitlines()[-1])
    assert "levels" in said.out

    monkeypatch.setenv("NQBENCH_PROBE_TROUBLE", str(tmp_path / "none"))
    assert invoke(["run", str(path), "--output", str(out)]) == 0  # the failed one again, and no other
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "3 trials, 2 already there"
    assert [line[:5] for line in lines[1:]] == ["[3/3]"]

    assert invoke(["run", str(path), "--output", str(out), "--quiet"]) == 0
    assert capsys.readouterr().err == ""

    code, shown = on_a_terminal("run", path, "--output", tmp_path / "terminal")
    assert code == 0
    assert "3 of 3 trials" in shown
    assert "report: " in shown
    assert "[1/3]" not in shown


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--jobs", "0"], "jobs"),
        (["--timeout", "0"], "timeout"),
        (["--device", "gpu"], "unknown device 'gpu'; known: auto, cpu, cuda, cuda:N"),
        (["--device", "cuda:99"], "is not there"),
        (["--output", "/dev/null/x"], "/dev/null/x: cannot be written"),
        (["--only", "coder=none"], "no trial is left"),
    ],
)
def test_wrong_use_is_a_line_and_exit_code_1(
    probe: Log, tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], words: str
) -> None:
    path = suite(tmp_path / "s.yaml", SUITE)
    assert invoke(["run", str(path), *options]) == 1
    errors = capsys.readouterr().err
    assert words in errors
    assert errors.startswith("error: ")
    assert len([line for line in errors.splitlines() if not line.startswith("try: ")]) == 1
