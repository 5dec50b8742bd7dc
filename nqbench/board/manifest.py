"""What a submission says: ``manifest.json``, as data that was checked field by field.

Nothing in it is believed because it is said. A board decodes and evaluates every file itself; what it cannot check
(who, which settings made a file, the submitter's environment) is kept as said by the submitter. What is said is text
and numbers: no code, no absolute path, nothing that a terminal or a page would obey.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Iterator, Mapping
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from nqbench.api.errors import BadInput
from nqbench.api.toolkit.parsing import parse_json
from nqbench.board.bundle import MANIFEST, SUITE, BadBundle, Bundle, file_name
from nqbench.registry import NAME
from nqbench.results.record import KINDS, Record

VERSION = 1
_HIDDEN = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}
"""Unicode's categories of what cannot be seen: controls, marks of direction, joiners, halves of pairs, private use."""
_ENVIRONMENT = (
    "nqbench", "python", "libraries", "plugins", "os", "cpu", "cores", "machine", "gpu", "hardware", "git_revision",
    "device", "threads", "jobs",
)  # fmt: skip
"""What a submission tells of the machine; nothing else of a record's environment leaves it."""


def hidden(text: str) -> str | None:
    """The first character of a text that a reader would not see; None where there is none."""
    found = next((character for character in text if unicodedata.category(character) in _HIDDEN), None)
    return None if found is None else f"the character U+{ord(found):04X}, which cannot be seen"


def _plain(text: str) -> str:
    if found := hidden(text):
        raise ValueError(f"holds {found}")
    if unicodedata.normalize("NFKC", text) != text:
        raise ValueError("holds characters that are other spellings of plain ones (Unicode's form NFKC is expected)")
    return text


Text = Annotated[str, Field(max_length=200), AfterValidator(_plain)]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


def _read(value: Any) -> Any:
    """A record of any version that is read, from plain values."""
    return Record.from_dict(value) if isinstance(value, Mapping) else value


AnyRecord = Annotated[Record, BeforeValidator(_read)]


class _Said(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)


_PLACE = r"^(https://|git\+https://|pip install )[!-~ ]+$"


class Distribution(_Said):
    """A package that registered plugins where the rows were made."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")]
    version: Annotated[str, Field(pattern=r"^[A-Za-z0-9.!+_-]{1,60}$")]
    sha256: Sha256 | None = None
    """Of its Python files: names and contents (``nqbench.board.distributions``)."""
    source: Annotated[str, Field(max_length=300, pattern=r"^(https://|git\+https://|pip install )[!-~ ]+$")] | None = (
        None
    )
    """Where it is had."""


class Entry(_Said):
    size: int = Field(ge=0)
    sha256: Sha256


class Said(_Said):
    """One row: a record, and the file that it is of."""

    record: AnyRecord
    file: Sha256


class Manifest(_Said):
    nqs: int = VERSION
    """Version of the form."""
    created: Annotated[str, Field(pattern=r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(\+00:00|Z)$")]
    licence: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9.+ ()-]{0,99}$")]
    """Under which the files and figures are given, by its SPDX identifier."""
    who: Text | None = None
    suite: Text = ""
    """The suite's name."""
    profile: Text | None = None
    distributions: tuple[Distribution, ...] = ()
    rows: tuple[Said, ...] = Field(min_length=1, max_length=10_000)
    entries: dict[str, Entry]
    """Every other entry of the archive."""


def read_manifest(bundle: Bundle) -> tuple[Manifest, str]:
    """What a submission says, and its suite's text. Every entry's size and hash are checked. Raises BadBundle."""
    try:
        content = parse_json(bundle.read(MANIFEST))
        if isinstance(content, dict) and content.get("nqs") != VERSION:
            raise BadBundle(f"has version {str(content.get('nqs'))[:20]}; this nqbench reads {VERSION}")
        manifest = Manifest.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise BadBundle(f"{bundle.path}: {MANIFEST}: {place}: {first['msg']}".replace("\n", " ")) from None
    except (ValueError, BadInput) as error:
        raise BadBundle(f"{bundle.path}: {MANIFEST}: {error}") from None
    try:
        _check_entries(bundle, manifest)
        text = bundle.read(SUITE).decode() if SUITE in bundle.entries else ""
    except UnicodeDecodeError:
        raise BadBundle(f"{bundle.path}: {SUITE} is no UTF-8 text") from None
    except BadBundle as error:
        raise BadBundle(f"{bundle.path}: {error}".replace(f"{bundle.path}: {bundle.path}", str(bundle.path))) from None
    return manifest, text


def _check_entries(bundle: Bundle, manifest: Manifest) -> None:
    """Raises BadBundle where entries, list and rows are not of one another."""
    import hashlib

    there = set(bundle.entries) - {MANIFEST}
    if there != set(manifest.entries):
        name = min(there ^ set(manifest.entries))
        raise BadBundle(f"the entry {name[:100]!r} is {'not listed' if name in there else 'listed and missing'}")
    wanted = {file_name(row.file) for row in manifest.rows}
    if wanted != there - {SUITE}:
        name = min(wanted ^ (there - {SUITE}))
        raise BadBundle(f"'{name}' is {'the file of a row, and missing' if name in wanted else 'the file of no row'}")
    for name, entry in manifest.entries.items():
        found = bundle.entries[name].size
        if found != entry.size:
            raise BadBundle(f"the entry '{name}' has {found} bytes, its list says {entry.size}")
        if hashlib.sha256(bundle.read(name)).hexdigest() != entry.sha256:
            raise BadBundle(f"the entry '{name}' has another SHA-256 than its list says")
        if name != SUITE and name != file_name(entry.sha256):
            raise BadBundle(f"the entry '{name}' is not named by its SHA-256, {entry.sha256}")


# -- what a record may say -------------------------------------------------------------------------------------------
def portable(record: Record) -> Record:
    """A record as it may be handed on: of its environment what tells versions and hardware; no path of its run."""
    told = {name: record.environment[name] for name in _ENVIRONMENT if name in record.environment}
    return record.model_copy(update={"environment": told, "file": None, "error": None, "samples": {}})


def objection(record: Record) -> str | None:
    """Why a row of this record can stand on no board, whatever its file holds; None if nothing is in the way."""
    if not record.ok:
        return f"its trial did not end well: {record.status}"
    if record.metric_name is None or record.metric is None:
        return "it has no metric on the test split: a board ranks by what a decoded network does"
    for kind in KINDS:
        for name in str(getattr(record, kind) or "").split("+"):
            if name and not NAME.fullmatch(name):
                return f"its {kind} has the name {name[:60]!r}: letters, digits, '.', '_' and '-' are allowed"
    for place, text in strings(record.to_dict()):
        if found := hidden(text):
            return f"its {place} holds {found}"
        if is_outside(text):
            return f"its {place} is a path of a machine ({text[:60]!r}): name files relative to the suite"
    return None


_PATH = re.compile(r"(~|[A-Za-z]:)?[/\\].*|(.*[/\\])?\.\.([/\\].*)?", re.DOTALL)


def is_outside(text: str) -> bool:
    """Whether a parameter's text is a path that leaves the suite's folder: absolute, of a home, or through ``..``."""
    return bool(_PATH.fullmatch(text)) or text.startswith("file:")


def strings(value: Any, place: str = "") -> Iterator[tuple[str, str]]:
    """(where, text) of every text in plain data, names of fields included; base64 of the examples left out."""
    if isinstance(value, str):
        yield place, value
    elif isinstance(value, Mapping):
        for name, inner in value.items():
            if place or name not in ("correct", "values"):
                inside = f"{place}.{name}" if place else str(name)
                yield f"{place or 'record'}'s name", str(name)
                yield from strings(inner, inside)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from strings(inner, place)


def manifest_text(manifest: Manifest) -> bytes:
    """As the archive has it: one row a line, so that it can be read."""
    content = json.loads(manifest.model_dump_json())
    rows = ",\n".join(json.dumps(row, ensure_ascii=True) for row in content.pop("rows"))
    head = [f"{json.dumps(name)}: {json.dumps(value)}" for name, value in content.items()]
    return ("{" + ",\n".join([*head, f'"rows": [\n{rows}\n]']) + "}\n").encode("ascii")
