"""The stages from symbols to a checked file: encode, write, decode in another process, compare bit for bit."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from nqbench.api import BadInput, Codec, Coder, Group, Positions, QuantizedModel, Quantizer
from nqbench.api.toolkit.content import content_hash
from nqbench.container import Contents, Written, cpu, default_limit, encode
from nqbench.pipeline.artifacts import first_difference
from nqbench.pipeline.decoder import DecodedFile
from nqbench.pipeline.distortion import summed
from nqbench.pipeline.network import Network, deployed_weights, raw_as_deployed, unquantized, values_of
from nqbench.pipeline.preparation import network_of, pruned_of
from nqbench.pipeline.quantization import values

if TYPE_CHECKING:
    from nqbench.pipeline.context import Context


@dataclass(frozen=True, eq=False)
class Filed:
    """figures: of the file, named as in a record. tensors: the decoded tensors, if the file was just decoded."""

    figures: dict[str, Any]
    path: Path
    tensors: Mapping[str, Tensor] | None = None


@dataclass(frozen=True, eq=False)
class Deployed:
    """The whole state in its order, as a decoder must give it back."""

    tensors: Mapping[str, Tensor]

    @cached_property
    def sha256(self) -> str:
        return content_hash(self.tensors)


def file(context: Context) -> Filed:
    """Encode, write and decode the trial's file. Raises BadInput if the decoded tensors differ from the encoded
    ones."""
    contents, deployed, figures = (_coded if context.trial.codec is None else _by_codec)(context)
    network, path = network_of(context), context.bench.folder / "file.nqz"
    written = _write(path, contents, context)
    decoded = _decode(path, context)
    difference = first_difference(deployed.tensors, decoded.tensors)
    if difference is not None:
        raise BadInput(f"what was decoded is not what was encoded: {difference}")
    figures |= _sizes(contents, written, decoded, network)
    figures |= {"decoded_sha256": deployed.sha256, "network_sha256": network.sha256}
    return Filed(figures, path, decoded.tensors)


# -- what goes in ------------------------------------------------------------------------------------------------------
Inside = tuple[Contents, Deployed, dict[str, Any]]
"""What to write, the state that a decoder must give back, and the quantization's figures."""


def _coded(context: Context) -> Inside:
    trial = context.trial
    network, pruned = network_of(context), pruned_of(context)
    model, figures = context.result("quantize")
    quantizer = context.plugin(trial.quantizer, Quantizer)
    like = {name: pruned.state[name] for name in network.names}
    plain = unquantized(network, model.raw_state, fold=trial.fold_batchnorm)
    raw = raw_as_deployed(network, plain, trial.unquantized)
    on_cpu = model if context.bench.device.type == "cpu" else moved(model)
    contents = Contents(
        order=network.order,
        shapes={name: tuple(t.shape) for name, t in like.items()},
        dtypes={name: t.dtype for name, t in like.items()},
        raw=plain,
        parameters=network.parameters,
        groups=on_cpu.groups,
        masks={name: mask.cpu() for name, mask in pruned.masks.items()},
        aliases=network.aliases,
        quantizer=quantizer,
        coder=context.plugin(trial.coder, Coder),
        positions=None if trial.positions is None else context.plugin(trial.positions, Positions),
        streams=trial.streams,
        unquantized=trial.unquantized,
    )

    def deploy() -> Deployed:
        # reconstructed on the CPU, as the decoder does it
        found = values(context, model) if on_cpu is model else values_of(quantizer, on_cpu)
        return Deployed(_in_order(network, deployed_weights(on_cpu, found, pruned.masks, like) | raw))

    # trials that differ in the coder alone deploy the same weights
    deployed = context.kept("deployed", "quantize", deploy, f"{trial.unquantized} {trial.fold_batchnorm}")
    return contents, deployed, {**figures, "weights": sum(t.numel() for t in like.values())}


def _by_codec(context: Context) -> Inside:
    """The contents of a codec's file: the codec compresses all float tensors whose values are not all equal, or only
    the compressible ones. Its own decoding gives the tensors that are expected from the file.

    All other tensors are stored as in trials with a quantizer.
    """
    codec, others = context.plugin(context.trial.codec, Codec), context.trial.unquantized
    network, pruned = network_of(context), pruned_of(context)
    state = unquantized(network, pruned.state, fold=context.trial.fold_batchnorm)
    chosen = network.names if codec.weights_alone() else state
    coded = {n: state[n] for n in chosen if state[n].is_floating_point() and not _constant(state[n])}
    arrays = {n: codec.array_of(t) for n, t in coded.items()}
    data = context.repeated("quantize", lambda given: codec.compress(given, context.seed), lambda: arrays)
    back = codec.decompress(data, {n: a.shape for n, a in arrays.items()})
    raw = {n: t for n, t in state.items() if n not in coded}
    values = raw_as_deployed(network, raw, others)
    for name, tensor in coded.items():
        if name not in back:
            raise BadInput(f"codec '{codec.name}' does not give back the tensor '{name}'")
        values[name] = codec.tensor_of(back[name], tensor.dtype).reshape(tensor.shape)
    error = sum(summed((values[n].double() - state[n].double()).square()) for n in network.names)
    weights = sum(state[n].numel() for n in network.names)
    knob = codec.knob()
    contents = Contents(
        order=network.order,
        shapes={n: tuple(t.shape) for n, t in coded.items()},
        dtypes={n: t.dtype for n, t in coded.items()},
        raw=raw,
        parameters=network.parameters,
        aliases=network.aliases,
        codec=codec,
        codec_data=data,
        coded=tuple(coded),
        unquantized=others,
    )
    figures = {"mse": error / weights, "kept": weights, "weights": weights, "knob": knob.field if knob else None}
    return contents, Deployed(_in_order(network, values)), figures


# -- out and back in ---------------------------------------------------------------------------------------------------
def _write(path: Path, contents: Contents, context: Context) -> Written:
    """Encode and write the file. The coder's own time is the step ``encode``, the rest of the last run is ``write``."""
    seconds, last = [], 0.0

    def run(contents: Contents) -> Written:
        nonlocal last
        start = time.perf_counter()
        data, written = encode(contents, context.bench.registry, read_back=False)
        path.write_bytes(data)
        last = time.perf_counter() - start - written.encode_seconds
        seconds.append(written.encode_seconds)
        return written

    written = context.repeated("write", run, lambda: contents)
    context.watch.samples.pop("write", None)
    context.watch.seconds["write"] = last
    return replace(written, encode_seconds=context.sampled("encode", seconds))


def decoded_own(context: Context, path: Path, *, repeats: int = 1) -> DecodedFile:
    """A file of the trial's own network, read by the decoder process: it may stand for as much as that network, which
    this machine has held, where a stranger's is refused above a tenth of the memory."""
    limit = max(default_limit(), network_of(context).decoded_bytes())
    return context.bench.decoder.decode(path, repeats=repeats, limit=limit)


def _decode(path: Path, context: Context) -> DecodedFile:
    """Decode the file in the decoder process. The coder's own time is the step ``decode``; sending the request and
    reading the answer is ``read``."""
    measure, watch = context.bench.measure, context.watch
    with watch.stage("read"):
        decoded = decoded_own(context, path, repeats=measure.runs if measure else 1)
    watch.seconds["read"] = max(watch.seconds["read"] - sum(decoded.samples), 0.0)
    return replace(decoded, seconds=context.sampled("decode", decoded.samples))


def moved(model: QuantizedModel) -> QuantizedModel:
    """The same on the CPU."""
    groups = tuple(Group(group.names, cpu(group.quantized)) for group in model.groups)
    return QuantizedModel(groups, model.raw_state, model.notes)


def _constant(tensor: Tensor) -> bool:
    """Whether all values are equal, bit for bit: 0 and -0 differ."""
    if tensor.numel() < 2:
        return False
    first = tensor.reshape(-1)[0]
    return bool((tensor == first).all()) and bool((tensor.signbit() == first.signbit()).all())


def _in_order(network: Network, values: dict[str, Tensor]) -> dict[str, Tensor]:
    """The whole state in its order, tied tensors under all their names."""
    return {name: values[network.aliases.get(name, name)] for name in network.order}


def _sizes(contents: Contents, written: Written, decoded: DecodedFile, network: Network) -> dict[str, Any]:
    """Bytes, rates and speeds under the names of a record."""
    parts = written.parts
    measured_bits = 8 * (parts["symbols"] + parts["coder_table"])
    figures = rates(parts, written.buffers, network)
    if contents.codec is None and written.symbols:
        figures |= {
            "entropy": written.entropy_bits / written.symbols,
            "efficiency": written.entropy_bits / measured_bits if measured_bits else None,
            "encode_msym_s": _speed(written.symbols, written.encode_seconds),
            "decode_msym_s": _speed(written.symbols, decoded.seconds),
        }
    return figures


def rates(parts: Mapping[str, int], buffers: Mapping[str, int], network: Network) -> dict[str, Any]:
    """What the sizes of a file's parts say beside the network that it stands for, under the names of a record. buffers:
    of ``raw_buffers``, the bytes of each tensor."""
    file_bytes = sum(parts.values())
    statistics = sum(size for name, size in buffers.items() if name in network.statistics)
    weights = sum(network.state[name].numel() for name in network.names)
    coded = file_bytes - parts["raw_parameters"] - parts["raw_buffers"]
    return {
        "file_bytes": file_bytes,
        "parts": dict(parts),
        "batchnorm_bytes": statistics,
        "ratio": 4 * network.parameter_count() / (file_bytes - statistics),
        "file_ratio": network.float_bytes() / file_bytes,
        "own_ratio": network.own_bytes() / file_bytes,
        "bits_per_weight": 8 * coded / weights,
    }


def _speed(symbols: int, seconds: float) -> float | None:
    return symbols / seconds / 1e6 if seconds > 0 else None
