"""A Dask cluster of separate processes on this machine, as one across machines would be: each worker with a cache and a
folder of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import psutil
from probe_distribution import search_path

_START = 60.0


class Cluster:
    """folder: for the scheduler file, logs and the workers' folders. path: first on the workers' import path."""

    def __init__(self, folder: Path, *path: Path, environment: Mapping[str, str] | None = None) -> None:
        self.folder = folder
        self.folder.mkdir(parents=True, exist_ok=True)
        self.file = folder / "scheduler.json"
        self.workers: list[subprocess.Popen[bytes]] = []
        self._environment = {**os.environ, "PYTHONPATH": search_path(*path), **(environment or {})}
        self.scheduler = self._start("scheduler", "--port", "0", "--no-dashboard", "--host", "127.0.0.1")
        until = time.monotonic() + _START
        while not (self.file.exists() and self.file.stat().st_size):
            assert self.scheduler.poll() is None, self.log("scheduler")
            assert time.monotonic() < until
            time.sleep(0.05)

    @property
    def engine(self) -> str:
        return f"dask:{self.file}"

    def add(self, *options: str, environment: Mapping[str, str] | None = None) -> subprocess.Popen[bytes]:
        """One more worker."""
        number = len(self.workers)
        own = {"NQBENCH_CACHE": str(self.folder / f"cache-{number}"), **(environment or {})}
        usual = () if "--nanny" in options else ("--no-nanny",)
        worker = self._start(
            "worker", "--nthreads", "1", "--no-dashboard", "--host", "127.0.0.1",
            "--local-directory", str(self.folder / f"local-{number}"), *usual, *options,
            name=f"worker-{number}", environment=own,
        )  # fmt: skip
        self.workers.append(worker)
        return worker

    def log(self, name: str) -> str:
        return (self.folder / f"{name}.log").read_text()

    def below(self) -> list[psutil.Process]:
        """Processes that workers have started: where trials run."""
        found = []
        for worker in self.workers:
            if worker.poll() is None:
                found += psutil.Process(worker.pid).children(recursive=True)
        return [p for p in found if _runs_trials(p)]

    def stop(self) -> None:
        for process in (*self.workers, self.scheduler):
            if process.poll() is None:
                for one in (*psutil.Process(process.pid).children(recursive=True), process):
                    one.send_signal(signal.SIGKILL)
            process.wait()

    def _start(
        self, what: str, *options: str, name: str = "", environment: Mapping[str, str] | None = None
    ) -> subprocess.Popen[bytes]:
        with open(self.folder / f"{name or what}.log", "wb") as log:
            return subprocess.Popen(
                [sys.executable, "-m", f"distributed.cli.dask_{what}", "--scheduler-file", str(self.file), *options],
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**self._environment, **(environment or {})},
                start_new_session=True,
            )


def _runs_trials(process: psutil.Process) -> bool:
    try:
        return "tracker" not in " ".join(process.cmdline())
    except psutil.NoSuchProcess:  # it ended since it was listed
        return False


def gone_within(seconds: float, cluster: Cluster) -> bool:
    """Whether nothing that runs trials is left after at most so long."""
    until = time.monotonic() + seconds
    while cluster.below():
        if time.monotonic() > until:
            return False
        time.sleep(0.1)
    return True
