"""The decoder process: it never held a source, gets a path, and writes what it decoded to another path.

``python -m nqbench.pipeline.decoder`` reads requests, a line of JSON each: ``{"path", "out", "limit", "repeats"}``, and
answers a line each: ``{"samples", "tensors"}`` or ``{"error", "kind"}``. ``tensors`` lists the state in its order as
[name, key]: what lies under that key in the safetensors file at ``out``; names that share a tensor share a key.
``Decoder`` is the other end. The process is kept alive between trials and dies with its parent.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from nqbench.api.errors import BadInput, CorruptFile, NotRegistered, NqbenchError
from nqbench.container import LIMIT
from nqbench.pipeline.artifacts import load_tensors, save_tensors


@dataclass(frozen=True, eq=False)
class DecodedFile:
    """tensors: the whole state in its order. seconds: the coder's own time, the fastest of ``samples``."""

    tensors: dict[str, Tensor]
    seconds: float
    samples: list[float]


class Decoder:
    """A decoder process, started on first use. ``close`` it, or let it die with this process."""

    def __init__(self, limit: int = LIMIT) -> None:
        self.limit = limit
        self._process: subprocess.Popen[str] | None = None
        self._folder = tempfile.TemporaryDirectory(prefix="nqbench-decoder-")

    def decode(self, path: Path, *, repeats: int = 1) -> DecodedFile:
        """Raises what ``nqbench.container.read`` raised there (CorruptFile, NotRegistered, BadInput)."""
        out = Path(self._folder.name) / "decoded.safetensors"
        # absolute: the process stays in the folder that it was started in
        request = {"path": os.path.abspath(path), "out": str(out), "limit": self.limit, "repeats": repeats}
        answer = self._ask(request)
        if "error" in answer:
            raise _error(answer)
        tensors, _ = load_tensors(out)
        out.unlink()
        state = {name: tensors[key] for name, key in answer["tensors"]}
        return DecodedFile(state, min(answer["samples"]), answer["samples"])

    def start(self) -> None:
        """Start the process now, so that its imports overlap with other work."""
        if self._process is not None and self._process.poll() is not None:
            self._forget()
        if self._process is None:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "nqbench.pipeline.decoder", str(os.getpid())],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )

    def _ask(self, request: Mapping[str, Any]) -> dict[str, Any]:
        self.start()
        process = self._process
        assert process is not None
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            process.stdin.write(json.dumps(request) + "\n")
            process.stdin.flush()
            line = process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line.endswith("\n"):  # it died, perhaps in the middle of its answer
            code = process.wait()
            self._forget()
            raise BadInput(f"the decoder process ended with {_ending(code)} while it decoded {request['path']}")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def _forget(self) -> None:
        """Let go of a process that has ended."""
        assert self._process is not None
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with contextlib.suppress(BrokenPipeError):  # a request that nobody read
                    pipe.close()
        self._process = None

    def close(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._forget()
        self._folder.cleanup()


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
def serve(parent: int) -> None:
    """Answer requests until standard input ends."""
    die_with_parent(parent)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's business
    requests, replies = os.fdopen(os.dup(0)), os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever a plugin prints must not look like an answer
    with open(os.devnull) as nothing:
        os.dup2(nothing.fileno(), 0)  # and whatever it reads must not be a request
    import torch

    torch.set_num_threads(1)
    for line in requests:
        try:
            answer = _decode(json.loads(line))
        except CorruptFile as error:
            place = {"section": error.section, "offset": error.offset, "path": error.path}
            answer = {"kind": "CorruptFile", "error": {"reason": error.reason, **place}}
        except NqbenchError as error:
            answer = {"kind": type(error).__name__, "error": str(error)}
        except Exception as error:  # noqa: BLE001 - the other end must hear of it whatever it is
            answer = {"kind": "NqbenchError", "error": f"decoding failed: {type(error).__name__}: {error}"}
        replies.write(json.dumps(answer) + "\n")
        replies.flush()


def _decode(request: Mapping[str, Any]) -> dict[str, Any]:
    from nqbench.container import read
    from nqbench.registry import registry

    samples = []
    for _ in range(request["repeats"]):
        decoded = read(request["path"], registry(), limit=request["limit"])
        samples.append(decoded.decode_seconds)
    # keys of our own: a state may have names that safetensors keeps for itself
    keys: dict[int, str] = {}
    unique, tensors = {}, []
    for name, tensor in decoded.tensors.items():
        key = keys.setdefault(id(tensor), str(len(keys)))
        unique[key] = tensor
        tensors.append((name, key))
    save_tensors(Path(request["out"]), unique)
    return {"samples": samples, "tensors": tensors}


def die_with_parent(parent: int) -> None:
    """On Linux, ask the kernel to end this process when its parent dies, however that happens."""
    if sys.platform != "linux":
        return
    PR_SET_PDEATHSIG = 1
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it died before the request was heard
        os._exit(1)


if __name__ == "__main__":
    serve(int(sys.argv[1]))
