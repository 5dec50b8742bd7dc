"""The packages that registered plugins: which files they are of, and where they are had."""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import json
from collections.abc import Iterable, Mapping
from pathlib import Path

from nqbench.api.errors import BadInput
from nqbench.board.manifest import Distribution
from nqbench.registry import GROUP

_HOMES = ("source", "repository", "source code", "homepage", "home", "code", "github")
"""Labels of a package's URLs that say where its code is, best first."""


def distributions(names: Iterable[str], given: Mapping[str, str]) -> tuple[Distribution, ...]:
    """These distributions as a submission lists them. given: where some are had, as the submitter says it.

    Raises BadInput for one that is given a place and is not among them.
    """
    wanted = sorted(set(names))
    if unknown := set(given) - set(wanted):
        raise BadInput(f"--where {min(unknown)}: no plugin of the rows is from that package; it is {', '.join(wanted)}")
    return tuple(_described(name, given.get(name)) for name in wanted)


def _described(name: str, given: str | None) -> Distribution:
    try:
        found = importlib.metadata.distribution(name)
    except importlib.metadata.PackageNotFoundError:
        raise BadInput(f"the rows were made with the package {name}, which is not installed here any more") from None
    return Distribution(name=name, version=found.version, sha256=_digest(found), source=given or _source(found))


def _digest(found: importlib.metadata.Distribution) -> str | None:
    """SHA-256 over the Python files of the packages that its entry points name: a line ``<sha256>  <path>`` for
    each, in the order of the paths. None where they are not files."""
    tops = {entry.module.partition(".")[0] for entry in found.entry_points if entry.group == GROUP}
    lines = []
    for top in tops | ({found.metadata["Name"]} if found.metadata["Name"] == GROUP else set()):
        spec = importlib.util.find_spec(top)
        if spec is None or spec.origin is None:
            return None
        base = Path(spec.origin)
        files = sorted(base.parent.rglob("*.py")) if spec.submodule_search_locations else [base]
        root = base.parent.parent if spec.submodule_search_locations else base.parent
        for path in files:
            lines.append((path.relative_to(root).as_posix(), hashlib.sha256(path.read_bytes()).hexdigest()))
    return hashlib.sha256("".join(f"{sha}  {name}\n" for name, sha in sorted(lines)).encode()).hexdigest()


def _source(found: importlib.metadata.Distribution) -> str | None:
    """Where it was installed from (PEP 610), else where its metadata say that it is; None where neither tells."""
    text = found.read_text("direct_url.json")
    if text is None and found.read_text("INSTALLER"):
        return f"pip install {found.metadata['Name']}=={found.version}"
    origin = json.loads(text) if text else {}
    url = str(origin.get("url", ""))
    if url.startswith("https://") and "@" not in url:
        commit = origin.get("vcs_info", {}).get("commit_id")
        return f"git+{url}@{commit}" if commit else url
    labels = {}
    for line in found.metadata.get_all("Project-URL") or []:
        label, _, place = line.partition(",")
        labels[label.strip().lower()] = place.strip()
    return next((labels[name] for name in _HOMES if labels.get(name, "").startswith("https://")), None)
