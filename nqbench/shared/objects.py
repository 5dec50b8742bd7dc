"""Named objects in a bucket (S3, Google Cloud Storage) or in a folder that machines mount.

An object appears whole or not at all. A folder gets it under a temporary name and then by a rename. A bucket gets it in
one request, or in parts of which nothing can be seen until one last request joins them: there a temporary name and a
copy would be a second request for nothing. Every request has an end: seconds to connect, seconds without a byte,
seconds in all.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import secrets
import shutil
import time
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeVar
from urllib.parse import unquote, urlsplit

from nqbench.api.errors import BadInput
from nqbench.secret import masked

T = TypeVar("T")

FORMS = "s3://BUCKET/PREFIX, gs://BUCKET/PREFIX or file:///FOLDER"
CONNECT, SILENT, WHOLE = 5.0, 20.0, 30.0
"""Seconds to connect, without a byte, and for a request that carries little."""
RATE = float(1 << 20)
"""Bytes a second below which a transfer is given up."""
NEW = ".new-"
_ABANDONED = 3600.0
_LINKLESS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)
"""What a file system without hard links answers to one."""


class Listed(NamedTuple):
    """modified: seconds since 1970, 0 where that is not known."""

    name: str
    size: int
    modified: float


class Objects(Protocol):
    """Names are relative, with "/". A missing object raises FileNotFoundError; what ``errors`` holds may be raised by
    everything, where it cannot be reached; PermissionError where it may not be done."""

    errors: tuple[type[Exception], ...]

    def check(self) -> None:
        """Raises where there is no such place, or it cannot be read."""
        ...

    def fetch(self, name: str, path: Path) -> None: ...

    def send(self, path: Path, name: str, *, replace: bool = False) -> bool:
        """Whether it was written: not so where it is there already and is not to be replaced."""
        ...

    def read(self, name: str) -> bytes: ...

    def create(self, name: str, data: bytes) -> bool:
        """Write what is not there yet; False where it is."""
        ...

    def write(self, name: str, data: bytes) -> None: ...

    def remove(self, name: str) -> None:
        """Whether or not it is there."""
        ...

    def list(self, folder: str = "") -> Iterator[Listed]: ...


def open_objects(url: str) -> Objects:
    """Raises BadInput where the URL, or what is installed, does not do."""
    parts = urlsplit(url)
    if "@" in parts.netloc or parts.query or parts.fragment:
        raise BadInput(f"{masked(url)}: write {FORMS}, without user, password or options")
    if parts.scheme == "file" and parts.netloc in ("", "localhost") and parts.path.strip("/"):
        return Folder(Path(unquote(parts.path)))
    if parts.scheme in ("s3", "gs") and parts.netloc:
        return Bucket(parts.scheme, f"{parts.netloc}{parts.path}".rstrip("/"))
    raise BadInput(f"{masked(url)}: expected {FORMS}")


class Folder:
    """A folder of a file system that machines mount."""

    errors: tuple[type[Exception], ...] = (OSError,)

    def __init__(self, root: Path) -> None:
        self.root = root

    def check(self) -> None:
        if not self.root.is_dir():
            raise FileNotFoundError("no such folder: is it mounted? A new one is made by hand")
        os.listdir(self.root)

    def fetch(self, name: str, path: Path) -> None:
        shutil.copyfile(self.root / name, path)

    def send(self, path: Path, name: str, *, replace: bool = False) -> bool:
        target = self.root / name
        if not replace and target.exists():
            return False
        self._publish(target, lambda new: shutil.copyfile(path, new), os.replace)
        return True

    def read(self, name: str) -> bytes:
        return (self.root / name).read_bytes()

    def create(self, name: str, data: bytes) -> bool:
        target = self.root / name
        try:  # a link appears with its content, and only where there is none
            self._publish(target, lambda new: new.write_bytes(data), os.link)
        except FileExistsError:
            return False
        except OSError as error:
            if error.errno not in _LINKLESS:
                raise
            return self._created(target, data)
        return True

    @staticmethod
    def _created(target: Path, data: bytes) -> bool:
        """Where the file system has no hard links: for a moment the object is there without its content."""
        try:
            with target.open("xb") as file:
                file.write(data)
        except FileExistsError:
            return False
        return True

    def write(self, name: str, data: bytes) -> None:
        self._publish(self.root / name, lambda new: new.write_bytes(data), os.replace)

    def _publish(self, target: Path, fill: Callable[[Path], object], publish: Callable[[Path, Path], object]) -> None:
        if not self.root.is_dir():  # a folder that is no longer mounted is not made on the disk below
            raise FileNotFoundError(f"{self.root}: no such folder")
        target.parent.mkdir(parents=True, exist_ok=True)
        new = target.with_name(f"{NEW}{secrets.token_hex(8)}")
        try:
            fill(new)
            publish(new, target)
        finally:
            new.unlink(missing_ok=True)

    def remove(self, name: str) -> None:
        (self.root / name).unlink(missing_ok=True)

    def list(self, folder: str = "") -> Iterator[Listed]:
        for path in sorted((self.root / folder).rglob("*")):
            try:
                stat = path.stat()
            except OSError:  # another machine is dropping it
                continue
            if path.name.startswith(NEW):
                if time.time() - stat.st_mtime > _ABANDONED:  # its writer was killed
                    path.unlink(missing_ok=True)
            elif path.is_file():
                yield Listed(path.relative_to(self.root).as_posix(), stat.st_size, stat.st_mtime)


class Bucket:
    """A prefix of a bucket, through fsspec. Credentials are the environment's, the user's files' or the machine's."""

    def __init__(self, scheme: str, root: str) -> None:
        self.root = root
        self._fs, self.errors = _file_system(scheme)

    def _do(self, function: Callable[..., Coroutine[Any, Any, T]], *args: Any, seconds: float = 0.0, **kw: Any) -> T:
        """A coroutine of the file system, run to its end. seconds: beyond those of a request that carries little."""
        from fsspec.asyn import sync

        found: T = sync(self._fs.loop, function, *args, timeout=WHOLE + seconds, **kw)
        return found

    def _path(self, name: str) -> str:
        return f"{self.root}/{name}" if name else self.root

    def check(self) -> None:
        try:
            self._do(self._fs._ls, self.root, detail=True, refresh=True)
        except FileNotFoundError:  # nothing under the prefix yet: is there a bucket?
            bucket = self.root.partition("/")[0]
            if bucket == self.root or not self._do(self._fs._exists, bucket):
                raise FileNotFoundError(f"no such bucket '{bucket}', or nothing that you may see") from None

    def fetch(self, name: str, path: Path) -> None:
        # how much will come is not known: it may take as long as something comes
        coming = asyncio.run_coroutine_threadsafe(self._fs._get_file(self._path(name), str(path)), self._fs.loop)
        before: tuple[int, int] | None = None
        while True:
            try:
                coming.result(WHOLE)
                return
            except TimeoutError:
                now = _written(path)
                if coming.done() or now == before:
                    coming.cancel()
                    raise
                before = now

    def send(self, path: Path, name: str, *, replace: bool = False) -> bool:
        seconds = path.stat().st_size / RATE
        target = self._path(name)
        if replace:
            self._do(self._fs._put_file, str(path), target, mode="overwrite", seconds=seconds)
            return True
        return self._new(lambda mode: self._do(self._fs._put_file, str(path), target, mode=mode, seconds=seconds), name)

    def read(self, name: str) -> bytes:
        return bytes(self._do(self._fs._cat_file, self._path(name)))

    def create(self, name: str, data: bytes) -> bool:
        return self._new(lambda mode: self._do(self._fs._pipe_file, self._path(name), data, mode=mode), name)

    def _new(self, put: Callable[[str], object], name: str) -> bool:
        """Write where nothing is; by a look before it where the server knows no condition."""
        try:
            put("create")
        except FileExistsError:
            return False
        except OSError as error:
            code = _code(error)
            if code in ("PreconditionFailed", "412", "ConditionalRequestConflict", "409"):
                return False
            if code not in ("NotImplemented", "501"):
                raise
            if self._do(self._fs._exists, self._path(name)):
                return False
            put("overwrite")
        return True

    def write(self, name: str, data: bytes) -> None:
        self._do(self._fs._pipe_file, self._path(name), data)

    def remove(self, name: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            self._do(self._fs._rm_file, self._path(name))

    def list(self, folder: str = "") -> Iterator[Listed]:
        found = self._do(self._fs._find, self._path(folder), detail=True, seconds=600.0)
        for path, told in sorted(found.items()):
            modified = told.get("LastModified") or told.get("mtime") or told.get("updated")
            when = modified.timestamp() if hasattr(modified, "timestamp") else 0.0
            yield Listed(path.removeprefix(f"{self.root}/"), int(told.get("size") or 0), when)


def _written(path: Path) -> tuple[int, int] | None:
    """What changes while a file is written."""
    try:
        return path.stat().st_size, path.stat().st_mtime_ns
    except OSError:
        return None


def _file_system(scheme: str) -> tuple[Any, tuple[type[Exception], ...]]:
    """fsspec's file system with bounded requests, and what it raises beside OSError."""
    import aiohttp

    if scheme == "s3":
        try:
            import s3fs
            from botocore.exceptions import BotoCoreError, ClientError
        except ImportError:
            raise BadInput('a cache in s3:// needs s3fs: pip install "nqbench[cluster]"') from None
        limits = {"connect_timeout": CONNECT, "read_timeout": SILENT, "retries": {"max_attempts": 2}}
        fs = s3fs.S3FileSystem(config_kwargs=limits, use_listings_cache=False, skip_instance_cache=True)
        fs.retries = 2
        return fs, (OSError, BotoCoreError, ClientError, aiohttp.ClientError)
    try:
        import gcsfs
        from gcsfs.retry import HttpError
        from google.auth.exceptions import GoogleAuthError
    except ImportError:
        raise BadInput("a cache in gs:// needs gcsfs: pip install gcsfs") from None
    fs = gcsfs.GCSFileSystem(use_listings_cache=False, requests_timeout=SILENT)
    return fs, (OSError, HttpError, GoogleAuthError, aiohttp.ClientError)


def _code(error: BaseException) -> str:
    """A server's own code of an error that fsspec has made an OSError of."""
    for one in (error, error.__cause__, error.__context__):
        response = getattr(one, "response", None)
        if isinstance(response, dict):
            return str(response.get("Error", {}).get("Code", ""))
        if getattr(one, "code", None) is not None:
            return str(one.code)  # type: ignore[union-attr]
    return ""
