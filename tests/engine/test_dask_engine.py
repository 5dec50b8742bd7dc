"""Runs on a Dask cluster of separate processes: the same files as on one machine, whatever is lost on the way."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

pytest.importorskip("distributed", reason="needs the package distributed: pip install 'nqbench[cluster]'")

from dask_cluster import Cluster, gone_within
from probe_distribution import Log, command, install, nqbench, suite

from nqbench.api.errors import BadInput, NqbenchError
from nqbench.engine import RunResult, Silent, run_suite
from nqbench.engine.verify import verify
from nqbench.results.record import Record
from nqbench.results.store import Store
from nqbench.shared import tier

pytestmark = pytest.mark.timeout(300)

SUITES = Path(__file__).parents[2] / "suites"
GOOD = """
    name: good
    models: [probe]
    quantizers:
      - levels: {k: [2, 3, 5]}
    coders: [plain, bytewise]
"""
BAD = """
    name: bad
    models: [probe]
    quantizers:
      - levels: {k: [3, 4]}
      - troubled: {how: [raise, kill, segfault, exit, grow, sleep]}
      - levels: {k: [6, 7]}
    coders: [plain]
    resources: {memory: 1200MiB}
    timeout: {trial: 60, quantize: 8}
"""
SLOW = """
    name: slow
    models: [probe]
    quantizers:
      - levels: {k: [2, 3, 4, 5, 6, 7, 8, 9]}
    coders:
      - plain: {delay: 0.5}
"""
HELD = SLOW.replace("name: slow", "name: held").replace("plain: {delay: 0.5}", "plain: {held: true, delay: 0.2}")
FIGURES = ("key", "trial", "status", "file_bytes", "file_sha256", "parts", "metric", "mse", "entropy", "decoded_sha256")


class Heard(Silent):
    """Keeps what the user would be told."""

    def __init__(self) -> None:
        self.warnings: list[str] = []
        self.doing: set[str] = set()

    def warning(self, text: str) -> None:
        self.warnings.append(text)

    def running(self, trials: object) -> None:
        assert isinstance(trials, list)
        self.doing |= {doing for _, doing in trials}


@pytest.fixture(scope="module")
def trouble(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """While this file is there, what misbehaves does so on the cluster."""
    return tmp_path_factory.mktemp("trouble") / "on"


@pytest.fixture(scope="module")
def cluster(probe_folder: Path, trouble: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Two workers: one as Dask's nannies start them, one alone."""
    folder = tmp_path_factory.mktemp("cluster")
    environment = {"NQBENCH_PROBE_LOG": str(folder / "calls"), "NQBENCH_PROBE_TROUBLE": str(trouble)}
    made = Cluster(folder, probe_folder, environment=environment)
    made.add("--nanny")
    made.add()
    yield made
    made.stop()


def figures(result: RunResult) -> dict[str, tuple[object, ...]]:
    return {record.trial: tuple(getattr(record, name) for name in FIGURES) for record in result.records}


def by_method(result: RunResult) -> dict[str, Record]:
    def name(record: Record) -> str:
        parameters = record.quantizer_params or {}
        return str(parameters.get("how") or parameters["k"])

    return {name(record): record for record in result.records}


def recorded(folder: Path) -> int:
    with suppress(NqbenchError), Store.read(folder) as store:
        return len(store.done())
    return 0


# -- the same as on one machine ----------------------------------------------------------------------------------------
def test_the_quick_suite_has_the_same_files_and_figures_on_a_cluster(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # not from the common cache: its errors may be sums by another number of threads
    monkeypatch.setenv("NQBENCH_CACHE", str(tmp_path / "cache-here"))
    here = run_suite(SUITES / "quickstart.yaml", tmp_path / "here")
    monkeypatch.setenv("NQBENCH_CACHE", str(tmp_path / "cache"))  # slots have caches of their own
    away = run_suite(SUITES / "quickstart.yaml", tmp_path / "away", engine=cluster.engine)
    assert len(away.records) == len(here.records) > 40
    assert figures(away) == figures(here)
    for record in away.records:
        assert record.file is not None
        assert (tmp_path / "away" / record.file).read_bytes() == (tmp_path / "here" / record.file).read_bytes()


def test_the_driver_needs_no_cluster_for_what_is_there(probe: Log, cluster: Cluster, tmp_path: Path) -> None:
    path, out = suite(tmp_path / "s.yaml", GOOD), tmp_path / "out"
    heard = Heard()
    first = run_suite(path, out, engine=cluster.engine, progress=heard)
    assert first.outcome == "ok"
    assert {record.environment["host"] for record in first.records} == {os.uname().nodename}
    assert {record.environment["jobs"] for record in first.records} <= {1, 2}
    nowhere = "dask:tcp://127.0.0.1:9"
    again = run_suite(path, out, engine=nowhere)
    assert [r.to_dict() for r in again.records] == [r.to_dict() for r in first.records]


def test_files_are_verified_on_a_cluster_as_on_one_machine(probe: Log, cluster: Cluster, tmp_path: Path) -> None:
    path, out = suite(tmp_path / "s.yaml", GOOD), tmp_path / "out"
    records = run_suite(path, out).records
    first, second = (out / str(record.file) for record in records[:2])
    damaged = bytearray(first.read_bytes())
    damaged[-20] ^= 1
    first.write_bytes(damaged)
    second.unlink()
    faults = [verdict.fault for verdict in verify(out) if verdict.fault]
    assert len(faults) == 2
    done = nqbench("verify", out, "--engine", cluster.engine)
    assert done.returncode == 3, done.stderr
    told = [line.removeprefix("DIFFERS: ") for line in done.stderr.splitlines() if line.startswith("DIFFERS: ")]
    assert told == faults
    assert f"{len(records) - 2} of {len(records)} files verified" in done.stdout


def test_what_slots_made_is_in_the_shared_tier_for_every_other_machine(
    probe: Log, cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "shared").mkdir()
    monkeypatch.setenv(tier.VARIABLE, (tmp_path / "shared").as_uri())
    tier._opened.cache_clear()
    # a network that no other test has: what slots have in their own caches is made already, and not shared
    path = suite(tmp_path / "s.yaml", GOOD.replace("[probe]", "[probe: {version: 9}]"))
    away = run_suite(path, tmp_path / "away", engine=cluster.engine)
    assert away.outcome == "ok"
    monkeypatch.setenv("NQBENCH_CACHE", str(tmp_path / "another machine's"))
    again = run_suite(path, tmp_path / "again", engine="dask:tcp://127.0.0.1:9")  # nothing is sent, so nobody answers
    assert figures(again) == figures(away)
    for record in again.records:
        assert record.file is not None
        assert (tmp_path / "again" / record.file).read_bytes() == (tmp_path / "away" / record.file).read_bytes()


def test_nobody_at_the_address_is_told_in_a_line(probe: Log, tmp_path: Path) -> None:
    path = suite(tmp_path / "s.yaml", GOOD)
    began = time.monotonic()
    done = nqbench("run", path, "--output", tmp_path / "out", "--engine", "dask:tcp://127.0.0.1:9")
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert "dask:tcp://127.0.0.1:9: no scheduler answers there" in line
    assert time.monotonic() - began < 60
    with pytest.raises(BadInput, match=r"neither a scheduler's address .* nor an existing scheduler file"):
        run_suite(path, tmp_path / "out", engine="dask:nowhere.json")


# -- methods that misbehave --------------------------------------------------------------------------------------------
def test_whatever_a_method_does_is_a_record_and_costs_no_worker(
    probe: Log, cluster: Cluster, trouble: Path, tmp_path: Path
) -> None:
    before = [worker.pid for worker in cluster.workers if worker.poll() is None]
    nannied = [p.pid for p in psutil.Process(cluster.workers[0].pid).children()]
    path, out = suite(tmp_path / "bad.yaml", BAD), tmp_path / "out"
    trouble.touch()
    try:
        heard = Heard()
        result = run_suite(path, out, engine=cluster.engine, progress=heard)
    finally:
        trouble.unlink()
    found = by_method(result)
    assert {name: record.status for name, record in found.items()} == {
        **dict.fromkeys("3467", "ok"),
        "raise": "failed",
        **dict.fromkeys(["kill", "segfault", "exit", "grow"], "crashed"),
        "sleep": "timeout",
    }
    said = {name: str(record.error).partition("\n")[0] for name, record in found.items() if not record.ok}
    assert said["raise"] == "ZeroDivisionError: a bug in a plugin (in the stage 'quantize')"
    assert said["kill"] == "the worker was killed by SIGKILL (out of memory?) in the stage 'quantize'"
    assert said["segfault"] == "the worker was killed by SIGSEGV in the stage 'quantize'"
    assert said["exit"] == "the worker ended with exit code 7 in the stage 'quantize'"
    assert re.fullmatch(
        r"stopped at its memory limit: the worker held [\d,]+ MiB where 1,200 MiB are allowed, in the stage 'quantize'",
        said["grow"],
    )
    assert said["sleep"] == "stopped: the stage 'quantize' took more than 8 s"
    assert [worker.pid for worker in cluster.workers if worker.poll() is None] == before
    assert set(nannied) <= {p.pid for p in psutil.Process(cluster.workers[0].pid).children()}
    assert heard.warnings == []
    healed = run_suite(path, out, engine=cluster.engine)  # what failed is not cached, and runs again
    assert {record.status for record in healed.records} == {"ok"}


# -- slots that are lost -----------------------------------------------------------------------------------------------
def test_a_killed_worker_costs_no_trial_and_a_killed_scheduler_none_that_ended(
    probe: Log, probe_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, out = suite(tmp_path / "held.yaml", HELD), tmp_path / "out"
    hold, calls = tmp_path / "hold", Log(tmp_path / "calls")
    monkeypatch.setenv("NQBENCH_PROBE_TROUBLE", str(hold))
    cluster = Cluster(tmp_path / "cluster", probe_folder, environment={"NQBENCH_PROBE_LOG": str(calls.path)})
    try:
        hold.touch()
        first = cluster.add()
        process = start(path, out, cluster, recorded_first=0, errors=tmp_path / "errors")
        wait_for(lambda: calls.words().count("encode") == 1)
        second = cluster.add()
        wait_for(lambda: calls.words().count("encode") == 2)  # both are in the middle of a trial
        first.kill()
        wait_for(lambda: "a slot is lost" in (tmp_path / "errors").read_text())
        hold.unlink()
        wait_for(lambda: recorded(out) >= 2)
        hold.touch()
        assert second.poll() is None
        cluster.scheduler.kill()
        output, _ = process.communicate(timeout=90)
        errors = (tmp_path / "errors").read_text()
        assert process.returncode == 130, errors
        assert "Traceback" not in errors
        lost = [line for line in errors.splitlines() if "a slot is lost" in line]
        assert len(lost) == 1, errors
        assert "its trial goes to another" in lost[0]
        assert "is gone" in errors
        assert "the same command resumes" in errors
        assert "report: " in output
        assert gone_within(90, cluster)
    finally:
        cluster.stop()
    kept = recorded(out)
    assert 2 <= kept < 8
    hold.unlink()
    result = run_suite(path, out)
    assert (result.outcome, len(result.records)) == ("ok", 8)
    assert {record.status for record in result.records} == {"ok"}


# -- drivers that end --------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("number", "code", "patience"),
    [(signal.SIGINT, 130, 1), (signal.SIGTERM, 130, 1), (signal.SIGKILL, -signal.SIGKILL, 30)],
    ids=["interrupted", "terminated", "killed"],
)
def test_a_driver_that_ends_leaves_nothing_running_and_the_same_again_resumes(
    probe: Log, cluster: Cluster, tmp_path: Path, number: int, code: int, patience: float
) -> None:
    text = SLOW.replace("[2, 3, 4, 5, 6, 7, 8, 9]", f"[{', '.join(str(20 + number * 8 + k) for k in range(6))}]")
    path, out = suite(tmp_path / "slow.yaml", text), tmp_path / "out"
    process = start(path, out, cluster, recorded_first=1)
    assert cluster.below()
    process.send_signal(number)
    _, errors = process.communicate(timeout=90)
    assert process.returncode == code, errors
    assert "Traceback" not in errors
    assert gone_within(patience, cluster)
    kept = recorded(out)
    assert 1 <= kept < 6
    heard = Heard()
    result = run_suite(path, out, engine=cluster.engine, progress=heard)
    assert (result.outcome, len(result.records)) == ("ok", 6)
    assert any(f"encode on {os.uname().nodename} (tcp://127.0.0.1:" in doing for doing in heard.doing) or heard.doing


def test_a_slot_that_has_nothing_to_do_ends_its_process_when_the_driver_is_gone(
    probe: Log, cluster: Cluster, tmp_path: Path
) -> None:
    text = SLOW.replace("[2, 3, 4, 5, 6, 7, 8, 9]", "[111, 112, 113]")
    path, out = suite(tmp_path / "idle.yaml", text), tmp_path / "out"
    process = start(path, out, cluster, recorded_first=1)
    process.send_signal(signal.SIGSTOP)  # what it gave away ends, and nothing new comes
    time.sleep(3)
    assert cluster.below()
    process.kill()
    process.communicate(timeout=90)
    assert gone_within(30, cluster)


# -- slots that may not take part --------------------------------------------------------------------------------------
def test_a_slot_with_other_code_is_refused_before_its_first_trial_in_a_line_that_names_both(
    probe: Log, probe_folder: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    shutil.copytree(probe_folder, other)
    module = other / "nqbench_probe.py"
    module.write_text(module.read_text().replace("note(self.how)", "note(self.how + '!')"))
    newer = install(tmp_path / "newer")
    metadata = newer / "nqbench_probe-1.0.dist-info" / "METADATA"
    metadata.write_text(metadata.read_text().replace("Version: 1.0", "Version: 1.1"))
    path = suite(tmp_path / "s.yaml", GOOD)
    cluster = Cluster(tmp_path / "cluster", environment={"NQBENCH_PROBE_LOG": str(tmp_path / "there")})
    try:
        cluster.add(environment={"PYTHONPATH": os.pathsep.join([str(other), os.environ["PYTHONPATH"]])})
        cluster.add(environment={"PYTHONPATH": os.pathsep.join([str(newer), os.environ["PYTHONPATH"]])})
        heard = Heard()
        with pytest.raises(BadInput, match="no slot can take part") as raised:
            run_suite(path, tmp_path / "out", engine=cluster.engine, progress=heard)
        assert "\n" not in str(raised.value)
        refused = [line for line in heard.warnings if "refused" in line]
        assert len(refused) == 2
        patterns = [
            r"a slot is refused: \S+ \(tcp://\S+\) has nqbench-probe 1\.0 with code \w+, the driver nqbench-probe 1\.0 "
            r"with code \w+",
            r"a slot is refused: \S+ \(tcp://\S+\) has nqbench-probe 1\.1 with code \w+, the driver nqbench-probe 1\.0 "
            r"with code \w+",
        ]
        for pattern in patterns:
            assert any(re.fullmatch(pattern, line) for line in heard.warnings), heard.warnings
        assert not (tmp_path / "there").exists()
        cluster.add(environment={"PYTHONPATH": os.environ["PYTHONPATH"]})
        wait_for(lambda: "Registered to" in cluster.log("worker-2"))  # else it may be too late
        result = run_suite(path, tmp_path / "out", engine=cluster.engine, progress=heard)
        assert {record.status for record in result.records} == {"ok"}
    finally:
        cluster.stop()


# -- the kit -----------------------------------------------------------------------------------------------------------
def start(
    path: Path, out: Path, cluster: Cluster, *, recorded_first: int, errors: Path | None = None
) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        command("run", path, "--output", out, "--engine", cluster.engine),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE if errors is None else errors.open("w"),
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL) and None,
    )
    wait_for(lambda: process.poll() is not None or recorded(out) >= recorded_first)
    assert process.poll() is None, process.communicate()
    return process


def wait_for(what: Callable[[], bool], seconds: float = 150) -> None:
    until = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < until
        time.sleep(0.2)
