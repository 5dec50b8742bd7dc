"""Whether a row holds: its file decoded in a cage, its network evaluated, everything compared with what is said.

In this order, so that the cheap and harmless comes first: what the record says of itself; the file's size and parts;
which code decoding would run; which plugins the file names; which tensors it stands for, against the network (a file
that leaves some out would be evaluated with the float network's); then the decoding, of at most the network's own
bytes; the hash; the metrics.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nqbench.api.errors import CorruptFile, DataMissing, NotRegistered, NqbenchError
from nqbench.api.evaluation import Metric
from nqbench.api.model import Model
from nqbench.api.toolkit.content import content_hash
from nqbench.api.toolkit.pace import Pace
from nqbench.board.manifest import objection
from nqbench.board.rows import Check, Found
from nqbench.container import Sections, read_sections
from nqbench.container.header import ALIAS, Header, PluginRef
from nqbench.engine.checking import model_of, pace_of, same_environment, threads_of
from nqbench.engine.devices import resolve_device
from nqbench.pipeline.cage import Cage
from nqbench.pipeline.decoder import Decoder
from nqbench.pipeline.evaluating import Judged, judged_beside, judged_float, paired
from nqbench.pipeline.filing import rates
from nqbench.pipeline.network import Network
from nqbench.pipeline.trial import Choice
from nqbench.registry import GROUP, registry
from nqbench.results.environment import environment
from nqbench.results.record import Record, utc_now

_ROOM = 2 << 30
"""Bytes that decoding may take beside ten times what the file stands for: compiled code, and an alphabet of 2^24."""
_CLOSE = 1e-9


@dataclass(frozen=True)
class Verdict:
    """faults: what differs, a sentence each; empty where the row holds, which ``found`` and ``check`` then tell of.
    code: plugins of others that decoding it ran. missing: whether its network or its data are not at hand, so that
    nobody can say here; ``faults`` then tells what to put where."""

    faults: tuple[str, ...] = ()
    found: Found | None = None
    check: Check | None = None
    code: tuple[str, ...] = ()
    missing: bool = False


class _Differs(Exception):
    """What differs, in one sentence, where nothing further can be looked at."""


@dataclass(eq=False)
class _Own:
    """The board's own network of a model."""

    model: Model
    network: Network
    floats: dict[tuple[Pace | None, int], Judged] = field(default_factory=dict)
    """The float network's evaluations, by the batches and threads they were made in."""

    def judged(self, pace: Pace | None, threads: int) -> Judged:
        if (pace, threads) not in self.floats:
            torch.set_num_threads(threads)
            module = self.network.variant(self.network.state)
            self.floats[pace, threads] = judged_float(self.model, module, "test", pace)
        return self.floats[pace, threads]


@dataclass(eq=False)
class Checker:
    """Looks at rows, one after the other. seconds: that decoding one file may take. Use as a context manager."""

    device: str = "auto"
    allow_plugins: bool = False
    seconds: float = 300.0
    known: frozenset[Choice] | None = None
    """Networks that rows may be of; None: any. A network that is not at hand is loaded, and trained if need be."""
    _own: dict[Choice, _Own] = field(default_factory=dict, init=False)
    _decoders: dict[int, Decoder] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        self.device = resolve_device(self.device)
        self.here = environment(self.device)
        self.threads = torch.get_num_threads()

    def __enter__(self) -> Checker:
        return self

    def __exit__(self, *_: object) -> None:
        torch.set_num_threads(self.threads)
        for decoder in self._decoders.values():
            decoder.close()

    def check(self, record: Record, path: Path) -> Verdict:
        """Whether this file is what this record says, and what the board finds of it."""
        try:
            return self._check(record, path)
        except _Differs as error:
            return Verdict((str(error),))
        except CorruptFile as error:
            return Verdict((str(CorruptFile(error.reason, section=error.section, offset=error.offset)),))
        except DataMissing as error:
            return Verdict((str(error),), missing=True)
        except NqbenchError as error:
            return Verdict((str(error).replace(f"{path}: ", "").replace(str(path), "its file"),))

    def _check(self, record: Record, path: Path) -> Verdict:
        if why := objection(record):
            raise _Differs(why)
        sections = read_sections(path)
        parts = record.parts.model_dump() if record.parts else {}
        if sections.file_bytes != record.file_bytes or sections.parts != parts:
            what = "size" if sections.file_bytes != record.file_bytes else "parts"
            has, said = (
                (sections.file_bytes, record.file_bytes) if what == "size" else (_told(sections.parts), _told(parts))
            )
            raise _Differs(f"its {what}: the file has {has}, the record says {said}")
        code = self._code(sections.header)
        if faults := list(_named(record, sections.header)):
            return Verdict(tuple(faults))
        own = self._network(record)
        _fits(sections.header, own)
        tensors, content = self._decoded(path, sections.header, code)
        if content != record.decoded_sha256:
            return Verdict(
                (f"it decodes to other tensors ({content[:12]}) than the record says ({record.decoded_sha256})",)
            )
        found, reference = self._found(record, own, sections, tensors, content)
        exact = same_environment(record, self.here)
        units = None if exact else {metric.name: metric.unit for metric in own.model.metrics()}
        if faults := list(_figures(record, found, reference, units)):
            return Verdict(tuple(faults))
        return Verdict(
            (), found, Check(time=utc_now(), where=_where(self.here), nqbench=self.here["nqbench"], exact=exact), code
        )

    # -- before anything runs ----------------------------------------------------------------------------------------
    def _code(self, header: Header) -> tuple[str, ...]:
        """The plugins that decoding would run and that are not nqbench's own, or are the submitter's by their form.
        Raises _Differs where that is not allowed."""
        needed = []
        if any(group.form == "plugin" for group in header.groups):
            needed.append(("quantizer", header.quantizer, "form 'plugin': "))
        for kind, ref in (
            ("coder", header.coder), ("codec", header.codec), ("positions", header.positions),
            ("coder", header.positions_coder),
        ):  # fmt: skip
            if ref.name and ref.distribution != GROUP:
                needed.append((kind, ref, ""))
            elif ref.name and _distribution(kind, ref) not in (GROUP, None):
                raise _Differs(
                    f"its {kind} '{ref.name}' is said to be nqbench's, and is {_distribution(kind, ref)}'s here"
                )
        code = tuple(f"{form}{kind} {ref.name} of {ref.distribution} {ref.version}" for kind, ref, form in needed)
        if code and not self.allow_plugins:
            raise _Differs(
                f"decoding it runs code beside nqbench's own ({'; '.join(code)}): --allow-plugins, if you trust it"
            )
        return code

    def _network(self, record: Record) -> _Own:
        choice = network_of(record)
        if self.known is not None and choice not in self.known:
            raise _Differs(f"the board has no network {choice.name} {choice.json}: --new-networks, to load or train it")
        if choice not in self._own:
            model = choice.make(registry())
            assert isinstance(model, Model)
            if code := model.foreign_code():
                raise _Differs(
                    f"its model '{model.name}' is code of the submitter ({', '.join(code)}), which no board runs"
                )
            model.prepare()
            network = Network.load(model, torch.device(self.device))
            self._own[choice] = _Own(model, network)
        return self._own[choice]

    # -- decoding and evaluating -------------------------------------------------------------------------------------
    def _decoded(self, path: Path, header: Header, code: tuple[str, ...]) -> tuple[Mapping[str, Tensor], str]:
        """The tensors and their hash. Where others' code decodes, once more in a process of its own."""
        size = header.decoded_bytes()
        tensors = self._decoder(size).decode(path).tensors
        content = content_hash(tensors)
        if code:
            self._decoders.pop(size).close()
            again = content_hash(self._decoder(size).decode(path).tensors)
            if again != content:
                raise _Differs(f"two processes decode it to different tensors ({content[:12]}, {again[:12]})")
        return tensors, content

    def _decoder(self, size: int) -> Decoder:
        """A caged process for files that stand for so many bytes. One is kept."""
        if size not in self._decoders:
            for other in self._decoders.values():
                other.close()
            self._decoders.clear()
            room = 10 * size + _ROOM
            self._decoders[size] = Decoder(size, Cage(self.seconds, memory=room, written=2 * size + (64 << 20)))
        return self._decoders[size]

    def _found(
        self, record: Record, own: _Own, sections: Sections, tensors: Mapping[str, Tensor], content: str
    ) -> tuple[Found, float | None]:
        """What the board finds, and the float network's value of the metric that the record was judged by. Rows of one
        network rank by its headline metric, whichever of its metrics a submitter looked at."""
        metric, judged_by = _metrics(record, own.model)
        threads, of_float = threads_of(record, self.threads)
        pace = pace_of(record)
        before = own.judged(pace, of_float)
        torch.set_num_threads(threads)
        evaluation = judged_beside(own.model, own.network.variant(tensors), "test", before.outputs, pace)
        value, reference = evaluation["metrics"][metric.name], before.figures["metrics"][metric.name]
        if not (math.isfinite(value) and math.isfinite(reference)):
            raise _Differs(f"its {metric.name} is {value}, the float network's {reference}: no figure to rank by")
        found = Found(
            **rates(sections.parts, sections.buffers, own.network),
            decoded_sha256=content,
            metric=value,
            metric_float=reference,
            metric_name=metric.name,
            metric_unit=metric.unit,
            metric_higher_is_better=metric.higher_is_better,
            metrics={name: one for name, one in evaluation["metrics"].items() if math.isfinite(one)},
            **paired(evaluation, metric.name),
            same_network=record.network_sha256 == own.network.sha256,
        )
        return found, before.figures["metrics"].get(judged_by.name)


def _metrics(record: Record, model: Model) -> tuple[Metric, Metric]:
    """The metric that a board ranks a model's networks by, and the one that the record was judged by. Raises _Differs
    where the model has no such metric, or another of that name."""
    known = {metric.name: metric for metric in model.metrics()}
    headline, judged_by = model.metric(), known.get(record.metric_name or "")
    if headline is None or judged_by is None:
        raise _Differs(
            f"its metric: the model's are {', '.join(known) or 'none'}, the record says {record.metric_name}"
        )
    if (judged_by.unit, judged_by.higher_is_better) != (record.metric_unit, record.metric_higher_is_better):
        raise _Differs(f"its metric's unit or direction is not {judged_by.name}'s")
    return headline, judged_by


def network_of(record: Record) -> Choice:
    """The network that a record is of, its parameters written in full as they are today; as the record has them where
    its model is not installed."""
    choice = model_of(record)
    try:
        return Choice.of(choice.make(registry()))
    except NqbenchError:
        return choice


# -- comparing -------------------------------------------------------------------------------------------------------
def _named(record: Record, header: Header) -> Iterator[str]:
    """Where file and record name other plugins."""
    for kind in ("quantizer", "coder", "codec", "positions"):
        ref: PluginRef = getattr(header, kind)
        said, parameters = getattr(record, kind), getattr(record, f"{kind}_params")
        if (ref.name or None) != said:
            yield f"its {kind}: the file names {ref.name or 'none'}, the record says {said or 'none'}"
        elif said and _modern(kind, said, json.loads(ref.json)) != _modern(kind, said, parameters or {}):
            told = json.dumps(parameters)[:200]
            yield f"its {kind}'s parameters: the file has {ref.json[:200]}, the record says {told}"


def _modern(kind: str, name: str, parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Parameters as a plugin of this name has them today, defaults filled in; of one that is not here, as they are."""
    try:
        return dict(json.loads(registry().make(kind, name, parameters).canonical_json()))
    except NotRegistered:
        return dict(parameters)


def _fits(header: Header, own: _Own) -> None:
    """Raises _Differs unless the file stands for exactly the network's tensors."""
    state = own.network.module.state_dict()
    entries = {entry.name: entry for entry in header.tensors}
    for name, tensor in state.items():
        if name not in entries:
            raise _Differs(f"it holds no tensor '{name}', which the network has")
        entry = entries[name]
        target = header.tensors[entry.target] if entry.kind == ALIAS else entry
        if target.shape != tuple(tensor.shape) or target.dtype != tensor.dtype:
            has, wanted = f"{target.dtype} of {target.shape}", f"{tensor.dtype} of {tuple(tensor.shape)}"
            raise _Differs(f"its tensor '{name}' is {has}, the network's {wanted}")
    if more := [name for name in entries if name not in state]:
        raise _Differs(f"it holds a tensor {more[0][:60]!r}, which the network has not")


def _figures(record: Record, found: Found, float_value: float | None, units: Mapping[str, str] | None) -> Iterator[str]:
    """Where the figures are others than the record's. float_value: the float network's, of the record's metric. units:
    of metrics, which may differ a little; None: every digit has to agree."""

    def apart(name: str | None, value: float, said: float) -> str:
        within = 0.0 if units is None else found.allowed(name, said, units.get(name or ""))
        if abs(value - said) <= within:
            return ""
        return f"{name} is {value:.6g}, the record says {said:.6g} (allowed: {within:g})"

    told = [(record.metric_name, found.metrics.get(record.metric_name or "", math.nan), record.metric)]
    told += [(name, value, record.metrics.get(name)) for name, value in found.metrics.items()]
    for name, value, said in dict.fromkeys(told):
        if said is not None and (differs := apart(name, value, said)):
            yield f"its {differs}"
    reference = record.metric_float
    if (
        found.same_network
        and reference is not None
        and float_value is not None
        and (differs := apart(record.metric_name, float_value, reference))
    ):
        yield f"the float network's {differs}"
    delta = None if record.metric is None or reference is None else record.metric - reference
    said = record.metric_delta
    if delta is not None and said is not None and not math.isclose(said, delta, rel_tol=_CLOSE, abs_tol=_CLOSE):
        yield f"its metric_delta is {said:.6g}, its metric less the float network's {delta:.6g}"
    of_file = found.as_before if record.batchnorm_bytes is None else found
    for name in ("batchnorm_bytes", "ratio", "file_ratio", "own_ratio", "bits_per_weight"):
        value, said = getattr(of_file, name), getattr(record, name)
        if said is not None and not math.isclose(value, said, rel_tol=_CLOSE):
            yield f"its {name} is {value:.6g}, the record says {said:.6g}"
    if found.examples is not None and record.examples not in (None, found.examples):
        yield f"it was evaluated on {found.examples} examples, the record says {record.examples}"


def _distribution(kind: str, ref: PluginRef) -> str | None:
    try:
        return registry().registered(kind, ref.name).distribution
    except NotRegistered:
        return None


def _told(parts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {size}" for name, size in parts.items() if size)


def _where(here: Mapping[str, Any]) -> str:
    """An environment on one line: what has to be equal for every digit to agree."""
    libraries = here.get("libraries") or {}
    versions = ", ".join(f"{name} {libraries[name]}" for name in ("torch", "numpy", "numba") if name in libraries)
    gpu = f", {', '.join(here['gpu'])}" if here.get("gpu") and str(here.get("device", "")).startswith("cuda") else ""
    return f"Python {here.get('python')}, {versions}, {here.get('cpu')}{gpu}"
