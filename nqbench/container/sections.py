"""A file taken apart: its header and its sections, every checksum verified, no plugin asked."""

from __future__ import annotations

import os
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from nqbench.api import BadInput, CorruptFile
from nqbench.api.toolkit.parsing import read_file
from nqbench.api.toolkit.paths import reason
from nqbench.container.header import SECTIONS, Header
from nqbench.container.memory import machine_memory
from nqbench.container.raw import buffers_of
from nqbench.container.unpacking import unpack


@dataclass(frozen=True, eq=False)
class Sections:
    """A file whose checksums hold."""

    header: Header
    data: Mapping[str, bytes]
    file_bytes: int

    @property
    def parts(self) -> dict[str, int]:
        """Bytes by part, as a record lists them."""
        parts = {name: len(self.data[name]) for name in SECTIONS}
        return {"header": self.file_bytes - sum(parts.values()), **parts}

    @property
    def buffers(self) -> dict[str, int]:
        """Of the part ``raw_buffers``, the bytes of each tensor."""
        return buffers_of(self.header)


def read_sections(path: str | os.PathLike[str]) -> Sections:
    """Header and sections, checksums verified. Raises CorruptFile, or BadInput where there is no such file."""
    path = Path(path)
    try:
        data = read_file(path, most=machine_memory() // 2)
    except OSError as error:
        raise BadInput(f"{path}: {reason(error)}") from None
    try:
        return sections_of(data)
    except CorruptFile as error:
        raise error.at(path=str(path)) from None


def sections_of(data: bytes) -> Sections:
    """The same of a file's bytes."""
    header, at = unpack(data)
    sections = dict.fromkeys(SECTIONS, b"")
    last = "header"
    for name, size in zip(SECTIONS, header.sections, strict=True):
        if not size:
            continue
        left = len(data) - at
        if left < size + 4:
            raise CorruptFile(
                f"the file is truncated: {size + 4} bytes expected, {left} left", section=name, offset=left
            )
        sections[name] = data[at : at + size]
        stored = int.from_bytes(data[at + size : at + size + 4], "little")
        if zlib.crc32(sections[name]) != stored:
            raise CorruptFile("checksum mismatch: the section is damaged", section=name)
        at, last = at + size + 4, name
    if at != len(data):
        raise CorruptFile(f"{len(data) - at} bytes follow the end of this, the last section", section=last)
    return Sections(header, sections, len(data))
