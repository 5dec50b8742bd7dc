"""Downloads from a server on 127.0.0.1 that misbehaves in every way a mirror can."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from nqbench.api import DataMissing
from nqbench.api.toolkit.download import Remote, fetch, verified

CONTENT = bytes(range(256)) * 4000  # about a megabyte: several chunks
MD5 = "md5:" + hashlib.md5(CONTENT).hexdigest()


class Server(ThreadingHTTPServer):
    """requests: (path, Range header or None), in order. cut: answers that end after so many bytes, used up in turn."""

    requests: list[tuple[str, str | None]]
    cut: list[int]

    def url(self, name: str) -> str:
        return f"http://127.0.0.1:{self.server_port}/{name}"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        span = self.headers.get("Range")
        self.server.requests.append((self.path, span))
        start = int(span.removeprefix("bytes=").removesuffix("-")) if span and self.path != "/plain" else 0
        if self.path == "/absent":
            self.send_error(404)
            return
        if start >= len(CONTENT):
            self.send_error(416)
            return
        body = b"x" * len(CONTENT) if self.path == "/wrong" else CONTENT
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(body) - start))
        self.end_headers()
        stop = self.server.cut.pop(0) if self.server.cut else len(body)
        self.wfile.write(body[start:stop])

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    with Server(("127.0.0.1", 0), Handler) as made:
        made.requests, made.cut = [], []
        threading.Thread(target=made.serve_forever, daemon=True).start()
        yield made
        made.shutdown()


@pytest.fixture(autouse=True)
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("NQBENCH_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("NQBENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("NQBENCH_OFFLINE", raising=False)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    return tmp_path


def test_a_good_file_is_downloaded_once(server: Server, folders: Path) -> None:
    remote = Remote("set/file.bin", (server.url("good"),), MD5)
    path = fetch(remote)
    assert path == folders / "cache" / "data" / "set" / "file.bin"
    assert path.read_bytes() == CONTENT
    assert fetch(remote) == path
    assert server.requests == [("/good", None)]
    assert not path.with_name("file.bin.part").exists()


def test_a_file_in_the_data_folder_is_used_without_a_request(server: Server, folders: Path) -> None:
    own = folders / "data" / "file.bin"
    own.parent.mkdir()
    own.write_bytes(b"mine")
    assert fetch(Remote("file.bin", (server.url("good"),), MD5)) == own
    assert server.requests == []
    with pytest.raises(DataMissing, match="replace it with the official file"):
        verified(Remote("file.bin", (), MD5), own)


def test_a_wrong_hash_is_refused_and_nothing_of_it_is_kept(server: Server, folders: Path) -> None:
    with pytest.raises(DataMissing) as caught:
        fetch(Remote("file.bin", (server.url("wrong"),), MD5))
    assert "\n" not in str(caught.value)
    assert f"put it at {folders / 'data' / 'file.bin'}" in str(caught.value)
    assert MD5.removeprefix("md5:") in str(caught.value)
    assert [p.name for p in (folders / "cache" / "data").iterdir() if not p.name.endswith(".lock")] == []


def test_a_second_mirror_serves_where_the_first_is_wrong_or_absent(server: Server) -> None:
    remote = Remote("file.bin", (server.url("absent"), server.url("wrong"), server.url("good")), MD5)
    assert fetch(remote).read_bytes() == CONTENT


def test_a_truncated_download_goes_on_where_it_ended(server: Server) -> None:
    server.cut = [300_000, 700_000]
    assert fetch(Remote("file.bin", (server.url("good"),), MD5)).read_bytes() == CONTENT
    assert [span for _, span in server.requests] == [None, "bytes=300000-", "bytes=700000-"]


def test_a_download_given_up_is_resumed_by_the_next_call(server: Server) -> None:
    remote = Remote("file.bin", (server.url("good"),), MD5)
    server.cut = [100_000, 200_000, 300_000]
    with pytest.raises(DataMissing, match="the connection ended before the file did"):
        fetch(remote)
    assert fetch(remote).read_bytes() == CONTENT
    assert server.requests[-1] == ("/good", "bytes=300000-")


def test_a_server_that_knows_no_ranges_sends_it_all_again(server: Server) -> None:
    server.cut = [300_000]
    assert fetch(Remote("file.bin", (server.url("plain"),), MD5)).read_bytes() == CONTENT


def test_a_leftover_longer_than_the_file_is_thrown_away(server: Server, folders: Path) -> None:
    part = folders / "cache" / "data" / "file.bin.part"
    part.parent.mkdir(parents=True)
    part.write_bytes(b"y" * (len(CONTENT) + 5))
    assert fetch(Remote("file.bin", (server.url("good"),), MD5)).read_bytes() == CONTENT


def test_a_refused_connection_is_told_in_one_line(server: Server, folders: Path) -> None:
    url = server.url("good")
    server.shutdown()
    server.server_close()
    with pytest.raises(DataMissing, match="put it at") as caught:
        fetch(Remote("file.bin", (url,), MD5))
    assert "\n" not in str(caught.value)


def test_offline_makes_no_request(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NQBENCH_OFFLINE", "1")
    with pytest.raises(DataMissing, match="NQBENCH_OFFLINE is set"):
        fetch(Remote("file.bin", (server.url("good"),), MD5))
    assert server.requests == []


def test_a_prefix_of_a_sha256_suffices(server: Server) -> None:
    digest = "sha256:" + hashlib.sha256(CONTENT).hexdigest()[:8]
    assert fetch(Remote("file.bin", (server.url("good"),), digest)).read_bytes() == CONTENT
