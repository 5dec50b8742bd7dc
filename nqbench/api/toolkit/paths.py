"""Where data are found and where trained weights and downloads are kept."""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from nqbench.api.errors import BadInput, DataMissing


def cache_dir() -> Path:
    """The folder for what can be made anew: the environment variable NQBENCH_CACHE, else the user's cache folder."""
    return _folder("NQBENCH_CACHE")


def data_dir() -> Path:
    """The folder for data sets and given weights: NQBENCH_DATA, else ``data`` in the user's cache folder.

    Its layout is torchvision's (``MNIST/raw``, ``cifar-10-batches-py``), so a user's own download serves as well.
    """
    chosen = os.environ.get("NQBENCH_DATA")
    return Path(chosen).expanduser() if chosen else cache_dir() / "data"


def find_data(name: str) -> Path | None:
    """The file or folder of that name in the data folder, or among earlier downloads; None if it is in neither."""
    for root in (data_dir(), cache_dir() / "data"):
        if (root / name).exists():
            return root / name
    return None


def require_data(names: Iterable[str], purpose: str) -> None:
    """Raises DataMissing with one line that says which files to put where, unless all are there."""
    missing = [name for name in names if find_data(name) is None]
    if missing:
        raise DataMissing(f"{purpose} needs {', '.join(missing)} in {data_dir()} (NQBENCH_DATA names another folder)")


_suite_folder: list[Path] = []


def set_suite_folder(folder: Path | None) -> None:
    """From now on, in this process, what a suite names by a relative path is looked for in this folder, the suite
    file's own; None: in the working folder."""
    _suite_folder[:] = [] if folder is None else [folder.resolve()]


def suite_folder() -> Path | None:
    """The folder that ``set_suite_folder`` named."""
    return _suite_folder[0] if _suite_folder else None


def in_suite_folder(name: str) -> Path:
    """The path of a file or folder that a suite names: relative to the suite's file. ``~`` is the user's home."""
    return Path(*_suite_folder) / Path(name).expanduser()


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """A temporary path beside ``path`` that takes its name when the block ends well: never a half-written file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.unlink(missing_ok=True)  # of a process of this id that was killed, or a link that somebody put there
        temporary.touch(exist_ok=False)
        mode = temporary.stat().st_mode
        yield temporary
        temporary.chmod(mode)  # safetensors makes files that only their owner may read
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def writable(path: Path) -> None:
    """Make the folder of a file that is to be written, and see that it takes a file. Raises BadInput, for a folder too:
    hours of work should not end with a file that has no place."""
    try:
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise BadInput(f"{path}: cannot be written ({reason(error)}); choose another output") from None


def reason(error: OSError) -> str:
    """What the system says of a file that cannot be written, without its path; some libraries put all into one text."""
    return error.strerror or str(error).rpartition(": ")[2]


def _folder(variable: str) -> Path:
    chosen = os.environ.get(variable)
    if chosen:
        return Path(chosen).expanduser()
    from platformdirs import user_cache_dir

    return Path(user_cache_dir("nqbench"))
