"""What is kept to be read again - tensors, or text - so that what comes back is what was written, or nothing.

A safetensors file has no checksum: a flipped bit in it is another number. A sealed one says the SHA-256 of its tensors
and the CRC-32 of all else that it says; sealed text begins with a line that has the CRC-32 of its name and of itself.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from nqbench.api.errors import BadInput
from nqbench.api.plain import apart
from nqbench.api.toolkit.content import content_hash
from nqbench.api.toolkit.paths import written_whole

CONTENT, SEAL = "sha256", "crc32"
"""What a file says of its tensors, and of all else that it says."""


def contents(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """As they lie in a file: plain, no two in the same memory, in the order of their names; safetensors keeps none."""
    return apart(dict(sorted(tensors.items())))


def seal(path: Path, tensors: Mapping[str, Tensor], about: Mapping[str, str]) -> None:
    """Write tensors, and texts by name, whole or not at all. Raises OSError."""
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    plain = contents(tensors)
    said = {**about, CONTENT: content_hash(plain)}
    with written_whole(path) as temporary:
        try:
            save_file(plain, temporary, metadata={**said, SEAL: _crc(said)})
        except SafetensorError as error:  # a full disk, for one
            raise OSError(f"{path}: {line(error)}") from None


def unseal(path: Path, *, open_too: bool = False) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors in the order of their names, and the texts. open_too: a file without seals is taken at its word.

    Raises FileNotFoundError; BadInput, with the file's name, where it is not what was written.
    """
    from safetensors import SafetensorError, safe_open

    about = said_of(path)
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in sorted(file.keys())}
    except (OSError, SafetensorError, ValueError) as error:
        raise BadInput(f"{path}: is damaged: {line(error)}") from None
    if not open_too and (CONTENT not in about or SEAL not in about):
        raise BadInput(f"{path}: says no checksum of itself")
    if about.get(CONTENT) not in (None, content_hash(tensors)):
        raise BadInput(f"{path}: is damaged: its tensors are not those that were written")
    if about.pop(SEAL, None) not in (None, _crc(about)):
        raise BadInput(f"{path}: is damaged: what it says of its tensors is not what was written")
    return tensors, about


def said_of(path: Path) -> dict[str, str]:
    """The texts alone, seals among them, unchecked. Raises FileNotFoundError; BadInput where there are none to read."""
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise FileNotFoundError(path)
    try:
        with safe_open(path, framework="pt") as file:
            return dict(file.metadata() or {})
    except (OSError, SafetensorError, ValueError) as error:
        raise BadInput(f"{path}: is no safetensors file, or a damaged one: {line(error)}") from None


def seal_text(path: Path, text: str) -> None:
    """Write text whole or not at all. Raises OSError."""
    data = text.encode()
    with written_whole(path) as temporary:
        temporary.write_bytes(b"%08x\n" % zlib.crc32(data, zlib.crc32(path.name.encode())) + data)


def unseal_text(path: Path) -> str | None:
    """The text; None where there is none, or another than was written there."""
    try:
        crc, _, data = path.read_bytes().partition(b"\n")
        return data.decode() if int(crc, 16) == zlib.crc32(data, zlib.crc32(path.name.encode())) else None
    except (OSError, ValueError):
        return None


def _crc(said: Mapping[str, str]) -> str:
    return f"{zlib.crc32(json.dumps(dict(sorted(said.items()))).encode()):08x}"


def line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
