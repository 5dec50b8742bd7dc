"""A cache that several processes and users write, or that cannot be read as usual: no sound entry is lost, and no lock
outlives who took it."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from nqbench.pipeline import cache as caches
from nqbench.pipeline.cache import Cache

KEY = "ab" + 62 * "0"


def kept(root: Path, key: str = KEY, age: float = 7200.0) -> Cache:
    """A cache with one entry, written so many seconds ago."""
    cache = Cache(root)
    cache.put("train", key, {"value": 1}, lambda path: path.write_bytes(b"data"))
    then = time.time() - age
    for path in (root / "train").rglob("*.*"):
        os.utime(path, (then, then))
    return cache


def test_a_file_that_goes_while_a_cache_is_pruned_costs_no_entry(tmp_path: Path) -> None:
    """As what another process writes under a name for now: it is listed, and gone when it is asked for."""
    cache = kept(tmp_path)
    (tmp_path / "train" / "a" / ".new-1-gone").symlink_to("nowhere")
    assert cache.prune(1 << 40) == (0, 0)
    assert cache.get("train", KEY) is not None
    assert cache.info() == {"train": (1, cache.info()["train"][1])}


def test_what_is_partly_written_goes_once_it_is_old_and_a_whole_entry_never(tmp_path: Path) -> None:
    cache = kept(tmp_path)
    folder = tmp_path / "train" / "a"
    then = time.time() - 7200
    for name in (".new-1-x", "abc.data", "other"):
        (folder / name).write_bytes(b"x")
        os.utime(folder / name, (then, then))
    (folder / "new.data").write_bytes(b"x")
    cache.prune(1 << 40)
    assert sorted(path.name for path in folder.iterdir()) == [f"{KEY}.data", f"{KEY}.json", "new.data"]


@pytest.mark.parametrize("where", ["train/.DS_Store", "train/a/.DS_Store", ".DS_Store"])
def test_a_stray_file_costs_nothing(tmp_path: Path, where: str) -> None:
    cache = kept(tmp_path)
    (tmp_path / where).write_bytes(b"x")
    assert cache.prune(1 << 40) == (0, 0)
    assert cache.get("train", KEY) is not None
    assert cache.clear()[0] == 1
    assert cache.info() == {}


def test_an_entry_that_cannot_be_read_for_a_moment_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = kept(tmp_path)

    def full(path: str) -> tuple[int, int]:
        raise OSError(errno.EMFILE, "Too many open files", path)

    with monkeypatch.context() as patch:
        patch.setattr(caches, "checksum", full)
        assert cache.get("train", KEY) is None
    assert cache.get("train", KEY) is not None

    def load(entry: caches.Entry) -> object:
        raise OSError(errno.EMFILE, "Too many open files", entry.path)

    assert cache.recall("train", KEY, load) is None
    assert cache.get("train", KEY) is not None


def test_an_entry_of_another_user_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = kept(tmp_path)

    def refused(path: str) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted", path)

    monkeypatch.setattr(caches.os, "utime", refused)
    for _ in range(2):
        assert cache.get("train", KEY) is not None


HOLDS = """
    import os, sys, time
    from pathlib import Path
    from nqbench.pipeline.cache import Cache

    with Cache(Path(sys.argv[1])).lock("train", "key") as free:
        child = os.fork()
        if child == 0:
            {child}
        print(free, child, flush=True)
        {parent}
"""


def holder(root: Path, child: str, parent: str) -> tuple[subprocess.Popen[str], int]:
    """A process that takes a lock, and the child that it forked."""
    code = textwrap.dedent(HOLDS).format(child=child, parent=parent)
    process = subprocess.Popen([sys.executable, "-c", code, str(root)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    free, child_id = process.stdout.readline().split()
    assert free == "True"
    return process, int(child_id)


def test_a_forked_child_does_not_keep_the_lock_of_a_process_that_was_killed(tmp_path: Path) -> None:
    process, child = holder(tmp_path, "time.sleep(60); os._exit(0)", "time.sleep(60)")
    try:
        with Cache(tmp_path).lock("train", "key") as free:
            assert not free
        process.kill()
        process.wait()
        os.kill(child, 0)  # still there
        with Cache(tmp_path).lock("train", "key") as free:
            assert free
    finally:
        os.kill(child, signal.SIGKILL)


def test_a_forked_child_that_leaves_the_block_does_not_give_the_lock_back(tmp_path: Path) -> None:
    process, _ = holder(
        tmp_path, "raise SystemExit(0)", "os.waitpid(child, 0); print('gone', flush=True); time.sleep(60)"
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "gone\n"
        with Cache(tmp_path).lock("train", "key") as free:
            assert not free
    finally:
        process.kill()
        process.wait()


def test_a_lock_whose_file_cannot_be_removed_is_given_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = Cache(tmp_path)

    def refused(self: Path, missing_ok: bool = False) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(self))

    with monkeypatch.context() as patch, cache.lock("train", "key") as free:
        assert free
        patch.setattr(Path, "unlink", refused)
    with cache.lock("train", "key") as free:
        assert free
