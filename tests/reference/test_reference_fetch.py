"""``nqbench reference``: files from a server that misbehaves in every way one can, from history, and from a disk."""

from __future__ import annotations

import hashlib
import json
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch

from nqbench import version
from nqbench.api.toolkit.store import Trained, load_trained, recipe_digest, save_trained
from nqbench.cli import invoke
from nqbench.reference import Bundle, Entry, pack, read_bundle
from nqbench.reference.halving import halve
from nqbench.reference.packing import write_bundle

CONTENT = bytes(range(256)) * 3000
SHA256 = hashlib.sha256(CONTENT).hexdigest()
COMMIT = "0" * 40


class Server(ThreadingHTTPServer):
    """behaviour: what the answer to each path is like. requests: (path, Range header)."""

    daemon_threads = True
    requests: list[tuple[str, str | None]]
    files: dict[str, bytes]
    cut: list[int]

    def handle_error(self, *_: object) -> None:
        """Who hangs up is no news."""


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        span = self.headers.get("Range")
        self.server.requests.append((self.path, span))
        how, _, name = self.path.strip("/").partition("/")
        if how == "moved":
            self.send_response(302)
            self.send_header("Location", f"/good/{name}")
            self.end_headers()
            return
        if how == "around":
            self.send_response(302)
            self.send_header("Location", self.path)
            self.end_headers()
            return
        body = self.server.files.get(name)
        if how == "absent" or body is None:
            self.send_error(404)
            return
        if how == "slow":
            time.sleep(1.5)
        start = int(span.removeprefix("bytes=").removesuffix("-")) if span else 0
        if how == "wrong":
            body = b"x" * len(body)
        self.send_response(206 if start else 200)
        if how == "endless":
            self.end_headers()
            for _ in range(400):
                self.wfile.write(b"y" * (1 << 16))
            return
        self.send_header("Content-Length", str(len(body) - start))
        self.end_headers()
        stop = self.server.cut.pop(0) if self.server.cut else len(body)
        self.wfile.write(body[start:stop])

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    with Server(("127.0.0.1", 0), Handler) as made:
        made.requests, made.cut, made.files = [], [], {"run/index.html": CONTENT, "run--index.html": CONTENT}
        threading.Thread(target=made.serve_forever, daemon=True).start()
        yield made
        made.shutdown()


@pytest.fixture(autouse=True)
def quiet(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setenv("NQBENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("NQBENCH_OFFLINE", raising=False)


ENTRY = Entry(name="run/index.html", bytes=len(CONTENT), sha256=SHA256)
Fetch = Callable[..., tuple[int, str, str]]


@pytest.fixture
def fetch(tmp_path: Path, server: Server, capsys: pytest.CaptureFixture[str]) -> Fetch:
    """Fetches ``run`` by the ways of a server that are named: (exit code, output, errors)."""

    def run(
        *ways: str, files: tuple[Entry, ...] = (ENTRY,), name: str = "run", more: tuple[str, ...] = ()
    ) -> tuple[int, str, str]:
        sources = tuple(way if ":" in way else f"http://127.0.0.1:{server.server_port}/{way}/{{name}}" for way in ways)
        write_bundle(Bundle(commit=COMMIT, sources=sources, files=files), tmp_path / "bundle.yaml")
        code = invoke(["reference", "fetch", name, "--to", str(tmp_path / "out"),
                       "--bundle", str(tmp_path / "bundle.yaml"), "--timeout", "0.5", *more])  # fmt: skip
        said = capsys.readouterr()
        return code, said.out, said.err

    return run


def got(tmp_path: Path) -> bytes:
    """The file, alone in its folder: neither a part nor a lock is left."""
    (found,) = (tmp_path / "out" / "run").iterdir()
    assert found.name == "index.html"
    return found.read_bytes()


@pytest.mark.parametrize("way", ["good", "moved"])
def test_a_file_is_fetched_once_and_then_is_there(way: str, fetch: Fetch, server: Server, tmp_path: Path) -> None:
    code, out, err = fetch(way)
    assert (code, err) == (0, "")
    assert f"{len(CONTENT):,} bytes from http://" in out
    assert got(tmp_path) == CONTENT
    asked = len(server.requests)
    assert "is here" in fetch(way)[1]
    assert len(server.requests) == asked


@pytest.mark.parametrize(
    ("way", "reason"),
    [
        ("wrong", f"gave a file with the sha256 {hashlib.sha256(b'x' * len(CONTENT)).hexdigest()}, not {SHA256}"),
        ("absent", "HTTP Error 404: Not Found"),
        ("slow", "timed out"),
        ("endless", f"is longer than the {len(CONTENT):,} bytes that were expected"),
        ("around", "HTTP Error 302"),
        ("nothing:{name}", "nothing:run/index.html"),
        ("http://127.0.0.1:1/{name}", "refused"),
        ("file:///nowhere/{name}", "nowhere"),
        (f"git:{COMMIT}:{{name}}", "git:0000"),
    ],
)  # fmt: skip
def test_what_fails_is_one_line_and_leaves_nothing(way: str, reason: str, fetch: Fetch, tmp_path: Path) -> None:
    code, out, err = fetch(way)
    assert (code, out) == (1, "")
    assert err.startswith("error: run/index.html cannot be had: ")
    assert reason in err
    assert err.count("\n") == 1
    assert not (tmp_path / "out" / "run" / "index.html").exists()
    if way != "slow":
        assert list((tmp_path / "out" / "run").iterdir()) == []


@pytest.mark.parametrize("bad", ["wrong", "absent", "endless", "http://127.0.0.1:1/{asset}", f"git:{COMMIT}:{{path}}"])
def test_the_next_source_is_tried(bad: str, fetch: Fetch, tmp_path: Path) -> None:
    assert fetch(bad, "good")[0] == 0
    assert got(tmp_path) == CONTENT


def test_a_cut_download_goes_on_where_it_ended(fetch: Fetch, server: Server, tmp_path: Path) -> None:
    server.cut = [100_000, 300_000]
    assert fetch("good")[0] == 0
    assert got(tmp_path) == CONTENT
    assert [span for _, span in server.requests] == [None, "bytes=100000-", "bytes=300000-"]


def test_one_that_was_given_up_is_gone_on_with_by_the_next_command(
    fetch: Fetch, server: Server, tmp_path: Path
) -> None:
    server.cut = [50_000] * 3
    code, _, err = fetch("good")
    assert code == 1
    assert "the connection ended before the file did" in err
    server.cut, server.requests = [], []
    assert fetch("good")[0] == 0
    assert server.requests == [("/good/run/index.html", "bytes=50000-")]
    assert got(tmp_path) == CONTENT


def test_a_damaged_part_of_before_is_told_by_the_hash_and_begun_again(fetch: Fetch, tmp_path: Path) -> None:
    (tmp_path / "out" / "run").mkdir(parents=True)
    (tmp_path / "out" / "run" / "index.html.part").write_bytes(b"?" * 1000)
    assert fetch("good")[0] == 1
    assert fetch("good")[0] == 0
    assert got(tmp_path) == CONTENT


def test_a_file_that_is_there_with_other_bytes_is_replaced(fetch: Fetch, tmp_path: Path) -> None:
    assert fetch("good")[0] == 0
    (tmp_path / "out" / "run" / "index.html").write_bytes(CONTENT[:-1] + b"!")
    assert "bytes from" in fetch("good")[1]
    assert got(tmp_path) == CONTENT


def test_another_source_is_taken_in_place_of_the_listed_ones(fetch: Fetch, server: Server, tmp_path: Path) -> None:
    (tmp_path / "mirror").mkdir()
    (tmp_path / "mirror" / "run--index.html").write_bytes(CONTENT)
    assert fetch("absent", more=("--source", f"file://{tmp_path}/mirror/{{asset}}"))[0] == 0
    assert got(tmp_path) == CONTENT
    assert server.requests == []
    code, _, err = fetch("good", more=("--source", "http://x/{nme}"))
    assert (code, err.count("\n")) == (1, 1)
    assert "may stand in braces" in err
    assert "has to stand in it" in fetch("good", more=("--source", "http://x/y"))[2]


def test_offline_asks_no_server(fetch: Fetch, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NQBENCH_OFFLINE", "1")
    assert "NQBENCH_OFFLINE is set" in fetch("good")[2]
    assert server.requests == []


def test_a_name_that_is_not_listed_suggests_the_nearest(fetch: Fetch) -> None:
    code, _, err = fetch("good", name="rnu")
    assert (code, err) == (1, "error: nothing of the name 'rnu' is in the bundle; did you mean 'run'?\n")


def test_a_folder_that_cannot_be_written_is_one_line(fetch: Fetch, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "run").write_text("a file")
    code, _, err = fetch("good")
    assert (code, err.count("\n")) == (1, 1)
    assert "cannot be written" in err


LINE = "commit: '{commit}'\nsources: ['http://x/{{name}}']\nfiles: [{{name: {name}, bytes: 1, sha256: '{sha}'}}]\n"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (LINE.format(commit=COMMIT, name="../../etc/passwd", sha=SHA256), "is no path below"),
        (LINE.format(commit=COMMIT, name="/etc/passwd", sha=SHA256), "is no path below"),
        (LINE.format(commit=COMMIT, name="a//b", sha=SHA256), "is no path below"),
        (LINE.format(commit=COMMIT, name="a/.git/x", sha=SHA256), "is no path below"),
        (LINE.format(commit=COMMIT, name="a", sha="abc"), "files.0.sha256"),
        (LINE.format(commit="main", name="a", sha=SHA256), "commit"),
        (LINE.format(commit=COMMIT, name="a, commit: main", sha=SHA256), "files.0.commit"),
        (LINE.format(commit=COMMIT, name="a", sha=SHA256).replace("{name}", "{0}"), "sources"),
        ("files: [", "is not valid YAML"),
        ("just words", "valid dictionary"),
    ],
)
def test_a_list_that_is_wrong_is_refused_in_a_line(
    text: str, reason: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "bundle.yaml").write_text(text)
    assert invoke(["reference", "list", "--bundle", str(tmp_path / "bundle.yaml")]) == 1
    said = capsys.readouterr().err
    assert said.startswith(f"error: {tmp_path / 'bundle.yaml'}: ")
    assert reason in said
    assert said.count("\n") == 1


# -- networks -----------------------------------------------------------------------------------------------------
RECIPE = {"network": "tiny", "seed": 0}


def network(folder: Path) -> Path:
    """A pruned network as the store keeps one."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(7, 5, generator=generator)
    mask = torch.rand(7, 5, generator=generator) < 0.4
    state = {"w": weight * mask, "b": torch.randn(7, generator=generator), "mask:w": mask, "n": torch.tensor(3)}
    path = folder / f"tiny-{recipe_digest(RECIPE)}.safetensors"
    save_trained(path, Trained(state, {"w": weight.square()}, {"seconds": 1.0}), RECIPE)
    return path


def test_a_half_is_the_network_rounded_to_float16_with_its_masks_and_no_moments(tmp_path: Path) -> None:
    whole = load_trained(network(tmp_path))
    half = tmp_path / "half.safetensors"
    half.write_bytes(halve(network(tmp_path)))
    assert half.read_bytes() == halve(network(tmp_path))
    found = load_trained(half)
    assert found.moments == {}
    assert found.notes == whole.notes
    assert {n: t.dtype for n, t in found.state.items()} == {
        "w": torch.float16, "b": torch.float16, "mask:w": torch.bool, "n": torch.int64,
    }  # fmt: skip
    for name in ("w", "b"):
        assert torch.equal(found.state[name], whole.state[name].half())
    assert torch.equal(found.state["mask:w"], whole.state["mask:w"])


def test_a_half_in_the_store_is_float32_of_the_same_values(tmp_path: Path) -> None:
    path = network(tmp_path / "whole")
    (tmp_path / "half").mkdir()
    (tmp_path / "half" / path.name).write_bytes(halve(path))
    assert invoke(["cache", "add", str(tmp_path / "half")]) == 0
    stored = load_trained(tmp_path / "cache" / "trained" / path.name)
    whole = load_trained(path)
    assert stored.state["w"].dtype == torch.float32
    assert torch.equal(stored.state["w"], whole.state["w"].half().float())
    assert torch.equal(stored.state["w"] != 0, whole.state["mask:w"])


def test_a_half_whose_values_do_not_fit_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "networks-float32" / f"tiny-{recipe_digest(RECIPE)}.safetensors"
    save_trained(path, Trained({"w": torch.tensor([1e5, 1.0])}), RECIPE)
    write_bundle(Bundle(commit=COMMIT, sources=(), files=()), tmp_path / "bundle.yaml")
    packed = ["reference", "pack", str(tmp_path / "out"), "--from", str(tmp_path)]
    assert invoke([*packed, "--bundle", str(tmp_path / "bundle.yaml")]) == 1
    assert "beyond float16's" in capsys.readouterr().err


def test_what_is_packed_can_be_fetched_and_a_half_is_made_where_no_source_has_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    reference = tmp_path / "reference"
    path = network(reference / "networks-float32")
    (reference / "beyond" / "run").mkdir(parents=True)
    (reference / "beyond" / "run" / "index.html").write_bytes(CONTENT)
    bundle = Bundle(commit=COMMIT, sources=(f"file://{tmp_path}/release/{{asset}}",), files=())
    packed = pack(bundle, reference, tmp_path / "release")
    halved = f"networks/{path.name}"
    assert [file.name for file in packed.files] == ["beyond/run/index.html", f"networks-float32/{path.name}", halved]
    assert {file.name: file.halves for file in packed.files}[halved] == f"networks-float32/{path.name}"
    assert {p.name for p in (tmp_path / "release").iterdir()} == {file.asset for file in packed.files}
    listing = tmp_path / "bundle.yaml"
    write_bundle(packed, listing)
    assert read_bundle(listing) == packed
    fetched = ["reference", "fetch", "all", "--bundle", str(listing), "--to"]
    assert invoke([*fetched, str(tmp_path / "one")]) == 0
    (tmp_path / "release" / packed.file(halved).asset).unlink()
    assert invoke([*fetched, str(tmp_path / "two")]) == 0
    assert "in float16" in capsys.readouterr().out
    for file in packed.files:
        assert (tmp_path / "one" / file.name).read_bytes() == (tmp_path / "two" / file.name).read_bytes()
    # packed again, with nothing new, it says the same
    assert pack(packed, tmp_path / "two", tmp_path / "again") == packed


def test_a_file_that_another_commit_has_is_listed_with_it(tmp_path: Path) -> None:
    """Commits of digits, also those that YAML would read as numbers."""
    entries = [
        Entry(name=f"networks/{c}", bytes=1, sha256=SHA256, commit=c * 40 if c != "e" else "1e" + "1" * 38)
        for c in "17e"
    ]
    bundle = Bundle(
        commit=COMMIT, sources=("git:{commit}:{path}",), files=(*entries, Entry(name="a", bytes=1, sha256=SHA256))
    )
    write_bundle(bundle, tmp_path / "bundle.yaml")
    read = read_bundle(tmp_path / "bundle.yaml")
    assert read == bundle
    places = [read.places(entry)[0] for entry in read.files]
    assert places == [*(f"git:{entry.commit}:{entry.name}" for entry in entries), f"git:{COMMIT}:a"]


def test_nothing_to_pack_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert invoke(["reference", "pack", str(tmp_path / "out"), "--from", str(tmp_path)]) == 1
    assert "fetch or make them first" in capsys.readouterr().err


# -- what nqbench itself publishes -----------------------------------------------------------------------------------
ROOT = Path(version.__file__).parents[1]


def git(*arguments: str, input: str = "") -> str:
    done = subprocess.run(["git", "-C", str(ROOT), *arguments], capture_output=True, text=True, input=input)
    if done.returncode:
        pytest.skip(f"git {arguments[0]}: {done.stderr.strip()}")
    return done.stdout


@pytest.fixture
def history() -> Bundle:
    """The bundle, where this clone has the commit that it names."""
    bundle = read_bundle()
    git("cat-file", "-e", f"{bundle.commit}^{{tree}}")
    return bundle


def test_every_published_file_is_in_the_history_that_is_named(history: Bundle) -> None:
    whole = [file for file in history.files if not file.halves]
    wanted = "".join(f"{file.commit or history.commit}:reports/reference/{file.path or file.name}\n" for file in whole)
    sizes = [line.split()[-1] for line in git("cat-file", "--batch-check", input=wanted).splitlines()]
    assert sizes == [str(file.bytes) for file in whole]


def test_a_page_and_a_network_come_out_of_history_and_the_network_goes_into_the_store(
    history: Bundle, tmp_path: Path
) -> None:
    small = min((file for file in history.files if file.halves), key=lambda file: file.bytes)
    assert invoke(["reference", "fetch", "quickstart", small.name, "--to", str(tmp_path)]) == 0
    assert (tmp_path / "quickstart" / "index.html").read_bytes().startswith(b"<!doctype html>")
    assert invoke(["cache", "add", str(tmp_path / "networks")]) == 0
    stored = load_trained(tmp_path / "cache" / "trained" / Path(small.name).name)
    assert {t.dtype for t in stored.state.values()} == {torch.float32, torch.bool, torch.int64}


def test_what_is_large_stays_out_of_the_tree() -> None:
    tracked = git("ls-files", "-z").split("\0")
    # the records of 88 files with a value for each of 1,000 images take 0.6 MB
    heavy = [name for name in tracked if name and (ROOT / name).is_file() and (ROOT / name).stat().st_size > 640 * 1024]
    assert heavy == []
    assert not [name for name in tracked if name.startswith("reports/") and name.endswith((".html", ".safetensors"))]


def test_a_published_run_keeps_its_table_its_records_its_suite_and_at_most_one_figure() -> None:
    reference = ROOT / "reports" / "reference"
    for table in sorted(reference.rglob("leaderboard.md")):
        assert json.loads((table.parent / "records.json").read_text(encoding="utf-8"))
        assert (table.parent / "suite.yaml").is_file()
        tracked = git("ls-files", "--", str(table.parent)).splitlines()
        assert (
            sum(name.endswith(".png") for name in tracked if Path(name).parent.parent == table.parent.relative_to(ROOT))
            <= 1
        )
