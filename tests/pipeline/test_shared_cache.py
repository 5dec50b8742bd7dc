"""The tier of the cache that machines share: a mounted folder, and a real S3 server in a process of its own."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import secrets
import signal
import subprocess
import sys
import textwrap
import threading
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from probe_distribution import Log
from servers import CREDENTIALS, S3, s3_server
from trials import trial

from nqbench.api.errors import BadInput, Note
from nqbench.api.toolkit.store import SUMS, Trained, load_trained, set_behind, trained, trained_path
from nqbench.api.toolkit.waiting import Busy, patience
from nqbench.cli import invoke
from nqbench.pipeline.cache import Cache
from nqbench.pipeline.decoder import Decoder
from nqbench.pipeline.files import restore
from nqbench.pipeline.workbench import Workbench
from nqbench.registry import registry
from nqbench.shared import lease as leases
from nqbench.shared import tier
from nqbench.shared.objects import open_objects
from nqbench.shared.tier import Shared

KEY = "ab" + 62 * "0"


@pytest.fixture(scope="module")
def s3() -> Iterator[S3]:
    with s3_server() as server:
        yield server


@pytest.fixture(params=["file", "s3"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty place that machines share."""
    if request.param == "s3":
        return f"s3://{request.getfixturevalue('s3').BUCKET}/team/{secrets.token_hex(4)}"
    (tmp_path / "mounted disk").mkdir()
    return (tmp_path / "mounted disk").as_uri()


@pytest.fixture(autouse=True)
def alone_again() -> Iterator[None]:
    yield
    set_behind(None)


def machine(folder: Path, url: str) -> Cache:
    """The cache of a machine of its own: nothing is shared but the place."""
    return Cache(folder, Shared(url))


def fill(cache: Cache, key: str = KEY, size: int = 1000, stage: str = "file") -> bytes:
    data = secrets.token_bytes(size)
    cache.put(stage, key, {"n": size, "text": "a\u00e9"}, lambda path: path.write_bytes(data))
    return data


def names(url: str) -> list[str]:
    return [found.name for found in open_objects(url).list()]


# -- entries ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("size", [0, 1, 1 << 20, (1 << 20) + 1, 11 << 20])
def test_what_one_machine_makes_another_finds_bit_for_bit(url: str, tmp_path: Path, size: int) -> None:
    one, two = machine(tmp_path / "one", url), machine(tmp_path / "two", url)
    data = fill(one, size=size)
    one.put("evaluate", KEY, {"only": "JSON"})
    found = two.get("file", KEY)
    assert found is not None
    assert (found.meta, found.data) == ({"n": size, "text": "a\u00e9"}, data)
    assert two.peek("evaluate", KEY) == {"only": "JSON"}
    assert Cache(tmp_path / "two").get("file", KEY) is not None  # it is in the local tier from now on
    assert sorted(names(url)) == [f"evaluate/ab/{KEY}", f"file/ab/{KEY}"]


@pytest.mark.parametrize("says", [errno.EPERM, errno.EOPNOTSUPP])
def test_a_folder_of_a_file_system_without_hard_links_is_shared_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, says: int
) -> None:
    def refused(*names: object) -> None:
        raise OSError(says, os.strerror(says), *names[:1])

    monkeypatch.setattr(os, "link", refused)
    (tmp_path / "disk").mkdir()
    url = (tmp_path / "disk").as_uri()
    one, two = Shared(url), Shared(url)
    with one.lease("file", KEY) as lease:  # type: ignore[union-attr]
        assert lease is not None
        assert two.lease("file", KEY) is None
    assert two.lease("file", KEY) is not None
    cache = machine(tmp_path / "one", url)
    fill(cache)
    assert machine(tmp_path / "two", url).get("file", KEY) is not None


def test_what_is_owed_is_not_tried_one_by_one_where_the_place_is_away_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "disk").mkdir()
    shared = Shared((tmp_path / "disk").as_uri())
    sends: list[str] = []
    answers = [True]

    def send(path: Path, name: str, *, replace: bool = False) -> bool:
        sends.append(name)
        if away or not answers:
            raise TimeoutError("no answer")
        return answers.pop()

    monkeypatch.setattr(shared._objects, "send", send)
    away = True
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for n in range(5):
            assert not shared.publish("trial", f"{n:064x}", b"{}", None)
        away, shared._away_until = False, 0.0
        sends.clear()
        assert shared.publish("trial", f"{9:064x}", b"{}", None)
    assert len(sends) == 2  # itself, and the first of those that are owed
    assert len(shared._owed) == 5


DAMAGE = {
    "flipped": lambda data: data[:500] + bytes([data[500] ^ 1]) + data[501:],
    "flipped JSON": lambda data: data[:1005] + bytes([data[1005] ^ 1]) + data[1006:],
    "flipped trailer": lambda data: data[:-40] + bytes([data[-40] ^ 1]) + data[-39:],
    "truncated": lambda data: data[:700],
    "short": lambda data: data[:20],
    "empty": lambda data: b"",
    "longer": lambda data: data + b"x",
    "a page of a proxy": lambda data: b"<html>502 Bad Gateway</html>" * 20,
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_entry_is_a_miss_told_once_and_mended(url: str, tmp_path: Path, damage: str) -> None:
    fill(machine(tmp_path / "one", url))
    objects, name = open_objects(url), f"file/ab/{KEY}"
    objects.write(name, DAMAGE[damage](objects.read(name)))
    two = machine(tmp_path / "two", url)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        assert two.get("file", KEY) is None
        assert two.get("file", KEY, fresh=True) is None
        assert not two.has("file", KEY)
    (only,) = told
    assert only.category is Note
    assert f"{KEY}: is damaged" in str(only.message)
    assert not list((tmp_path / "two").rglob("*.data"))
    data = fill(two)
    found = machine(tmp_path / "three", url).get("file", KEY)
    assert found is not None
    assert found.data == data


def test_an_entry_under_another_name_is_not_taken(url: str, tmp_path: Path) -> None:
    fill(machine(tmp_path / "one", url))
    objects, other = open_objects(url), "ab" + 62 * "1"
    objects.write(f"file/ab/{other}", objects.read(f"file/ab/{KEY}"))
    with pytest.warns(Note, match="is damaged"):
        assert machine(tmp_path / "two", url).get("file", other) is None


def test_of_many_that_are_not_there_few_are_asked_for(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(machine(tmp_path / "one", url), 64 * "7")
    two = machine(tmp_path / "two", url)
    assert two.shared is not None
    objects, asked = two.shared._objects, []
    fetch = objects.fetch
    monkeypatch.setattr(objects, "fetch", lambda name, path: (asked.append(name), fetch(name, path)))
    for n in range(300):
        assert not two.has("file", f"{n:064x}")
    assert len(asked) < 70
    assert two.has("file", 64 * "7")
    fill(machine(tmp_path / "one", url), 64 * "8")
    assert two.get("file", 64 * "8", fresh=True) is not None  # who asks for the truth gets it


def test_a_file_that_is_not_the_one_of_the_trial_s_figures_is_not_restored(url: str, tmp_path: Path) -> None:
    cache = machine(tmp_path / "one", url)
    data = fill(cache)
    for number, sha256 in enumerate((hashlib.sha256(data).hexdigest(), 64 * "0")):
        cache.put("trial", 64 * str(number), {"file_sha256": sha256})
        restored = restore(cache, 64 * str(number), KEY, tmp_path / str(number))
        assert (restored is not None) == (number == 0) == (tmp_path / str(number)).exists()


def test_a_damaged_local_entry_comes_again_from_the_shared_tier(url: str, tmp_path: Path) -> None:
    one = machine(tmp_path / "one", url)
    data = fill(one)
    next((tmp_path / "one").rglob("*.data")).write_bytes(b"something else")
    found = one.get("file", KEY)
    assert found is not None
    assert found.data == data


def test_what_does_not_do_is_replaced_in_both_tiers(url: str, tmp_path: Path) -> None:
    """An entry made of networks that are no longer those of the store, for instance."""
    machine(tmp_path / "one", url).put("load", KEY, {"content": "old"})
    two = machine(tmp_path / "two", url)
    assert two.peek("load", KEY) == {"content": "old"}
    two.drop("load", KEY)
    assert two.peek("load", KEY) is None
    two.put("load", KEY, {"content": "new"})
    assert machine(tmp_path / "three", url).peek("load", KEY) == {"content": "new"}


def test_two_machines_that_write_one_entry_at_once_leave_one_of_the_two(url: str, tmp_path: Path) -> None:
    caches = [machine(tmp_path / str(n), url) for n in range(4)]
    start = threading.Barrier(len(caches))
    made: dict[int, bytes] = {}

    def write(n: int) -> None:
        start.wait()
        made[n] = fill(caches[n], size=3 << 20)

    threads = [threading.Thread(target=write, args=(n,)) for n in range(len(caches))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = machine(tmp_path / "reader", url).get("file", KEY)
    assert found is not None
    assert found.data in made.values()
    assert names(url) == [f"file/ab/{KEY}"]


WRITER = """
import os, sys
from pathlib import Path
from nqbench.pipeline.cache import Cache
from nqbench.shared.tier import Shared
cache = Cache(Path(sys.argv[1]), Shared(sys.argv[2]))
data = os.urandom(8 << 20)
for n in range(1000):
    if n == 3:
        print("writing", flush=True)
    cache.put("file", f"{n:064x}", {}, lambda path: path.write_bytes(data))
"""


def test_a_killed_writer_leaves_nothing_half(url: str, tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", WRITER, str(tmp_path / "one"), url], stdout=subprocess.PIPE, start_new_session=True
    ) as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == b"writing\n"
        time.sleep(secrets.randbelow(200) / 1000)
        os.kill(writer.pid, signal.SIGKILL)
    reader = machine(tmp_path / "two", url)
    assert reader.shared is not None
    keys = [key for _, key, _, _ in reader.shared.entries()]
    assert len(keys) >= 3
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # none is damaged
        assert all(reader.get("file", key) for key in keys[-3:])
    for path in (tmp_path / "mounted disk").rglob(".new-*"):  # a temporary file, which is nobody's once it is old
        os.utime(path, (0, 0))
    list(reader.shared.entries())
    assert not list((tmp_path / "mounted disk").rglob(".new-*"))


# -- a trial ---------------------------------------------------------------------------------------------------------
@pytest.fixture
def worker(decoder: Decoder, url: str, tmp_path: Path) -> Iterator[Callable[[str], Workbench]]:
    """Makes the bench of a worker on a machine of that name."""
    made: list[Workbench] = []

    def make(name: str) -> Workbench:
        cache = machine(tmp_path / name / "cache", url)
        made.append(Workbench(registry(), cache, torch.device("cpu"), decoder=decoder))
        return made[-1]

    yield make
    for one in made:
        one.close()


def test_another_machine_computes_nothing_anew(
    worker: Callable[[str], Workbench], url: str, tmp_path: Path, log: Log
) -> None:
    one = trial(pruner={}, positions="zero", sensitivity="squares", training=({},), loss_increase=True)
    made = worker("one").run(one, tmp_path / "one")
    assert log.counts()["quantize"] == 1
    second = worker("two")
    found = second.run(one, tmp_path / "two")
    assert log.counts() == Counter()
    assert found["decoded_sha256"] == made["decoded_sha256"]
    keys = second.maker.keys(one)
    driver = machine(tmp_path / "three" / "cache", url)  # which has the file from there too
    assert restore(driver, keys.trial, keys.stages["file"], tmp_path / "three") is not None
    files = [next((tmp_path / name).glob("*.nqz")).read_bytes() for name in ("one", "two", "three")]
    assert files[0] == files[1] == files[2]
    assert not [name for name in names(url) if name.startswith("leases/")]


# -- leases ----------------------------------------------------------------------------------------------------------
def test_one_of_many_makes_it_and_the_others_wait(url: str, tmp_path: Path) -> None:
    made: list[int] = []
    start = threading.Barrier(5)

    def slot(n: int) -> tuple[object, bool]:
        cache = machine(tmp_path / str(n), url)

        def make(workdir: Path | None) -> int:
            made.append(n)
            time.sleep(0.5)
            return n

        start.wait()
        return cache.once("prune", KEY, load=lambda e: e.meta["by"], make=make, meta=lambda by: {"by": by})

    found: list[tuple[object, bool]] = []
    threads = [threading.Thread(target=lambda n=n: found.append(slot(n))) for n in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 1
    assert sorted(hit for _, hit in found) == [False, True, True, True, True]
    assert {by for by, _ in found} == set(made)
    assert not [name for name in names(url) if name.startswith("leases/")]


def once(cache: Cache, make: Callable[[Path | None], int] = lambda workdir: 7) -> tuple[int, bool]:
    return cache.once("prune", KEY, load=lambda e: int(e.meta["n"]), make=make, meta=lambda n: {"n": n})


def held(url: str, **other: object) -> str:
    """Somebody's lease on the entry."""
    name = f"leases/prune/ab/{KEY}"
    told = {"owner": "x", "host": "elsewhere", "pid": 1, "until": time.time() + 60, **other}
    open_objects(url).create(name, json.dumps(told).encode())
    return name


def test_a_worker_that_would_have_to_wait_does_something_else(url: str, tmp_path: Path) -> None:
    held(url)
    begun = time.monotonic()
    with patience(0.3), pytest.raises(Busy, match="another process is at the stage 'prune'"):
        once(machine(tmp_path / "one", url))
    assert 0.3 <= time.monotonic() - begun < 30  # the lease is of a minute


@pytest.mark.parametrize("why", ["its date is long past", "its process is gone", "it is none"])
def test_a_lease_that_has_expired_is_taken_over(url: str, tmp_path: Path, why: str) -> None:
    if why == "its process is gone":
        with subprocess.Popen([sys.executable, "-c", ""]) as gone:
            gone.wait()
        held(url, host=leases.HERE, pid=gone.pid)
    elif why == "it is none":
        open_objects(url).create(f"leases/prune/ab/{KEY}", b"\x80no JSON")
    else:
        held(url, until=time.time() - 1000)
    with patience(0.0):
        assert once(machine(tmp_path / "one", url)) == (7, False)


def test_a_lease_that_nobody_renews_expires_whatever_the_clocks_say(url: str, tmp_path: Path) -> None:
    name = held(url, until=time.time() + 1e6)
    content, watched = open_objects(url).read(name), leases.Watched(term=0.2)
    assert not watched.expired(name, content)
    time.sleep(0.1)
    assert not watched.expired(name, content.replace(b"elsewhere", b"still there"))  # it was renewed
    time.sleep(0.15)
    assert not watched.expired(name, content.replace(b"elsewhere", b"still there"))
    time.sleep(0.1)
    assert watched.expired(name, content.replace(b"elsewhere", b"still there"))


def test_a_lease_is_renewed_while_its_holder_works_and_gone_when_it_is_done(url: str) -> None:
    objects = open_objects(url)
    lease = leases.Lease(objects, "leases/x", term=0.3)
    assert lease.taken()
    assert not leases.Lease(objects, "leases/x").taken()
    with lease:
        seen = set()
        for _ in range(12):
            seen.add(objects.read("leases/x"))
            time.sleep(0.05)
        assert len(seen) > 2
    with pytest.raises(FileNotFoundError):
        objects.read("leases/x")


def test_a_lease_that_another_took_over_is_left_to_it(url: str) -> None:
    objects = open_objects(url)
    lease = leases.Lease(objects, "leases/x", term=0.3)
    assert lease.taken()
    objects.write("leases/x", b'{"owner": "another", "pid": 1, "until": 1e12}')
    with lease:
        time.sleep(0.4)
    assert b"another" in objects.read("leases/x")


def test_a_failure_gives_the_lease_back_and_is_not_kept(url: str, tmp_path: Path) -> None:
    def fail(workdir: Path | None) -> int:
        raise ZeroDivisionError

    cache = machine(tmp_path / "one", url)
    with pytest.raises(ZeroDivisionError):
        once(cache, fail)
    assert names(url) == []
    assert once(machine(tmp_path / "two", url)) == (7, False)


# -- where the place is away -----------------------------------------------------------------------------------------
def test_it_goes_away_in_the_middle_and_comes_back(s3: S3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tier, "AGAIN", 0.5)
    url = f"s3://{s3.BUCKET}/{secrets.token_hex(4)}"
    cache = machine(tmp_path / "one", url)
    fill(cache, 64 * "0")
    s3.stop()
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        for n in range(1, 6):
            assert once(Cache(tmp_path / str(n), cache.shared)) == (7, False)  # nothing stops, nothing is lost
            fill(cache, 64 * str(n))
    (only,) = [str(w.message) for w in told]
    assert url in only
    assert "the local one alone" in only
    assert not any(value in only for value in CREDENTIALS.values())
    s3.start()  # with nothing in it
    time.sleep(0.6)
    fill(cache, 64 * "9")
    keys = [name.rpartition("/")[2] for name in names(url) if name.startswith("file/")]
    assert set(keys) >= {
        64 * str(n) for n in (1, 2, 3, 4, 5, 9)
    }  # what was made meanwhile was written when it was back
    assert invoke_with(url, tmp_path / "one", "push") == 0
    assert f"file/00/{64 * '0'}" in names(url)


def invoke_with(url: str, folder: Path, *command: str) -> int:
    """A command with that cache."""
    with pytest.MonkeyPatch.context() as patch:
        (folder / "stages").mkdir(parents=True, exist_ok=True)
        for path in folder.iterdir():
            if path.name not in ("stages", "trained"):
                path.rename(folder / "stages" / path.name)
        patch.setenv("NQBENCH_CACHE", str(folder))
        patch.setenv(tier.VARIABLE, url)
        tier._opened.cache_clear()
        return invoke(["cache", *command])


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("s3://team-bucket/x?password=hidden-one", "without user, password or options"),
        ("s3://key:hidden-one@team-bucket/x", "without user, password or options"),
        ("ftp://somewhere/x", "expected s3://BUCKET/PREFIX"),
        ("/mnt/shared", "expected s3://BUCKET/PREFIX"),
        ("file:///", "expected s3://BUCKET/PREFIX"),
        ("file:///nowhere/at/all", "no such folder: is it mounted"),
        ("s3://no-such-bucket/x", "no such bucket 'no-such-bucket'"),
    ],
)
def test_a_place_that_cannot_be_used_is_one_line(
    s3: S3, tmp_path: Path, capsys: pytest.CaptureFixture[str], url: str, says: str
) -> None:
    assert invoke_with(url, tmp_path / "one", "push") == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: NQBENCH_SHARED_CACHE: ")
    assert says in line
    assert "hidden-one" not in line


def test_a_server_that_never_answers_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, s3: S3) -> None:
    """It takes connections and is silent."""
    import socket

    from nqbench.shared import objects

    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        monkeypatch.setattr(objects, "WHOLE", 1.0)
        monkeypatch.setattr(objects, "SILENT", 0.5)
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{silent.getsockname()[1]}")
        one = objects.Bucket("s3", f"{s3.BUCKET}/silent-{secrets.token_hex(3)}")
        begun = time.monotonic()
        for do in (one.check, lambda: one.fetch("x", tmp_path / "x"), lambda: one.create("x", b"")):
            with pytest.raises(one.errors):
                do()
        assert time.monotonic() - begun < 15


def test_a_place_that_may_only_be_read_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "shared").mkdir()
    url = (tmp_path / "shared").as_uri()
    data = fill(machine(tmp_path / "one", url))

    def refused(*args: object, **kwargs: object) -> None:
        raise PermissionError(13, "Permission denied")

    two = machine(tmp_path / "two", url)
    monkeypatch.setattr("nqbench.shared.objects.Folder._publish", refused)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        fill(two, 64 * "1")
        assert once(two) == (7, False)
    (only,) = told
    assert "may not be written" in str(only.message)
    found = two.get("file", KEY)
    assert found is not None
    assert found.data == data


# -- trained networks, and commands ----------------------------------------------------------------------------------
def at(folder: Path, url: str, monkeypatch: pytest.MonkeyPatch) -> Cache:
    """From now on this process is a machine with that folder."""
    monkeypatch.setenv("NQBENCH_CACHE", str(folder))
    monkeypatch.setenv(tier.VARIABLE, url)
    tier._opened.cache_clear()
    return Cache.default()


def train(workdir: Path) -> Trained:
    return Trained({"w": torch.arange(6.0)}, notes={"by": workdir.parent.parent.name})


def never(workdir: Path) -> Trained:
    raise AssertionError("it was trained already")


@pytest.mark.parametrize("here", ["absent", "damaged"])
def test_a_network_is_trained_once_for_all_machines(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, here: str
) -> None:
    at(tmp_path / "one", url, monkeypatch)
    trained("net", {"epochs": 3}, train)
    at(tmp_path / "two", url, monkeypatch)
    path = trained_path("net", {"epochs": 3})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore" if here == "damaged" else "error")
        if here == "damaged":
            path.parent.mkdir(parents=True)
            path.write_bytes(b"damaged")
        found = trained("net", {"epochs": 3}, never)
    assert found.notes == {"by": "one"}
    assert torch.equal(load_trained(path).state["w"], torch.arange(6.0))
    assert names(url) == [f"trained/ne/{path.name}"]


def test_a_damaged_or_foreign_network_is_trained_again(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    at(tmp_path / "one", url, monkeypatch)
    trained("net", {"epochs": 3}, train)
    other = trained_path("net", {"epochs": 4})
    other.write_bytes(trained_path("net", {"epochs": 3}).read_bytes())
    shared = Shared(url)
    shared.publish("trained", other.name, b"{}", other)  # whole, and of another recipe than its name says
    at(tmp_path / "two", url, monkeypatch)
    assert trained("net", {"epochs": 4}, train).notes == {"by": "two"}
    at(tmp_path / "three", url, monkeypatch)
    assert trained("net", {"epochs": 4}, never).notes == {"by": "two"}


def test_ten_slots_do_not_train_one_network_ten_times(s3: S3, tmp_path: Path) -> None:
    url = f"s3://{s3.BUCKET}/{secrets.token_hex(4)}"
    code = """
        import sys, time, torch
        from nqbench.api.toolkit.store import Trained, trained
        from nqbench.pipeline.cache import Cache
        Cache.default()
        def train(workdir):
            with open(sys.argv[1], "a") as file:
                file.write("x")
            time.sleep(1)
            return Trained({"w": torch.ones(3)})
        trained("net", {}, train)
    """
    base = {**os.environ, tier.VARIABLE: url}
    slots = [
        subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(code), str(tmp_path / "count")],
            env={**base, "NQBENCH_CACHE": str(tmp_path / f"machine-{n // 2}")},
        )
        for n in range(4)  # two each on two machines
    ]
    assert [slot.wait(timeout=120) for slot in slots] == [0] * len(slots)
    assert (tmp_path / "count").read_text() == "x"
    assert len(list(tmp_path.glob("machine-*/trained/*.safetensors"))) == 2


def test_push_and_pull_move_what_the_other_side_lacks(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("NQBENCH_CACHE", str(tmp_path / "one"))
    alone = Cache(tmp_path / "one" / "stages")
    data = fill(alone)
    alone.put("evaluate", KEY, {"metric": 1})
    damaged = "cd" + 62 * "0"
    fill(alone, damaged)
    next((tmp_path / "one").rglob(f"{damaged}.data")).write_bytes(b"damaged")
    trained("net", {"epochs": 3}, train)
    at(tmp_path / "one", url, monkeypatch)
    assert invoke(["cache", "push"]) == 0
    assert invoke(["cache", "push"]) == 0
    assert [line.split(",")[0] for line in capsys.readouterr().out.splitlines()] == [
        "pushed 3 entries", "pushed 0 entries",
    ]  # fmt: skip
    two = at(tmp_path / "two", url, monkeypatch)
    monkeypatch.setenv("NQBENCH_CACHE_LIMIT", "100")
    assert invoke(["cache", "pull"]) == 1  # the folder has no room for the file
    monkeypatch.delenv("NQBENCH_CACHE_LIMIT")
    assert invoke(["cache", "pull"]) == 0
    assert invoke(["cache", "pull"]) == 0
    assert capsys.readouterr().out.splitlines()[-1].startswith("pulled 0 entries")
    found = Cache(two.root).get("file", KEY)
    assert found is not None
    assert found.data == data
    assert trained("net", {"epochs": 3}, never).notes == {"by": "one"}
    assert invoke(["cache", "info"]) == 0
    text = capsys.readouterr().out
    rows = {line.split()[0]: line.split() for line in text.splitlines()[2:]}
    assert rows["trained"][1] == rows["trained"][4] == "1"
    assert rows["file"][1] == rows["file"][4] == "1"
    assert url in text


def test_pruning_the_shared_tier_drops_what_was_written_first(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    cache = at(tmp_path / "one", url, monkeypatch)
    fill(cache, 64 * "1", 3000)
    time.sleep(1.1)  # S3 counts seconds
    fill(cache, 64 * "2", 3000)
    assert invoke(["cache", "prune", "--shared"]) == 1  # how much to leave must be said
    assert invoke(["cache", "prune", "--shared", "--limit", "4k"]) == 0
    assert names(url) == [f"file/22/{64 * '2'}"]
    assert len(list(cache.entries())) == 2
    assert invoke(["cache", "prune", "--limit", "0"]) == 0
    assert (list(cache.entries()), len(names(url))) == ([], 1)


@pytest.mark.parametrize("command", [["push"], ["pull"], ["prune", "--shared", "--limit", "1G"]])
def test_without_a_shared_tier_its_commands_say_so(
    command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("NQBENCH_CACHE", str(tmp_path))
    monkeypatch.delenv(tier.VARIABLE, raising=False)
    assert invoke(["cache", *command]) == 1
    assert "NQBENCH_SHARED_CACHE is not set" in capsys.readouterr().err


def test_what_others_put_there_is_no_path_to_follow(tmp_path: Path) -> None:
    (tmp_path / "shared").mkdir()
    shared = Shared((tmp_path / "shared").as_uri())
    for name in ("file/ab/.hidden", "file/../x", f"{SUMS}", "file/zz/abc", "notes.txt", "file/ab/a b"):
        path = tmp_path / "shared" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    assert list(shared.entries()) == []


def test_a_place_that_is_away_is_told_before_the_first_trial(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="cannot be reached"):
        Shared((tmp_path / "gone").as_uri()).check()
