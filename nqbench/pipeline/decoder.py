"""The decoder process. It never sees the original weights: it is given a path, and writes what it decodes from that
file to a file of the process that asked.

``python -m nqbench.pipeline.decoder PARENT DESCRIPTOR`` reads one request per line, as JSON: ``{"path", "limit",
"repeats"}``, and answers with one line each: ``{"samples", "tensors", "stored"}`` or ``{"error", "kind"}``. ``tensors``
lists the state in its order as [name, number]; ``stored`` has for each number [dtype, shape, offset]: where its
row-major bytes are in the unnamed file that both processes have open. Tied names have the same number. ``Decoder`` is
the other side of this. The process is kept alive between trials and dies with its parent.
The one that decodes files of strangers runs under the limits of ``nqbench.pipeline.cage``.

This module imports nothing heavy, so that a worker can start the decoder before its own imports.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import math
import os
import selectors
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nqbench.api.errors import BadInput, CorruptFile, NotRegistered, NqbenchError
from nqbench.pipeline.cage import Cage, isolate, kept_environment
from nqbench.pipeline.cage import limit as limit_process

if TYPE_CHECKING:
    from torch import Tensor

_LINE = 64
"""Tensors begin at multiples of this many bytes."""
_KEPT = 1 << 26
"""The shared file is emptied after a decoding if it is larger than this."""


@dataclass(frozen=True, eq=False)
class DecodedFile:
    """tensors: the whole state in its order. seconds: the coder's own time, the fastest of ``samples``."""

    tensors: dict[str, Tensor]
    seconds: float
    samples: list[float]


class Decoder:
    """A decoder process, started on first use. ``close`` it, or let it die with this process."""

    def __init__(self, limit: int | None = None, cage: Cage | None = None) -> None:
        """limit: bytes of tensors that a file may stand for; None: the container's own. cage: limits on the process."""
        self.limit = limit
        self.cage = cage
        self._process: subprocess.Popen[str] | None = None
        self._shared = tempfile.TemporaryFile(prefix="nqbench-decoder-", buffering=0)  # noqa: SIM115 - closed in close

    def decode(self, path: Path, *, repeats: int = 1, limit: int | None = None) -> DecodedFile:
        """limit: that of this file, where the decoder has none. Raises what ``nqbench.container.read`` raised there
        (CorruptFile, NotRegistered, BadInput)."""
        # absolute: the process stays in the folder that it was started in
        own = limit if self.limit is None else self.limit
        answer = self._ask({"path": os.path.abspath(path), "limit": own, "repeats": repeats})
        if "error" in answer:
            raise _error(answer)
        stored = [self._take(*place) for place in answer["stored"]]
        if self._shared.tell() > _KEPT:
            self._shared.truncate(0)
        state = {name: stored[number] for name, number in answer["tensors"]}
        return DecodedFile(state, min(answer["samples"]), answer["samples"])

    def start(self) -> None:
        """Start the process now, so that its imports overlap with other work."""
        if self._process is not None and self._process.poll() is not None:
            self._forget()
        if self._process is None:
            shared = self._shared.fileno()
            caged = [] if self.cage is None else [json.dumps(vars(self.cage))]
            self._process = subprocess.Popen(
                [sys.executable, "-m", "nqbench.pipeline.decoder", str(os.getpid()), str(shared), *caged],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                pass_fds=(shared,),
                env=None if self.cage is None else kept_environment(),
            )

    def _take(self, dtype: str, shape: Sequence[int], at: int) -> Tensor:
        import torch

        tensor = torch.empty(tuple(shape), dtype=getattr(torch, dtype))
        left = memoryview(_bytes(tensor))
        self._shared.seek(at)
        while left:
            read = self._shared.readinto(left)
            if not read:
                raise NqbenchError("the decoder process ended its answer too early")
            left = left[read:]
        return tensor

    def _ask(self, request: Mapping[str, Any]) -> dict[str, Any]:
        self.start()
        process = self._process
        assert process is not None
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            process.stdin.write(json.dumps(request) + "\n")
            process.stdin.flush()
            line = self._answer(process, request)
        except BrokenPipeError:
            line = ""
        except BaseException:  # an interruption, or too long a wait: its answer would be taken for the next request's
            self._end()
            raise
        if not line.endswith("\n"):  # it died, perhaps in the middle of its answer
            code = process.wait()
            self._forget()
            raise BadInput(f"the decoder process ended with {_ending(code)} while it decoded {request['path']}")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def _answer(self, process: subprocess.Popen[str], request: Mapping[str, Any]) -> str:
        """A whole answer, or what there is of it where the process ended. Raises BadInput where that takes longer than
        the cage allows."""
        assert process.stdout is not None
        if self.cage is None:
            return process.stdout.readline()
        until, found = time.monotonic() + self.cage.seconds, b""
        with selectors.DefaultSelector() as waiting:
            waiting.register(process.stdout, selectors.EVENT_READ)
            while not found.endswith(b"\n"):
                # read below the text's buffer, which is empty between two requests
                if not waiting.select(max(0.0, until - time.monotonic())):
                    raise BadInput(f"{request['path']} was not decoded within {self.cage.seconds:g} seconds")
                part = os.read(process.stdout.fileno(), 1 << 20)
                if not part:
                    break
                found += part
        return found.decode()

    def _end(self) -> None:
        """End the process, if there is one."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._forget()

    def _forget(self) -> None:
        """Let go of a process that has ended."""
        assert self._process is not None
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with contextlib.suppress(BrokenPipeError):  # a request that nobody read
                    pipe.close()
        self._process = None

    def close(self) -> None:
        self._end()
        self._shared.close()


def _bytes(tensor: Tensor) -> Any:
    """The bytes of a contiguous tensor on the CPU, without a copy."""
    import torch

    return tensor.reshape(-1).view(torch.uint8).numpy() if tensor.numel() else b""


def _ending(code: int) -> str:
    try:
        return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
    except ValueError:  # a real-time signal
        return f"signal {-code}"


def _error(answer: Mapping[str, Any]) -> NqbenchError:
    if answer["kind"] == "CorruptFile":
        return CorruptFile(**answer["error"])
    kinds = {"NotRegistered": NotRegistered, "BadInput": BadInput}
    return kinds.get(answer["kind"], NqbenchError)(answer["error"])


# -- the process itself --------------------------------------------------------------------------------------------
def serve(parent: int, shared: int, cage: Cage | None = None) -> None:
    """Answer requests until standard input ends. shared: a descriptor of the file for what was decoded."""
    die_with_parent(parent)
    if cage is not None:
        isolate()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's business
    requests, replies = os.fdopen(os.dup(0)), os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever a plugin prints must not look like an answer
    with open(os.devnull) as nothing:
        os.dup2(nothing.fileno(), 0)  # and whatever it reads must not be a request
    import torch

    torch.set_num_threads(1)
    if cage is not None:
        _load_all()
        limit_process(cage)
    for line in requests:
        try:
            answer = _decode(json.loads(line), shared)
        except CorruptFile as error:
            place = {"section": error.section, "offset": error.offset, "path": error.path}
            answer = {"kind": "CorruptFile", "error": {"reason": error.reason, **place}}
        except NqbenchError as error:
            answer = {"kind": type(error).__name__, "error": str(error)}
        except BaseException as error:  # noqa: BLE001 - the parent must be told about any error
            answer = {"kind": "NqbenchError", "error": f"decoding failed: {type(error).__name__}: {error}"}
        replies.write(json.dumps(answer) + "\n")
        replies.flush()


def _load_all() -> None:
    """What decoding imports at its first file: not the file's memory, nor its time."""
    import numba  # noqa: F401

    from nqbench.registry import registry

    registry()


def _decode(request: Mapping[str, Any], shared: int) -> dict[str, Any]:
    from nqbench.api.plain import plain
    from nqbench.container import read
    from nqbench.registry import registry

    samples = []
    for _ in range(request["repeats"]):
        decoded = read(request["path"], registry(), limit=request["limit"])
        samples.append(decoded.decode_seconds)
    numbers: dict[int, int] = {}
    stored: list[tuple[str, tuple[int, ...], int]] = []
    tensors, end = [], 0
    for name, tensor in decoded.tensors.items():
        number = numbers.setdefault(id(tensor), len(stored))
        if number == len(stored):
            stored.append((str(tensor.dtype).removeprefix("torch."), tuple(tensor.shape), end))
            end = _put(shared, memoryview(_bytes(plain(tensor))), end)
        tensors.append((name, number))
    return {"samples": samples, "tensors": tensors, "stored": stored}


def _put(shared: int, data: memoryview, at: int) -> int:
    """Write bytes at an offset; the next one's."""
    while data:
        written = os.pwrite(shared, data, at)
        data, at = data[written:], at + written
    return math.ceil(at / _LINE) * _LINE


def die_with_parent(parent: int) -> None:
    """On Linux, ask the kernel to end this process when its parent dies, however that happens."""
    if sys.platform != "linux":
        return
    PR_SET_PDEATHSIG = 1
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it died before the request was heard
        os._exit(1)


if __name__ == "__main__":
    serve(int(sys.argv[1]), int(sys.argv[2]), Cage(**json.loads(sys.argv[3])) if len(sys.argv) > 3 else None)
