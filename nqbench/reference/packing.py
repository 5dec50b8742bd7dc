"""Making a release of what is published: its files under names without folders, and the list of them, made anew."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

from nqbench.api import BadInput
from nqbench.api.toolkit.download import digest_of
from nqbench.api.toolkit.paths import reason, written_whole
from nqbench.reference.bundle import Bundle, Entry
from nqbench.reference.halving import halve

NETWORKS, WHOLE = "networks", "networks-float32"
"""Folders of the halves, and of what they were made from."""
HEAD = """\
# What is published and too large for the tree: the page of each folder of reports/reference, and networks that take
# hours to train, as they were made (networks-float32) and in float16 with their masks (networks).
#
#     nqbench reference fetch quickstart networks     # checked by hash, into reports/reference
#
# Made by `nqbench reference pack`. Sources are tried in order: git: is this clone's own history, {path} a file's path
# in the commit's tree, {asset} its name in a release (/ as --). A half that no source has is made from the whole file.
"""


def pack(bundle: Bundle, reference: Path, folder: Path) -> Bundle:
    """Copy every file of the bundle, and every page and network that is new below ``reference``, into ``folder`` under
    the name that a release has for it. Returns the bundle that lists them.

    Halves of networks are made where they are missing. What was listed and is not there stays listed. Raises BadInput
    where a folder cannot be written, or where nothing is there to be packed.
    """
    listed = {file.name: file for file in bundle.files}
    try:
        for path in _whole_networks(reference):
            half = reference / NETWORKS / path.name
            if not half.exists():
                with written_whole(half) as temporary:
                    temporary.write_bytes(halve(path))
        packed = [_entry(path, reference) for path in _publishable(reference)]
        if not packed:
            raise BadInput(f"{reference}: no page and no network is there to be packed; fetch or make them first")
        folder.mkdir(parents=True, exist_ok=True)
        for entry in packed:
            with written_whole(folder / entry.asset) as temporary:
                shutil.copyfile(reference / entry.name, temporary)
    except OSError as error:
        raise BadInput(f"{folder}: cannot be packed: {reason(error)}") from None
    # a file that is what it was is had where it was
    listed |= {e.name: e for e in packed if (was := listed.get(e.name)) is None or was.sha256 != e.sha256}
    files = sorted(listed.values(), key=lambda file: file.name)
    return bundle.model_copy(update={"files": tuple(files)})


def write_bundle(bundle: Bundle, path: Path) -> None:
    """As YAML that a person can read, a line a file."""
    lines = [HEAD.rstrip(), f'commit: "{bundle.commit}"', "sources:"]
    lines += [f'  - "{source}"' for source in bundle.sources] or ["  []"]
    lines.append("files:")
    for file in bundle.files:
        halves = "".join(
            f", {key}: {_quoted(key, value)}" for key in ("path", "commit", "halves") if (value := getattr(file, key))
        )
        lines.append(f'  - {{name: {file.name}, bytes: {file.bytes}{halves},\n     sha256: "{file.sha256}"}}')
    lines += [] if bundle.files else ["  []"]
    with written_whole(path) as temporary:
        temporary.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _quoted(key: str, value: str) -> str:
    # a commit of digits alone, or with an e among them, would be a number
    return f'"{value}"' if key == "commit" else value


def checksums(bundle: Bundle) -> str:
    """As ``sha256sum`` writes it, for a release's page."""
    return "".join(f"{file.sha256}  {file.asset}\n" for file in bundle.files)


def _publishable(reference: Path) -> Iterator[Path]:
    """Pages of runs, and networks with their halves."""
    yield from sorted(reference.rglob("index.html"))
    for name in (NETWORKS, WHOLE):
        yield from sorted((reference / name).glob("*.safetensors"))


def _whole_networks(reference: Path) -> Iterator[Path]:
    yield from sorted((reference / WHOLE).glob("*.safetensors"))


def _entry(path: Path, reference: Path) -> Entry:
    name = path.relative_to(reference).as_posix()
    halved = name.startswith(f"{NETWORKS}/") and (reference / WHOLE / path.name).exists()
    return Entry(
        name=name,
        bytes=path.stat().st_size,
        sha256=digest_of(path, "sha256"),
        halves=f"{WHOLE}/{path.name}" if halved else "",
    )
