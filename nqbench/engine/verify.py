"""Verification: every stored file decoded again in a fresh process, and evaluated again."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from nqbench.api.errors import BadInput, CorruptFile, NqbenchError
from nqbench.api.model import Model
from nqbench.api.toolkit.content import content_hash
from nqbench.api.toolkit.download import digest_of
from nqbench.api.toolkit.judging import judging
from nqbench.api.toolkit.pace import Pace
from nqbench.api.toolkit.paths import set_suite_folder
from nqbench.container import read_sections
from nqbench.engine.devices import resolve_device
from nqbench.pipeline.decoder import Decoder
from nqbench.pipeline.evaluating import evaluated
from nqbench.pipeline.network import Network, fill
from nqbench.pipeline.trial import Choice
from nqbench.registry import registry
from nqbench.results.environment import environment
from nqbench.results.record import Record
from nqbench.results.store import Store, run_in
from nqbench.shared.tier import attached

TOLERANCE = 0.1
"""How much a metric may differ from its record, in its unit, if versions or processor differ from those of the record.
In the same environment it must be equal."""
_SAME = ("python", "libraries", "cpu", "gpu", "device")
"""What makes an environment the same; the number of threads is made the record's."""


@dataclass(frozen=True)
class Verdict:
    """The verdict on one record. fault: None if everything is as recorded."""

    record: Record
    fault: str | None


def verify(
    folder: str | Path,
    *,
    run: str = "latest",
    device: str = "auto",
    limit: int | None = None,
    allow_code: bool = False,
    store: str | None = None,
) -> Iterator[Verdict]:
    """Check every ok record of a run: file present, its size and parts, decoded bytes, network, metrics.

    store: URL of a server's store that has the folder's records; 'latest' is then the last run into the folder.
    run: its id, 'latest', or 'all': the last record of every key. limit: bytes of tensors that a file may stand for;
    None: what fits into the memory of this machine. allow_code: run code that the records name: functions to import,
    TorchScript files. Yields a verdict a record, in their order. Raises StoreError where there are no records, BadInput
    for code that was not allowed.
    """
    folder = Path(folder)
    if store is not None and run == "latest":
        run = run_in(folder) or run
    with Store.read(store or folder) as opened:
        records = [record for record in opened.records(run) if record.ok]
        last = opened.latest() if run in ("latest", "all") else opened.run(run)
    if not allow_code:
        _refuse_code(folder, records)
    where = last.settings.get("suite_folder", last.settings.get("beside")) if last else None
    attached()
    set_suite_folder(None if where is None else folder / where)
    checker = _Checker(folder, resolve_device(device), limit)
    try:
        for record in records:
            yield Verdict(record, checker.fault(record))
    finally:
        checker.decoder.close()


def _refuse_code(folder: Path, records: Sequence[Record]) -> None:
    for choice in dict.fromkeys(model_of(record) for record in records):
        model = choice.make(registry())
        assert isinstance(model, Model)
        if code := model.foreign_code():
            raise BadInput(
                f"{folder}: its model '{model.name}' runs code that the records name ({', '.join(code)}); "
                "if you trust who made them: --allow-code"
            )


class _Checker:
    def __init__(self, folder: Path, device: str, limit: int | None) -> None:
        self.folder = folder
        self.device = torch.device(device)
        self.decoder = Decoder(limit)
        self.here = environment(device)
        self._networks: dict[Choice, tuple[Model, Network]] = {}
        self._metrics: dict[tuple[Choice, str], Mapping[str, Any]] = {}
        self._of_float: dict[tuple[Choice, Pace | None], torch.Tensor | None] = {}

    def fault(self, record: Record) -> str | None:
        """What differs, in one line; None if nothing does."""
        path = self.folder / (record.file or "")
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
        if (choice, content) not in self._metrics:
            model, network = self._network(choice)
            torch.set_num_threads(int(record.environment.get("threads") or torch.get_num_threads()))
            fill(network.spare, tensors)
            pace = Pace(**record.evaluated_in) if record.evaluated_in else None
            with judging(self._outputs(choice, pace), pace, compares=True):
                self._metrics[choice, content] = evaluated(model, network.spare, "test")
        found = self._metrics[choice, content]["metrics"][record.metric_name]
        recorded = record.metric if record.metric is not None else float("nan")
        within = allowed(record, self.here)
        if not (abs(found - recorded) <= within or (math.isnan(found) and math.isnan(recorded))):
            return f"{record.file}: {record.metric_name} is {found}, the record says {recorded} (allowed: {within})"
        return None

    def _outputs(self, choice: Choice, pace: Pace | None) -> torch.Tensor | None:
        """The float network's on the test split."""
        if (choice, pace) not in self._of_float:
            model, network = self._network(choice)
            with judging(pace=pace) as judgement:
                evaluated(model, network.module, "test")
            self._of_float[choice, pace] = judgement.outputs
        return self._of_float[choice, pace]

    def _network(self, choice: Choice) -> tuple[Model, Network]:
        if choice not in self._networks:
            model = choice.make(registry())
            assert isinstance(model, Model)
            model.prepare()
            self._networks[choice] = model, Network.load(model, self.device)
        return self._networks[choice]


def allowed(record: Record, here: Mapping[str, Any]) -> float:
    """How far a metric may lie from the record's, in its unit. here: this environment."""
    return 0.0 if all(record.environment.get(name) == here.get(name) for name in _SAME) else TOLERANCE


def model_of(record: Record) -> Choice:
    """The record's model, to be made."""
    return Choice("model", record.model, json.dumps(record.model_params or {}, sort_keys=True, separators=(",", ":")))
