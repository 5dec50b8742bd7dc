"""Functions that a suite names, imported from its folder; anew where a file of them was edited in between.

In a notebook many runs are of one process. What is in a run's keys is the code in the files, so that this is what has
to run. Edited files are looked for where a fingerprint is made, not at each call: one evaluation is of one code.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

from nqbench.api import BadInput

_When = tuple[int, int, int]
_read: dict[str, dict[str, tuple[Path, _When]]] = {}
"""folder -> the names of modules that were imported from it, their files, and of when these were."""


def forget_edited(folder: str) -> None:
    """Forget all that was imported from a folder if a file of it is another one now: modules hold each other's
    functions."""
    known = _read.get(folder, {})
    if all(_when(file) == when for file, when in known.values()):
        return
    for name, (file, _) in known.items():
        if _file_of(sys.modules.get(name)) == file:
            del sys.modules[name]
        # compiled code counts as that of a file of the same size and second
        with contextlib.suppress(OSError, NotImplementedError):
            Path(importlib.util.cache_from_source(str(file))).unlink()
    del _read[folder]
    imported.cache_clear()
    importlib.invalidate_caches()


@cache
def imported(text: str, folder: str) -> Callable[..., Any]:
    """The function ``package.module:function``. Raises BadInput if there is none."""
    name, _, attribute = text.partition(":")
    if not name or not attribute:
        raise BadInput(f"model 'module': '{text}' names no function: write package.module:function (mine:network)")
    if folder in sys.path:
        sys.path.remove(folder)
    sys.path.insert(0, folder)
    _forget_other(name.partition(".")[0], Path(folder))
    before = set(sys.modules)
    try:
        found = getattr(importlib.import_module(name), attribute)
    except (ImportError, AttributeError) as error:
        reason = " ".join(str(error).split())
        raise BadInput(f"model 'module': {text} cannot be imported from {folder}: {reason}") from None
    finally:
        _note(name, folder, before)
    if not callable(found):
        raise BadInput(f"model 'module': {text} is not a function")
    checked: Callable[..., Any] = found
    return checked


def _note(name: str, folder: str, before: set[str]) -> None:
    """Note of when the files are that an import has read. before: the names of all modules before it.

    Installed packages are none of the user's, even if they lie in the folder, and parts of a package that was there
    before belong to it.
    """
    own = name.partition(".")[0]
    known = _read.setdefault(folder, {})
    for each, module in list(sys.modules.items()):
        top, file = each.partition(".")[0], _file_of(module)
        if file is None or each in known or not (top == own or (each not in before and top not in before)):
            continue
        if file.is_relative_to(folder) and "site-packages" not in file.parts:
            known[each] = file, _when(file)


def _file_of(module: ModuleType | None) -> Path | None:
    file = getattr(module, "__file__", None)
    return None if file is None else Path(file).resolve()


def _when(file: Path) -> _When:
    try:
        stat = file.stat()
    except OSError:  # it is no more
        return 0, 0, 0
    return stat.st_mtime_ns, stat.st_ctime_ns, stat.st_size


def _forget_other(name: str, folder: Path) -> None:
    """Forget a module of the same name that was imported from another suite's folder."""
    known = sys.modules.get(name)
    here = [path for path in (folder / f"{name}.py", folder / name / "__init__.py") if path.is_file()]
    file = getattr(known, "__file__", None)
    if known is not None and here and file is not None and Path(file).resolve() != here[0].resolve():
        for loaded in [key for key in sys.modules if key == name or key.startswith(f"{name}.")]:
            del sys.modules[loaded]
        importlib.invalidate_caches()
