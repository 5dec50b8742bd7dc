"""Damaged caches, stores, files and trained networks under whole runs: no record may be wrong.

``python fuzz/fuzz_stores.py [--faults 1000] [--seed 0]``: a small suite is run once, sound. Then, again and again,
files of its cache (stages and trained networks), its store and its compressed files are damaged - bits flipped, cut
off, emptied, two entries swapped, half of an entry gone, an entry of another version - and the suite is run on what is
left. Each run has to give the sound run's records, mark a trial as failed, or refuse with one line. What it says
otherwise is wrong; what it raises otherwise is a crash.

``--kills 100``: runs are killed (SIGKILL, with all their processes) at random moments after their first record. Every
record whose line was printed has to be in the store, as it was.
"""
# ruff: noqa: T201 - a script

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
import zlib
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

from nqbench.api.errors import NqbenchError
from nqbench.engine import RunResult, Silent, inline, run_suite
from nqbench.pipeline.decoder import Decoder, serve
from nqbench.pipeline.workbench import Workbench
from nqbench.results.record import Record
from nqbench.results.store import Store

SUITE = """
name: fuzz
models: {lenet300: {data: digits}}
pruners: [none, {magnitude: {keep: 0.3}}]
quantizers: [{uniform: {step: 0.1}}, {kmeans: {k: 4}}]
coders: [huffman, bzip2]
"""
MANY = """
name: many
models: {lenet300: {data: digits}}
quantizers: [{kmeans: {k: [2, 3, 4, 5, 6, 7, 8, 9, 10, 12, 14, 16, 20, 24, 28, 32, 40, 48, 56, 64]}}]
granularities: [global, layer]
coders: [huffman, bzip2]
"""
SAYS = ("key", "file_bytes", "parts", "ratio", "mse", "entropy", "metric", "metric_float", "metrics", "decoded_sha256",
        "weights", "kept")  # fmt: skip
"""Fields of a record that no damage may change."""
COMMANDS = 25
"""Every how manyth kill is of the whole command with its worker process; the others are of forks of this process."""
KEPT = (".json", ".data", ".js")
"""Files of the cache that are damaged, networks aside."""
BATCH = 6
"""Faults before each run: of many, one may hide another."""
WORKERS = 8
"""Every how manyth run has a worker process, which takes seconds to start; the others do all in this process."""


# -- faults: each damages files of one folder, and says how ---------------------------------------------------------
def flip(path: Path, draw: random.Random) -> None:
    data = bytearray(path.read_bytes())
    for _ in range(draw.choice((1, 1, 8, 200)) if data else 0):
        data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
    path.write_bytes(data)


def truncate(path: Path, draw: random.Random) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: draw.randrange(len(data))] if data and draw.random() < 0.8 else b"")


def swap(path: Path, draw: random.Random) -> None:
    """Two whole entries of one kind change places: both are sound, neither is what its name says."""
    alike = [other for other in sorted(path.parent.parent.rglob(f"*{path.suffix}")) if other != path]
    if alike:
        other = draw.choice(alike)
        for suffix in {path.suffix, ".json", ".data"} if path.suffix in (".json", ".data") else {path.suffix}:
            one, two = path.with_suffix(suffix), other.with_suffix(suffix)
            if one.exists() and two.exists():
                kept = one.read_bytes()
                one.write_bytes(two.read_bytes())
                two.write_bytes(kept)


def half(path: Path, draw: random.Random) -> None:
    """What a process that died while it wrote may leave: one file of two, or the first part under a name of its own."""
    if draw.random() < 0.5:
        path.unlink()
    else:
        path.with_name(f".new-1-{path.name}").write_bytes(path.read_bytes()[: max(1, path.stat().st_size // 2)])
        path.unlink()


def version(path: Path, draw: random.Random) -> None:
    """A sound file of another version, as far as its form goes."""
    if path.suffix == ".sqlite":
        data = bytearray(path.read_bytes())
        # its user_version; SQLite itself is not asked, for it may be damaged
        data[60:64] = draw.choice((0, 1, 99)).to_bytes(4, "big")
        path.write_bytes(data)
    elif path.suffix == ".json":
        other: Any = draw.choice([{"result": {}, "data": None}, {"result": None, "data": None}, {"version": 9}, [], 7])
        stored = json.dumps(other).encode()
        path.write_bytes(b"%08x\n" % zlib.crc32(stored) + stored)
    else:
        path.write_bytes(b"another format " + path.read_bytes())


FAULTS: tuple[Callable[[Path, random.Random], None], ...] = (flip, flip, truncate, swap, half, version)


class Sound:
    """A sound run: its cache, its output folder, and what its records say."""

    def __init__(self, root: Path, workers: bool = True) -> None:
        """workers: whether some of the runs have one."""
        self.root, self.suite = root, root / "fuzz.yaml"
        self.suite.write_text(SUITE)
        self.pristine, self.cache = root / "pristine", root / "cache"
        self.decoder = Decoder()  # one for all runs without workers: to start it takes longer than most of them
        os.environ["NQBENCH_CACHE"] = str(self.pristine / "cache")
        result = self._run(self.pristine / "out")
        assert result.outcome == "ok", [record.error for record in result.records]
        self.says = {record.trial: said(record) for record in result.records}
        self.files = {record.trial: self._file(self.pristine / "out", record) for record in result.records}
        self.runs, self.workers = 0, workers

    def _run(self, out: Path, jobs: int = 0) -> RunResult:
        with mock.patch.object(inline, "Workbench", partial(Workbench, decoder=self.decoder)):
            return run_suite(self.suite, out, jobs=jobs)

    @staticmethod
    def _file(out: Path, record: Record) -> bytes:
        return (out / str(record.file)).read_bytes()

    def damaged(self, draw: random.Random, faults: int) -> tuple[list[str], str]:
        """One run on damaged files: the faults, and its outcome: sound, failed, refused, or what is wrong."""
        out = self.root / "out"
        shutil.rmtree(self.cache, ignore_errors=True)
        shutil.rmtree(out, ignore_errors=True)
        shutil.copytree(self.pristine / "cache", self.cache)
        os.environ["NQBENCH_CACHE"] = str(self.cache)
        if draw.random() < 0.4:  # a run that goes on where another was
            shutil.copytree(self.pristine / "out", out)
        # what is looked up first hides what it was made from
        for stage in ("trial", "evaluate", "file", "quantize", "prune")[: draw.randrange(6)]:
            shutil.rmtree(self.cache / "stages" / stage, ignore_errors=True)
        done = [self._fault(draw, out) for _ in range(faults)]
        return done, self._outcome(out)

    def _fault(self, draw: random.Random, out: Path) -> str:
        groups = [
            [path for folder in folders for path in sorted((self.cache / folder).rglob("*")) if path.suffix in KEPT]
            for folders in (("stages",), ("code", "report"))
        ]
        if draw.random() < 0.3 or not groups[0]:  # to train it again takes most of a run's time
            groups.append(sorted((self.cache / "trained").glob("*.safetensors")))
        if out.exists():
            groups += [[path] for path in (out / "records.sqlite",) if path.exists()]
            groups.append(sorted((out / "files").glob("*.nqz")))
        path = draw.choice(draw.choice([group for group in groups if group]))
        fault = draw.choice(FAULTS)
        fault(path, draw)
        return f"{fault.__name__} {path.relative_to(self.root)}"

    def _outcome(self, out: Path) -> str:
        try:
            self.runs += 1
            result = self._run(out, jobs=int(self.workers and self.runs % WORKERS == 0))
        except NqbenchError as error:
            return "refused" if "\n" not in str(error) else f"WRONG: more than a line: {error}"
        except Exception:  # noqa: BLE001 - what a fault brings to light may be of any kind
            return f"CRASH: {traceback.format_exc()}"
        failed = 0
        for record in result.records:
            if not record.ok:
                told = str(record.error).partition("\n")[0]
                if "Error" in told:
                    return f"CRASH: {record.error}"
                failed += 1
            elif said(record) != self.says[record.trial]:
                return f"WRONG: {differences(said(record), self.says[record.trial])}"
            elif self._file(out, record) != self.files[record.trial]:
                return f"WRONG: the file of {record.key[:12]} is another"
        if {record.trial for record in result.records} != set(self.says):
            return "WRONG: records are missing"
        return "failed" if failed else "sound"


def said(record: Record) -> dict[str, Any]:
    fields = record.to_dict()
    return {name: fields[name] for name in SAYS}


def differences(found: dict[str, Any], expected: dict[str, Any]) -> str:
    return ", ".join(f"{name}: {found[name]} for {expected[name]}" for name in SAYS if found[name] != expected[name])


def fuzz(
    root: Path, faults: int, seed: int, *, told: Callable[[str], None] = print, workers: bool = True
) -> Counter[str]:
    """As many faults, some at a time. Returns how many runs ended how."""
    sound, draw = Sound(root, workers), random.Random(seed)
    ended: Counter[str] = Counter()
    done = 0
    while done < faults:
        made, outcome = sound.damaged(draw, min(BATCH, faults - done))
        done += len(made)
        ended[outcome.partition(":")[0]] += 1
        if outcome.startswith(("WRONG", "CRASH")):
            told(f"{outcome}\n  after {'; '.join(made)}")
        if sum(ended.values()) % 10 == 0:
            told(f"{done} faults: {dict(ended)}")
    sound.decoder.close()
    return ended


# -- kills ----------------------------------------------------------------------------------------------------------
def kills(root: Path, count: int, seed: int, *, told: Callable[[str], None] = print) -> Counter[str]:
    """Runs killed after their first record. Returns how many there were, how many records they left, and how many of
    them lost one, or its file."""
    draw, ended = random.Random(seed), Counter[str]()
    suite, out = root / "many.yaml", root / "killed"
    suite.write_text(MANY)
    os.environ["NQBENCH_CACHE"] = str(root / "cache")
    run_suite(suite, root / "whole", jobs=0, cached=False)  # all is imported, compiled and trained before it is forked
    before: dict[str, str] = {}
    while ended["kills"] < count:
        kill = _command if ended["kills"] % COMMANDS == COMMANDS - 1 else _forked
        printed = kill(suite, out, draw)
        if not printed:  # it ended first: from the start
            shutil.rmtree(out, ignore_errors=True)
            before = {}
            continue
        with Store.read(out) as store:
            records = {record.key: record for record in store.records("all")}
        found = {key: record.to_json() for key, record in records.items()}
        lost = [key for key, text in before.items() if found.get(key) != text]
        lost += [key for key in printed if key and (key not in records or not _whole(out, records[key]))]
        missing = len(before) + len(printed) - len(found)
        ended["kills"] += 1
        ended["records printed before a kill"] += len(printed)
        if lost or missing > 0:
            ended["LOST"] += 1
            told(f"LOST: {len(lost)} changed or without its file, {missing} missing of {len(before) + len(printed)}")
        before = found
        if ended["kills"] % 10 == 0:
            told(str(dict(ended)))
    return ended


def _whole(out: Path, record: Record) -> bool:
    return hashlib.sha256((out / str(record.file)).read_bytes()).hexdigest() == record.file_sha256


def _forked(suite: Path, out: Path, draw: random.Random) -> list[str]:
    """Run in a fork of this process, and kill it at a random moment after its first new record. The keys that it told;
    none where it was over first."""
    read, write = os.pipe()
    process = os.fork()
    if process == 0:
        os.setsid()
        with mock.patch.object(Decoder, "start", _start_forked):
            run_suite(suite, out, jobs=0, cached=False, progress=_Told(write))
        os._exit(0)
    os.close(write)
    with os.fdopen(read) as told:
        keys = told.readline()
        if keys:
            time.sleep(draw.expovariate(1.0))
            os.killpg(process, signal.SIGKILL)
            keys += told.read()
    os.waitpid(process, 0)
    return keys.split("\n")[:-1]


class _Told(Silent):
    """Writes the key of each record, once it is said to be kept."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor

    def ended(self, record: Record, label: str, *, again: bool = False) -> None:
        os.write(self.descriptor, f"{record.key}\n".encode())


def _start_forked(self: Decoder) -> None:
    """The decoder as a fork, which needs no start."""
    if self._process is not None:
        return
    requests, answers = os.pipe(), os.pipe()
    parent, process = os.getpid(), os.fork()
    if process == 0:
        os.dup2(requests[0], 0)
        os.dup2(answers[1], 1)
        for end in (*requests, *answers):
            os.close(end)
        serve(parent, self._shared.fileno())
        os._exit(0)
    os.close(requests[0])
    os.close(answers[1])
    ends = {"stdin": os.fdopen(requests[1], "w"), "stdout": os.fdopen(answers[0])}
    self._process = SimpleNamespace(  # type: ignore[assignment]
        **ends, kill=lambda: os.kill(process, signal.SIGKILL), wait=lambda: os.waitpid(process, 0)[1]
    )


def _command(suite: Path, out: Path, draw: random.Random) -> list[str]:
    """The same of the command, with its worker. Its lines tell no keys: an empty text for each."""
    command = [sys.executable, "-m", "nqbench", "run", str(suite), "--output", str(out), "--no-cache"]
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    assert process.stderr is not None
    printed = 0
    for line in process.stderr:
        if line.startswith("[") and " B" in line:
            printed += 1
            break
    if printed:
        time.sleep(draw.expovariate(1.0))
        os.killpg(process.pid, signal.SIGKILL)
        printed += sum(line.startswith("[") and line.endswith("\n") for line in process.stderr)
    process.wait()
    return [""] * printed


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--faults", type=int, default=1000)
    parser.add_argument("--kills", type=int, default=0)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as root:
        ended = (
            kills(Path(root), given.kills, given.seed) if given.kills else fuzz(Path(root), given.faults, given.seed)
        )
    print(dict(ended))
    return 1 if {"WRONG", "CRASH", "LOST"} & set(ended) else 0


if __name__ == "__main__":
    sys.exit(main())
