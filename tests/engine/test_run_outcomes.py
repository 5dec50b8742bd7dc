"""Whole runs with worker processes: what is recorded, resumed, restored, and left behind."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from pebble import ProcessPool
from probe_distribution import Log, suite

import nqbench
from nqbench.api.errors import DataMissing, NqbenchError
from nqbench.engine import RunResult, run_suite
from nqbench.engine import processes as local_engine
from nqbench.pipeline.cache import Cache
from nqbench.results import environment as environment_module
from nqbench.results.record import Record
from nqbench.results.store import RunInProgress, Store, StoreError

GOOD = """
    name: good
    models: [probe]
    quantizers:
      - levels: {k: [2, 5]}
    coders: [plain, bytewise]
"""
BAD = """
    name: bad
    models: [probe]
    quantizers:
      - levels: {k: [3, 4]}
      - troubled: {how: [raise, panic, interrupt, refuse, kill, exit, quit, leave, memory, range, sleep]}
      - levels: {k: [6, 7]}
    coders: [plain]
    timeout: 8
"""


def children() -> set[int]:
    """Processes below this one."""
    return {child.pid for child in psutil.Process().children(recursive=True)}


def trackers() -> set[int]:
    """Of these, multiprocessing's own, which stays with a process that once started others."""
    return {p.pid for p in psutil.Process().children() if "resource_tracker" in " ".join(p.cmdline())}


def by_quantizer(result: RunResult) -> dict[str, Record]:
    def name(record: Record) -> str:
        parameters = record.quantizer_params or {}
        return str(parameters.get("how") or parameters["k"])

    return {name(record): record for record in result.records}


def test_a_run_leaves_records_files_and_reports_and_the_same_again_computes_nothing(
    probe: Log, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, out = suite(tmp_path / "good.yaml", GOOD), tmp_path / "out"
    before = children()
    result = run_suite(path, out, jobs=2)
    assert result.outcome == "ok"
    assert children() - trackers() <= before
    assert probe.counts()["quantize"] == 2
    for record in result.records:
        assert record.file is not None
        assert record.parts is not None
        assert (out / record.file).stat().st_size == record.file_bytes == record.parts.total
        assert record.environment["jobs"] == 2
        assert not record.measured
    listed = json.loads((out / "records.json").read_text())["records"]
    assert [r["key"] for r in listed] == [record.key for record in result.records]
    assert (out / "suite.yaml").read_text() == path.read_text()
    expected = {"records.sqlite", "records.json", "leaderboard.md", "leaderboard.csv", "leaderboard.json", "index.html"}
    assert expected <= {p.name for p in out.iterdir()}
    assert not (out / ".scratch").exists()

    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError("a worker was started")

    monkeypatch.setattr(local_engine, "ProcessPool", refuse)
    again = run_suite(path, out)
    assert [record.to_dict() for record in again.records] == [record.to_dict() for record in result.records]
    elsewhere = run_suite(path, tmp_path / "elsewhere")
    assert all(record.cached == ["trial"] for record in elsewhere.records)
    for one, other in zip(result.records, elsewhere.records, strict=True):
        assert (tmp_path / "elsewhere" / str(other.file)).read_bytes() == (out / str(one.file)).read_bytes()
        same = ("key", "trial", "file_bytes", "parts", "metric", "mse", "entropy", "decoded_sha256")
        assert {n: getattr(one, n) for n in same} == {n: getattr(other, n) for n in same}
    (out / str(result.records[0].file)).unlink()
    written = (out / str(result.records[1].file)).read_bytes()
    (out / str(result.records[1].file)).write_bytes(bytes([written[0] ^ 1]) + written[1:])  # of the same length
    healed = run_suite(path, out)
    assert (out / str(healed.records[0].file)).stat().st_size == healed.records[0].file_bytes
    assert (out / str(healed.records[1].file)).read_bytes() == written
    assert probe.counts() == {}
    frame = nqbench.run(path, out)
    assert list(frame["file_bytes"]) == [record.file_bytes for record in result.records]


@pytest.mark.usefixtures("in_process")
def test_each_way_to_fail_is_a_record_and_the_rest_goes_on_and_failures_run_again(
    probe: Log, trouble: Path, tmp_path: Path
) -> None:
    path, out, before = suite(tmp_path / "bad.yaml", BAD), tmp_path / "out", children()
    result = run_suite(path, out, jobs=2)
    assert result.outcome == "failed"
    assert children() - trackers() <= before
    found = by_quantizer(result)
    assert {name: record.status for name, record in found.items()} == {
        **dict.fromkeys("3467", "ok"),
        **dict.fromkeys(["raise", "panic", "interrupt", "refuse", "leave", "memory", "range"], "failed"),
        **dict.fromkeys(["kill", "exit", "quit"], "crashed"),
        "sleep": "timeout",
    }
    first = {name: str(record.error).partition("\n")[0] for name, record in found.items() if not record.ok}
    assert first["raise"] == "ZeroDivisionError: a bug in a plugin (in the stage 'quantize')"
    assert first["refuse"] == "these weights will not do (in the stage 'quantize')"
    assert first["kill"] == "the worker was killed by SIGKILL (out of memory?) in the stage 'quantize'"
    assert first["exit"] == "the worker ended with exit code 7 in the stage 'quantize'"
    assert first["quit"] == "the worker ended with exit code 0 in the stage 'quantize'"
    assert first["panic"] == "Panic: index out of bounds (in the stage 'quantize')"
    assert first["interrupt"] == "KeyboardInterrupt (in the stage 'quantize')"
    assert first["leave"] == "SystemExit: 3 (in the stage 'quantize')"
    assert "allocate" in first["memory"]
    assert "outside the alphabet" in first["range"]
    assert first["sleep"] == "stopped after 8 s in the stage 'quantize'"
    assert 'raise ZeroDivisionError("a bug in a plugin")' in str(found["raise"].error)
    assert all(record.file is None and record.file_bytes is None for record in found.values() if not record.ok)
    probe.counts()
    trouble.unlink()
    again = run_suite(path, out, jobs=0)
    assert again.outcome == "ok"
    assert probe.counts()["quantize"] == 11  # those that failed, and no other
    assert {record.status for record in again.records} == {"ok"}


def test_a_stage_that_hangs_is_stopped_at_its_own_deadline_and_named_and_the_rest_goes_on(
    probe: Log, tmp_path: Path
) -> None:
    text = """
        name: hanging
        models: [probe]
        quantizers:
          - troubled: {how: sleep}
          - levels: {k: [3, 4]}
        coders: [plain]
        timeout: {quantize: 3, load: 200, trial: 300}
    """
    start = time.monotonic()
    result = run_suite(suite(tmp_path / "hanging.yaml", text), tmp_path / "out")
    assert time.monotonic() - start < 200  # the trial's own would be 300
    found = by_quantizer(result)
    assert {name: record.status for name, record in found.items()} == {"sleep": "timeout", "3": "ok", "4": "ok"}
    assert found["sleep"].error == "stopped: the stage 'quantize' took more than 3 s"


@pytest.mark.usefixtures("trouble")
def test_a_method_that_ends_its_process_without_an_error_ends_its_trial_alone(probe: Log, tmp_path: Path) -> None:
    text = """
        name: quitting
        models: [probe]
        quantizers:
          - troubled: {how: quit}
          - levels: {k: 3}
        coders: [plain]
    """  # no deadline would end it
    found = by_quantizer(run_suite(suite(tmp_path / "quitting.yaml", text), tmp_path / "out"))
    assert {name: record.status for name, record in found.items()} == {"quit": "crashed", "3": "ok"}


def test_what_a_method_forked_ends_with_its_worker(probe: Log, trouble: Path, tmp_path: Path) -> None:
    text = """
        name: forking
        models: [probe]
        quantizers:
          - troubled: {how: fork}
          - levels: {k: 3}
        coders: [plain]
        timeout: 4
    """
    found = by_quantizer(run_suite(suite(tmp_path / "forking.yaml", text), tmp_path / "out"))
    assert {name: record.status for name, record in found.items()} == {"fork": "timeout", "3": "ok"}
    child = int(trouble.with_suffix(".child").read_text())
    assert not psutil.pid_exists(child) or psutil.Process(child).status() == psutil.STATUS_ZOMBIE


def test_a_clock_that_is_set_moves_no_deadline(probe: Log, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As after the sleep of a laptop."""
    real, began = time.time, time.monotonic()
    text = """
        name: slow
        models: [probe]
        quantizers: [levels: {k: 3}]
        coders: [plain: {delay: 2.5}]
        timeout: 900
    """
    path = suite(tmp_path / "slow.yaml", text)
    monkeypatch.setattr(time, "time", lambda: real() + 3600 * int(time.monotonic() - began))
    (record,) = run_suite(path, tmp_path / "out").records
    assert record.status == "ok"


def _noticed(pool: ProcessPool) -> None:
    """Wait until a pool knows that its process has ended."""
    until = time.monotonic() + 60
    while pool.active and time.monotonic() < until:
        time.sleep(0.01)
    assert not pool.active


@pytest.mark.parametrize("code", [0, 9])
@pytest.mark.parametrize("when", ["at any time", "before the task is registered", "before the task is taken"])
def test_a_worker_that_cannot_start_is_a_crash_of_each_trial(
    when: str, code: int, probe: Log, probe_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = suite(tmp_path / "good.yaml", GOOD)
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "sitecustomize.py").write_text(
        f"import os, sys\nif any('spawn_main' in a for a in sys.argv + sys.orig_argv):\n    os._exit({code})\n"
    )
    monkeypatch.setenv("PYTHONPATH", f"{broken}:{probe_folder}")
    allowed = ProcessPool._check_pool_status

    def checked(pool: ProcessPool) -> None:
        if when == "before the task is taken":
            _noticed(pool)
        allowed(pool)
        if when == "before the task is registered":
            _noticed(pool)

    monkeypatch.setattr(ProcessPool, "_check_pool_status", checked)
    result = run_suite(path, tmp_path / "out", only=["coder=plain"])
    assert {record.status for record in result.records} == {"crashed"}
    assert "in the stage 'start'" in str(result.records[0].error)


def test_what_comes_from_the_cache_says_who_computed_it(
    probe: Log, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = suite(tmp_path / "good.yaml", GOOD)
    first = run_suite(path, tmp_path / "one", jobs=0)
    probe.counts()
    real = environment_module._fixed
    monkeypatch.setattr(environment_module, "_fixed", lambda: real() | {"cpu": "Another 9", "hardware": "f" * 12})
    again = run_suite(path, tmp_path / "two", jobs=0)
    assert "quantize" not in probe.counts()
    for one, other in zip(first.records, again.records, strict=True):
        assert other.cached == ["trial"]
        assert other.environment["cpu"] == one.environment["cpu"] != "Another 9"
        assert other.environment["hardware"] == one.environment["hardware"]


def test_a_measuring_suite_measures_every_time(probe: Log, tmp_path: Path) -> None:
    text = GOOD + "    measure: {repeats: 2, warmup: 1}\n"
    path, out = suite(tmp_path / "speed.yaml", text), tmp_path / "out"
    for _ in range(2):
        result = run_suite(path, out, jobs=2)  # exclusive: one worker whatever is asked for
        assert all(record.measured and len(record.samples["encode"]) == 2 for record in result.records)
        assert probe.counts()["quantize"] == 3 * len(result.records)


def test_samples_in_several_passes_are_interleaved_between_the_trials(probe: Log, tmp_path: Path) -> None:
    text = GOOD + "    measure: {repeats: 5, warmup: 0, rounds: 3}\n"
    result = run_suite(suite(tmp_path / "speed.yaml", text), tmp_path / "out", only=["coder=plain"])
    # two samples a pass and three passes over two trials, which take turns
    assert all(len(record.samples[stage]) == 6 for record in result.records for stage in ("quantize", "encode"))
    words = [word for word in probe.words() if word in ("quantize", "encode")]
    assert words == ["quantize", "quantize", "encode", "encode"] * 6
    for record in result.records:
        assert record.measured
        assert record.seconds["encode"] == min(record.samples["encode"])
        assert record.seconds["quantize"] == statistics.median(record.samples["quantize"])
        assert record.encode_msym_s == pytest.approx((record.kept or 0) / min(record.samples["encode"]) / 1e6)


@pytest.mark.usefixtures("in_process")
def test_hooks_hear_of_the_run_and_one_that_raises_is_a_warning(probe: Log, probe_folder: Path, tmp_path: Path) -> None:
    from nqbench.engine import Silent
    from nqbench.registry import registry

    heard: list[str] = []

    class Exporter:
        def nqbench_run_started(self, suite: str, output: str, trials: int) -> None:
            heard.append(f"{suite} {trials}")

        def nqbench_trial_ended(self, record: dict[str, object]) -> None:
            raise OSError("the exporter's disk is full")

        def nqbench_run_ended(self, suite: str, output: str, records: list[object]) -> None:
            heard.append(f"{suite} {len(records)}")

    class Listener(Silent):
        def warning(self, text: str) -> None:
            heard.append(text)

    from nqbench.api import hookimpl

    for name in ("nqbench_run_started", "nqbench_trial_ended", "nqbench_run_ended"):
        setattr(Exporter, name, hookimpl(getattr(Exporter, name)))
    registry().manager.register(Exporter(), name="exporter")
    path = suite(tmp_path / "good.yaml", GOOD)
    result = run_suite(path, tmp_path / "out", only=["quantizer.k=2,coder=plain"], progress=Listener(), jobs=0)
    assert result.outcome == "ok"
    assert heard[0] == "good 1"
    assert heard[-1] == "good 1"
    assert heard[1:-1] == ["exporter: nqbench_trial_ended failed: OSError: the exporter's disk is full"]


def test_two_runs_into_one_folder_are_refused_in_a_line(probe: Log, tmp_path: Path) -> None:
    path = suite(tmp_path / "good.yaml", GOOD)
    with Store.write(tmp_path / "out"), pytest.raises(RunInProgress, match="another run is writing") as caught:
        run_suite(path, tmp_path / "out")
    assert "\n" not in str(caught.value)


def test_an_output_that_is_no_folder_is_refused_in_a_line(probe: Log, tmp_path: Path) -> None:
    path = suite(tmp_path / "good.yaml", GOOD)
    (tmp_path / "file").write_text("")
    for out in (tmp_path / "file", tmp_path / "file" / "below", Path("/proc/nqbench")):
        with pytest.raises(StoreError, match="cannot be written") as caught:
            run_suite(path, out)
        assert "\n" not in str(caught.value)


def test_missing_data_are_told_before_anything_is_started(
    probe: Log, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = suite(tmp_path / "good.yaml", GOOD.replace("[probe]", "[probe: {missing: true}]"))
    with pytest.raises(DataMissing, match=r"probe\.bin in /nowhere"):
        run_suite(path, tmp_path / "out")
    assert not (tmp_path / "out" / "files").exists()


@pytest.mark.parametrize(("variable", "value"), [("NQBENCH_CACHE_LIMIT", "much")])
def test_a_wrong_setting_is_told_before_the_first_trial(
    probe: Log, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str, value: str
) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(NqbenchError, match=variable):
        run_suite(suite(tmp_path / "good.yaml", GOOD), tmp_path / "out")
    assert probe.counts() == {}


@pytest.mark.usefixtures("in_process")
def test_a_store_that_is_full_ends_the_run_in_a_line_and_keeps_what_it_had(
    probe: Log, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, out = suite(tmp_path / "good.yaml", GOOD), tmp_path / "out"
    add = Store.add
    added: list[str] = []

    def full(self: Store, record: Record) -> None:
        if len(added) == 2:
            raise StoreError("records.sqlite: database or disk is full")
        added.append(record.key)
        add(self, record)

    with monkeypatch.context() as patch:
        patch.setattr(Store, "add", full)
        with pytest.raises(StoreError, match="disk is full"):
            run_suite(path, out, jobs=0)
    with Store.read(out) as store:
        assert sorted(store.done()) == sorted(added)
    resumed = run_suite(path, out, jobs=0)
    assert (resumed.outcome, len(resumed.records)) == ("ok", 4)
    assert [r.key for r in resumed.records if r.run != resumed.records[-1].run] == added


@pytest.mark.usefixtures("in_process")
def test_a_cache_over_its_limit_is_pruned_after_a_run_that_computed(
    probe: Log, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NQBENCH_CACHE_LIMIT", "2k")
    path = suite(tmp_path / "good.yaml", GOOD)
    run_suite(path, tmp_path / "out", only=["coder=plain"], jobs=0)
    assert sum(size for _, size in Cache.default().info().values()) <= 2048


def test_a_script_that_calls_run_at_its_top_level_runs_once(probe: Log, tmp_path: Path) -> None:
    """Without ``if __name__ == "__main__"``, and from standard input, which no other process can read again."""
    path = suite(tmp_path / "good.yaml", GOOD)
    code = f"import nqbench\nprint(*nqbench.run({str(path)!r}, {str(tmp_path / 'out')!r})['status'])"
    done = subprocess.run([sys.executable, "-"], input=code, capture_output=True, text=True, timeout=200)
    assert "Traceback" not in done.stderr
    assert set(done.stdout.split()) == {"ok"}
