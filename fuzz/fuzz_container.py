"""Fuzzes the container's reader: files that are damaged and whose checksums are right again.

    python fuzz/fuzz_container.py --files 100000 --keep failures/

takes the golden files apart, damages one section of one (flips, truncations, insertions, splices with another file's,
lying lengths and counts; for the header also the fields of its dataclasses), makes lengths and checksums agree again,
and decodes. With ``--progress FILE`` it goes on where it was stopped: the file holds, for each section, how many were
tried and what came of them, and each further ``--files`` are others. Allowed are a state of just the shapes and dtypes
that the header promises, or one line of ``CorruptFile`` with its section, or of ``NotRegistered``; within a second of
CPU time, without a warning, and within the memory that ``nqbench.container.decode`` states (address space is limited to
it). What breaks a rule is kept; exit code 1.
"""
# ruff: noqa: T201 - a script

from __future__ import annotations

import argparse
import dataclasses
import json
import random
import resource
import sys
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "tests" / "container")]

import torch  # noqa: E402 - the folder of the kit first
from nqz_kit import kit_registry  # noqa: E402

from nqbench.api import BadInput, CorruptFile, NotRegistered  # noqa: E402
from nqbench.api.granularity import BYS  # noqa: E402
from nqbench.api.structure import ARRAYS  # noqa: E402
from nqbench.api.tables import RULES  # noqa: E402
from nqbench.container import SECTIONS, Sections, decode, sections_of  # noqa: E402
from nqbench.container.fields import CONTROL  # noqa: E402
from nqbench.container.header import DTYPES, FORMS, STREAMS, Header, StreamEntry  # noqa: E402
from nqbench.container.packing import crc, frame, pack  # noqa: E402
from nqbench.container.unpacking import unframe  # noqa: E402

LIMIT = 4 << 20
"""Bytes of tensors that a file may stand for: a million weights still decode in far less than a second."""
MEMORY = 10 * LIMIT + (56 << 20)
"""Bytes beyond what the process has: the stated multiple, and a coder's tables."""
NUMBERS = (
    0, 1, 2, 3, 5, 7, 8, 15, 16, 31, 32, 33, 127, 128, 255, 256, 1000, 65535, 65536, 150_000, 1 << 20, (1 << 20) + 1,
    (1 << 24) - 1, 1 << 24, (1 << 24) + 1, (1 << 31) - 1, 1 << 31, 1 << 32, 1 << 40, 1 << 47, 1 << 48, 1 << 49, 1 << 62,
    (1 << 63) - 1,
)  # fmt: skip
NAMES = (*FORMS, *STREAMS, *BYS, *ARRAYS, *RULES)
SHAPES = (
    (1 << 20,), (1000, 1000), (100, 100, 100), (1 << 10, 1 << 11), (0, 1 << 47), (1 << 24, 1 << 24, 0), (1,) * 32, (0,),
    (1 << 31, 1 << 31), (1 << 63, 2), (900_000, 1), (1 << 16, 15), (), (3, 7),
)  # fmt: skip
TEXTS = ("", "raw", "huffman", "kit-bitmap", "kit-merged", "nobody", "codebook", "scale", "seed", "\n", "x" * 300, "{}",
         '{"levels":0}', "[", "[" * 9000, '{"dictionary_bits":99}', "null", "ü")  # fmt: skip


# -- damage --------------------------------------------------------------------------------------------------------
def damage(data: bytes, other: bytes, rng: random.Random) -> bytes:
    """One to three changes of a byte string; ``other`` is spliced in."""
    out = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        at = rng.randrange(len(out) + 1)
        kind = rng.randrange(9)
        if kind <= 2 and out:
            out[at % len(out)] ^= 1 << rng.randrange(8)
        elif kind == 3 and out:
            out[at % len(out)] = rng.choice((0, 1, 127, 128, 255, rng.randrange(256)))
        elif kind == 4:
            del out[at:]
        elif kind == 5:
            del out[at : at + rng.randrange(1, 9)]
        elif kind == 6:
            out[at:at] = rng.choice((rng.randbytes(rng.randrange(1, 9)), b"\xff" * rng.randrange(1, 12), out[:at]))
        elif kind == 7 and other:
            start = rng.randrange(len(other))
            out[at : at + rng.choice((0, 4, 1 << 20))] = other[start : start + rng.randrange(1, 40)]
        else:
            out[at : at + 8] = rng.randbytes(min(8, len(out) - at))
    return bytes(out)


def damage_same_size(data: bytes, other: bytes, rng: random.Random) -> bytes:
    """The same, cut or filled up to the size it had."""
    changed = damage(data, other, rng)[: len(data)]
    return changed + rng.randbytes(len(data) - len(changed))


def damage_fields(value: Any, other: Any, rng: random.Random) -> Any:
    """A header, or any part of one, with one of its fields changed; ``other``: the same field of another header."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = dataclasses.fields(value)
        weights = [4 if field.name in ("tensors", "groups", "shape", "structure") else 1 for field in fields]
        field = rng.choices(fields, weights)[0].name
        theirs = getattr(other, field, None)
        return dataclasses.replace(value, **{field: damage_fields(getattr(value, field), theirs, rng)})
    if isinstance(value, tuple) and rng.random() < 0.8 and value:
        at = rng.randrange(len(value))
        theirs = other[at % len(other)] if isinstance(other, tuple) and other else None
        return (*value[:at], damage_fields(value[at], theirs, rng), *value[at + 1 :])
    if isinstance(value, tuple):
        pool = [*value, *(other if isinstance(other, tuple) else ())]
        at = rng.randrange(len(value) + 1)
        return rng.choice(
            (value[:at], (*value[:at], *value[at + 1 :]), (*value[:at], *pool[:1], *value[at:]), value[::-1])
        )
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return rng.choice((rng.choice(NUMBERS), value + 1, max(value - 1, 0), value * 2, rng.randrange(64)))
    if isinstance(value, str):
        return rng.choice(NAMES) if value in NAMES else rng.choice(TEXTS)
    if isinstance(value, torch.dtype):
        return rng.choice(DTYPES)
    return other if value is None else None


def repaired(header: Header, data: dict[str, bytes]) -> Header:
    """The header with the sizes of these sections: the last stream's table and payload take up the difference."""
    streams = list(header.streams)
    if streams:
        table = len(data["coder_table"]) - sum(s.table for s in streams[:-1])
        payload = len(data["symbols"]) - sum(s.payload for s in streams[:-1])
        streams[-1] = StreamEntry(max(table, 0), max(payload, 0))
    entry = header.positions_entry
    if entry is not None:
        table = min(entry.table, len(data["positions"]))
        entry = dataclasses.replace(entry, table=table, payload=len(data["positions"]) - table)
    sizes = tuple(len(data[name]) for name in SECTIONS)
    return dataclasses.replace(header, streams=tuple(streams), positions_entry=entry, sections=sizes)


def assemble(framed: bytes, data: dict[str, bytes]) -> bytes:
    """A file with right checksums."""
    return framed + b"".join(data[name] + crc(data[name]) for name in SECTIONS if data[name])


class Corpus:
    """The golden files, taken apart."""

    def __init__(self, files: Sequence[bytes]) -> None:
        self.files = [(unframe(file)[0], sections_of(file)) for file in files]

    def damaged(self, section: str, rng: random.Random) -> bytes:
        """A file whose ``section`` is not what it was."""
        while True:
            plain, whole = rng.choice(self.files)
            other_plain, other = rng.choice(self.files)
            data = dict(whole.data)
            try:
                if section == "header":
                    framed = self._framed(plain, whole, other_plain, other, rng)
                    if rng.random() < 0.1:  # lies about sizes, and what deflate cannot have written
                        framed = damage(frame(plain, whole.header.version)[:-4], frame(other_plain, 2), rng)
                        framed += crc(framed)
                    return assemble(framed, data)
                if not data[section] and rng.random() < 0.9:
                    continue
                way = damage_same_size if section.startswith("raw") and rng.random() < 0.8 else damage
                data[section] = way(data[section], other.data[section], rng)
                header = repaired(whole.header, data)
                if rng.random() < 0.2:  # lies about what the section holds
                    header = repaired(damage_fields(header, other.header, rng), data)
                return assemble(pack(header), data)
            except (ValueError, OverflowError, UnicodeEncodeError, AttributeError, TypeError, BadInput):
                continue  # such a header has no bytes

    def _framed(self, plain: bytes, whole: Sections, other_plain: bytes, other: Sections, rng: random.Random) -> bytes:
        version = whole.header.version if rng.random() < 0.97 else rng.randrange(4)
        if rng.random() < 0.4:
            return frame(damage(plain, other_plain, rng), version)
        header = whole.header
        if rng.random() < 0.1 and header.tensors:
            at = rng.randrange(len(header.tensors))
            grown = dataclasses.replace(header.tensors[at], shape=rng.choice(SHAPES))
            return pack(dataclasses.replace(header, tensors=(*header.tensors[:at], grown, *header.tensors[at + 1 :])))
        for _ in range(rng.choice((1, 1, 2, 4))):
            header = damage_fields(header, other.header, rng)
        return pack(repaired(header, dict(whole.data)) if rng.random() < 0.6 else header)


# -- judgement -----------------------------------------------------------------------------------------------------
class Judge:
    """Decodes files and says what is wrong with what happened; counts what came of them."""

    def __init__(self) -> None:
        self.registry = kit_registry()
        self.outcomes: Counter[str] = Counter()
        self.warned: list[str] = []
        self.slowest = 0.0

    def complaint(self, file: bytes) -> str:
        """Empty if the reader kept its word."""
        start = time.perf_counter()
        found = self._outcome(file)
        seconds = time.perf_counter() - start
        if seconds > 1:  # the machine's fault, or the file's? CPU time is too slow to ask for each file
            start = time.process_time()
            self._outcome(file)
            seconds = time.process_time() - start
            found = found or (f"took {seconds:.2f} s" if seconds > 1 else "")
        self.slowest = max(self.slowest, seconds)
        if self.warned:
            found, self.warned = f"warned: {self.warned}", []
        return found

    def _outcome(self, file: bytes) -> str:
        try:
            sections = sections_of(file)
            state = decode(sections, self.registry, limit=LIMIT).tensors
        except CorruptFile as error:
            self.outcomes[f"corrupt {error.section}"] += 1
            if error.section not in ("header", *SECTIONS):
                return f"no section: {error}"
            if error.offset is not None and not 0 <= error.offset <= len(file) + (1 << 22):
                return f"an impossible offset: {error}"
            return _bad_line(str(error))
        except NotRegistered as error:
            self.outcomes["not registered"] += 1
            return _bad_line(str(error))
        except Exception:  # noqa: BLE001 - that is what is looked for
            return traceback.format_exc()
        self.outcomes["decoded"] += 1
        promised = [(t.name, t.shape, t.dtype) for t in sections.header.tensors if t.kind != 3]
        given = {name: (tuple(t.shape), t.dtype) for name, t in state.items()}
        return next((f"tensor {n} is {given.get(n)}" for n, s, d in promised if given.get(n) != (s, d)), "")


def _bad_line(text: str) -> str:
    # a character that Unicode has not assigned yet is no control character
    return "" if text and not CONTROL.search(text) and len(text) < 2000 else f"not one line: {text!r}"


def fuzz(
    corpus: Corpus, judge: Judge, section: str, files: int, seed: object, keep: Callable[[bytes, str], None]
) -> int:
    """Number of files that broke a rule; each goes to ``keep`` with the complaint."""
    rng = random.Random(f"{seed} {section}")
    failures = 0
    for _ in range(files):
        file = corpus.damaged(section, rng)
        complaint = judge.complaint(file)
        if complaint:
            failures += 1
            keep(file, complaint)
    return failures


@dataclasses.dataclass
class Progress:
    """What was tried so far, by section: ``{"files", "failures", "slowest", "outcomes"}``; kept in a file, if any."""

    path: Path | None
    sections: dict[str, dict[str, Any]] = dataclasses.field(default_factory=dict)

    @staticmethod
    def of(path: Path | None) -> Progress:
        return Progress(path, json.loads(path.read_text()) if path and path.exists() else {})

    def tried(self, section: str) -> int:
        return int(self.sections.get(section, {}).get("files", 0))

    def add(self, section: str, files: int, failures: int, judge: Judge) -> None:
        before = self.sections.setdefault(section, {"files": 0, "failures": 0, "slowest": 0.0, "outcomes": {}})
        before["files"] += files
        before["failures"] += failures
        before["slowest"] = max(before["slowest"], judge.slowest)
        before["outcomes"] = dict((Counter(before["outcomes"]) + judge.outcomes).most_common())
        if self.path:
            self.path.write_text(json.dumps(self.sections, indent=1))


def golden(pattern: str = "*") -> list[bytes]:
    paths = sorted((ROOT / "tests" / "container" / "golden").glob(f"{pattern}.nqz"))
    if not paths:
        raise SystemExit(f"no golden file is called {pattern}.nqz; tests/container/golden has them")
    return [path.read_bytes() for path in paths]


def watch_warnings(judge: Judge) -> None:
    warnings.simplefilter("always")
    warnings.showwarning = lambda message, *rest: judge.warned.append(str(message))


def limit_memory() -> None:
    """From here on this process may take ``MEMORY`` more than it has."""
    now = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (now + MEMORY, resource.RLIM_INFINITY))


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--files", type=int, default=100_000, help="mutated files a section")
    parser.add_argument("--section", action="append", choices=("header", *SECTIONS), help="only these")
    parser.add_argument("--golden", default="*", metavar="PATTERN", help="golden files to damage: 'structure-*'")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--progress", type=Path, help="file to count in, and to go on from")
    parser.add_argument("--keep", type=Path, default=Path("fuzz-failures"), help="folder for files that break a rule")
    options = parser.parse_args()
    torch.set_num_threads(1)
    judge = Judge()
    files = golden(options.golden)
    corpus = Corpus(files)
    for file in files:  # compiles the coders
        complaint = judge.complaint(file)
        if complaint and not complaint.startswith("took"):
            raise SystemExit(complaint)
    watch_warnings(judge)
    limit_memory()
    failures = 0
    progress = Progress.of(options.progress)

    def keep(file: bytes, complaint: str) -> None:
        options.keep.mkdir(parents=True, exist_ok=True)
        path = options.keep / f"{section}-{len(list(options.keep.glob('*.nqz')))}.nqz"
        path.write_bytes(file)
        print(f"{path}: {complaint}", flush=True)

    for section in options.section or ("header", *SECTIONS):
        judge.outcomes.clear()
        judge.slowest = 0.0
        start, cpu = time.perf_counter(), time.process_time()
        # a chunk is drawn from where the last one ended, so that none is tried twice
        found = fuzz(corpus, judge, section, options.files, (options.seed, progress.tried(section)), keep)
        failures += found
        seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
        progress.add(section, options.files, found, judge)
        print(
            f"{section}: {options.files} files, {seconds:.0f} s ({options.files / cpu:.0f} a CPU second), "
            f"slowest {judge.slowest:.3f} s, {dict(judge.outcomes.most_common())}; {progress.tried(section)} in all",
            flush=True,
        )
    print(f"{failures} files broke a rule; peak {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MiB")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
