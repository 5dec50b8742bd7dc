"""One stored file held against its record: decoded again in a fresh process, and evaluated again."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch

from nqbench.api.batches import Split
from nqbench.api.errors import BadInput, CorruptFile, NqbenchError
from nqbench.api.model import Model
from nqbench.api.toolkit.content import content_hash
from nqbench.api.toolkit.download import digest_of
from nqbench.api.toolkit.pace import Pace
from nqbench.container import read_sections
from nqbench.pipeline.decoder import Decoder
from nqbench.pipeline.evaluating import judged_beside, judged_float
from nqbench.pipeline.network import Network
from nqbench.pipeline.trial import Choice
from nqbench.registry import registry
from nqbench.results.environment import cores, environment
from nqbench.results.record import Record

POINTS = 0.1
"""How many points a share may differ from its record, if versions or processor differ from those of the record. In the
same environment every figure must be equal."""
_RELATIVE, _SMALL = 0.01, 1e-4
"""The same for figures of any other unit: a share of them, and what is always allowed."""
_FROM_ANOTHER = 0.1
"""The share of a divergence from a float network that was trained anew: of LeNet-5 on another processor 2 %."""
_SAME = ("python", "libraries", "cpu", "gpu", "device")
"""What makes an environment the same; the number of threads is made the record's."""
_IN_THREADS = ("threads", "float_threads")
_LARGEST = 1 << 16
"""Examples a batch."""


class Checker:
    """Keeps networks and metrics between files. limit: bytes of tensors that a file may stand for; None: what fits into
    the memory of this machine."""

    def __init__(self, device: str, limit: int | None) -> None:
        self.device = torch.device(device)
        self.decoder = Decoder(limit)
        self.here = environment(device)
        self._networks: dict[Choice, tuple[Model, Network]] = {}
        self.threads = torch.get_num_threads()
        self._metrics: dict[tuple[object, ...], Mapping[str, Any]] = {}
        self._of_float: dict[tuple[object, ...], torch.Tensor | None] = {}

    def close(self) -> None:
        self.decoder.close()

    def fault(self, record: Record, path: Path) -> str | None:
        """What of the record's file at ``path`` differs, in one line; None if nothing does."""
        try:
            size = path.stat().st_size if record.file else -1
            if size != record.file_bytes:
                return f"{path}: {'is missing' if size < 0 else f'has {size} bytes'}, not {record.file_bytes}"
            parts = record.parts.model_dump() if record.parts else {}
            if read_sections(path).parts != parts:
                return f"{path}: the sizes of its parts differ from the record"
            tensors = self.decoder.decode(path).tensors
            content = content_hash(tensors)
            if content != record.decoded_sha256:
                return f"{path}: decodes to other tensors ({content[:12]}) than recorded ({record.decoded_sha256})"
            if record.file_sha256 not in (None, digest_of(path, "sha256")):
                return f"{path}: is another file than was written, if one of the same tensors"
            return self._network_fault(record) or self._metric_fault(record, content, tensors)
        except FileNotFoundError:
            return f"{path}: is missing"
        except (OSError, CorruptFile) as error:
            return str(error)
        except NqbenchError as error:
            return f"{path}: {error}"

    def _network_fault(self, record: Record) -> str | None:
        """Whether the trained network is the same as that of the record."""
        if record.network_sha256 is None:  # a record of before they said it
            return None
        found = self._network(model_of(record))[1].sha256
        if found == record.network_sha256:
            return None
        return (
            f"{record.file}: was made of another network ({record.network_sha256[:12]}) than the '{record.model}' "
            f"at hand ({found[:12]})"
        )

    def _metric_fault(self, record: Record, content: str, tensors: Mapping[str, torch.Tensor]) -> str | None:
        if record.metric_name is None:
            return None
        choice = model_of(record)
        # a search that keeps the test split for its end leaves points that were never evaluated on it
        split = cast(Split, record.selected_on or "test") if record.metric is None else "test"
        pace = pace_of(record)
        said = record.environment.get("threads")
        # more threads than cores give the same digits as where there are as many
        threads, before = threads_of(record, said if type(said) is int and said > 0 else self.threads)
        key = (choice, content, split, pace, threads, before)
        if key not in self._metrics:
            model, network = self._network(choice)
            outputs = self._outputs(choice, pace, split, before)
            torch.set_num_threads(threads)
            self._metrics[key] = judged_beside(model, network.variant(tensors), split, outputs, pace)
        found = self._metrics[key]["metrics"][record.metric_name]
        said = record.metric if split == "test" else record.metric_where_selected
        recorded = said if said is not None else float("nan")
        within = 0.0 if same_environment(record, self.here) else allowed(recorded, record.metric_unit)
        if not (abs(found - recorded) <= within or (math.isnan(found) and math.isnan(recorded))):
            return f"{record.file}: {record.metric_name} is {found}, the record says {recorded} (allowed: {within})"
        return None

    def _outputs(self, choice: Choice, pace: Pace | None, split: Split, threads: int) -> torch.Tensor | None:
        """The float network's on a split."""
        key = (choice, pace, split, threads)
        if key not in self._of_float:
            model, network = self._network(choice)
            torch.set_num_threads(threads)
            self._of_float[key] = judged_float(model, network.variant(network.state), split, pace).outputs
        return self._of_float[key]

    def _network(self, choice: Choice) -> tuple[Model, Network]:
        if choice not in self._networks:
            model = choice.make(registry())
            assert isinstance(model, Model)
            model.prepare()
            self._networks[choice] = model, Network.load(model, self.device)
        return self._networks[choice]


def allowed(value: float, unit: str | None, *, from_another: bool = False) -> float:
    """How far a figure may lie from a record's of this value and unit, if made in another environment. from_another:
    it is the distance from a float network of the same recipe that was trained there, and has other weights."""
    return POINTS if unit == "%" else max((_FROM_ANOTHER if from_another else _RELATIVE) * abs(value), _SMALL)


def same_environment(record: Record, here: Mapping[str, Any]) -> bool:
    """Whether the record was made where every digit must agree. here: this environment."""
    return all(record.environment.get(name) == here.get(name) for name in _SAME)


def pace_of(record: Record) -> Pace | None:
    """In which batches the record's network was evaluated; None where it does not say. Raises BadInput."""
    said = {name: value for name, value in record.evaluated_in.items() if name not in _IN_THREADS}
    return _checked_pace(said) if said else None


def threads_of(record: Record, usual: int) -> tuple[int, int]:
    """With how many threads the record's network was evaluated, and the float network. usual: where the record does not
    say, or says what this machine has not: it may be a stranger's."""

    def sound(said: object, otherwise: int) -> int:
        return said if type(said) is int and 1 <= said <= cores() else otherwise

    threads, before = (record.evaluated_in.get(name) for name in _IN_THREADS)
    own = sound(threads, sound(record.environment.get("threads"), usual))
    return own, sound(before, own)


def _checked_pace(said: Mapping[str, Any]) -> Pace:
    size, last = said.get("batch_size"), said.get("channels_last", False)
    # a record may be a stranger's: neither a crash nor a batch that no memory holds
    if said.keys() - {"batch_size", "channels_last"} or type(last) is not bool or type(size) is not int:
        raise BadInput(f"evaluated_in {dict(said)!r:.80} is no batch_size with channels_last")
    if not 1 <= size <= _LARGEST:
        raise BadInput(f"evaluated_in: a batch_size of {size} is not between 1 and {_LARGEST}")
    return Pace(size, last)


def model_of(record: Record) -> Choice:
    """The record's model, to be made."""
    return Choice("model", record.model, json.dumps(record.model_params or {}, sort_keys=True, separators=(",", ":")))
