"""Runs that are stopped half-way, by Ctrl-C or by a kill that nothing can catch."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
from probe_distribution import Log, command, suite

from nqbench.api.errors import NqbenchError
from nqbench.engine import run_suite
from nqbench.results.store import Store

TRIALS = 8
SLOW = """
    name: slow
    models: [probe]
    quantizers:
      - levels: {k: [2, 3, 4, 5, 6, 7, 8, 9]}
    coders:
      - plain: {delay: 0.4}
"""


def recorded(folder: Path) -> int:
    with suppress(NqbenchError), Store.read(folder) as store:
        return len(store.done())
    return 0


def interruptible() -> None:
    """Where the tests run as a shell's background job, interrupts are ignored, and children inherit that."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def start(path: Path, out: Path, jobs: int) -> subprocess.Popen[str]:
    """The run in a process group of its own, once it has recorded two trials."""
    process = subprocess.Popen(
        command("run", path, "--output", out, "--jobs", jobs),
        start_new_session=True,
        preexec_fn=interruptible,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 120
    while recorded(out) < 2:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.2)
    return process


def interrupt_group(process: subprocess.Popen[str]) -> None:
    os.killpg(process.pid, signal.SIGINT)


def interrupt_parent(process: subprocess.Popen[str]) -> None:
    process.send_signal(signal.SIGINT)


def terminate_parent(process: subprocess.Popen[str]) -> None:
    process.send_signal(signal.SIGTERM)


def kill_parent(process: subprocess.Popen[str]) -> None:
    process.kill()


@pytest.mark.usefixtures("in_process")
@pytest.mark.parametrize(
    ("stop", "code", "jobs"),
    [
        (interrupt_group, 130, 2),
        (interrupt_parent, 130, 1),
        (terminate_parent, 130, 1),
        (kill_parent, -signal.SIGKILL, 2),
    ],
)
def test_a_stopped_run_keeps_what_was_done_leaves_no_process_and_resumes(
    probe: Log, tmp_path: Path, stop: Callable[[subprocess.Popen[str]], None], code: int, jobs: int
) -> None:
    path, out = suite(tmp_path / "slow.yaml", SLOW), tmp_path / "out"
    process = start(path, out, jobs)
    below = psutil.Process(process.pid).children(recursive=True)
    assert len(below) >= 2 * jobs  # workers and decoders
    stop(process)
    stopped = time.monotonic()
    output, errors = process.communicate(timeout=60)
    assert process.returncode == code, errors
    _, alive = psutil.wait_procs(below, timeout=10)
    assert alive == []
    kept = recorded(out)
    assert 2 <= kept < TRIALS
    assert "Traceback" not in errors
    if code == 130:
        # the report is written, too, and the machine may be busy with other tests
        assert time.monotonic() - stopped < 30
        assert "interrupted: the same command resumes" in errors
        assert "report: " in output
        assert not (out / ".scratch").exists()
    before = probe.counts()["quantize"]
    assert before <= kept + jobs
    result = run_suite(path, out, jobs=0 if code == 130 else 1)  # a worker clears what a killed one left
    assert (result.outcome, len(result.records)) == ("ok", TRIALS)
    assert probe.counts()["quantize"] <= TRIALS - kept
    assert not (out / ".scratch").exists()
    with Store.read(out) as store:
        assert [run.outcome for run in store.runs()] == ["interrupted" if code == 130 else None, "ok"]
