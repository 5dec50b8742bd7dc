"""The stage that a search begins with: a method's knob, with its range on the weights that the method is given."""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from dataclasses import asdict, replace

from nqbench.api import BadInput, Codec, Coder, Knob, Quantizer, Sensitivity
from nqbench.pipeline.cache import Cache, Entry
from nqbench.pipeline.context import Context, Recent
from nqbench.pipeline.preparation import Preparation


class Knobs:
    def __init__(self, preparation: Preparation) -> None:
        self.preparation = preparation
        self._views = Recent(1)

    def find(self, context: Context) -> Knob | None:
        """The knob of the trial's quantizer or codec; None if it has none. Raises what the plugin raises."""
        found, _ = context.around.cache.once(
            "knob",
            context.around.maker.knob(context.trial, context.keys),
            load=_from_json,
            make=lambda _: (self._ask(context),),
            meta=lambda found: {"knob": None if found[0] is None else asdict(found[0])},
            first=lambda: None if context.trial.codec else self.preparation.pruned(context),
        )
        return found[0]

    def _ask(self, context: Context) -> Knob | None:
        trial, prepare = context.trial, self.preparation
        if trial.codec is not None:
            return checked(context.plugin(trial.codec, Codec).knob(), trial.codec.name)
        network, pruned, sensed = prepare.network(context), prepare.pruned(context), prepare.sensed(context)
        quantizer = context.plugin(trial.quantizer, Quantizer)
        task = prepare.task(
            context,
            module=network.module if trial.pruner is None else network.variant(pruned.state),
            masks=pruned.masks,
            quantizer=quantizer,
            granularity=trial.granularity,
            sensitivity=None if trial.sensitivity is None else context.plugin(trial.sensitivity, Sensitivity),
            sensed=sensed,
            rate=context.plugin(trial.coder, Coder).rate,
            shared=self._views.find(context.keys.sense, dict),
        )
        with context.watch.stage("knob"):
            groups = [part for part in task.partition() if any(task.kept(n, task.parameter(n)).numel() for n in part)]
            return merged([checked(quantizer.knob(task.source(part)), quantizer.name) for part in groups])


def checked(knob: Knob | None, name: str) -> Knob | None:
    """The knob, or BadInput where its range cannot be walked."""
    if knob is None:
        return None
    if not (0 if knob.scale == "log" else float("-inf")) < knob.low <= knob.high < float("inf"):
        raise BadInput(f"the knob {knob.field} of '{name}' has the range [{knob.low}, {knob.high}] ({knob.scale})")
    return knob


def merged(knobs: Iterable[Knob | None]) -> Knob | None:
    """One knob for all groups of a granularity: the range that covers the range of each; None where any has none."""
    found = list(knobs)
    first = found[0] if found else None
    if first is None or any(knob is None or knob.field != first.field for knob in found):
        return None
    low, high = min(k.low for k in found if k), max(k.high for k in found if k)
    starts = [k.start for k in found if k and k.start is not None]
    return replace(first, low=low, high=high, start=statistics.median(starts) if starts else None)


def cached(cache: Cache, key: str) -> tuple[Knob | None] | None:
    """What the cache has under a key: a knob, or that there is none. None where nobody has asked yet."""
    return cache.recall("knob", key, _from_json)


def _from_json(entry: Entry) -> tuple[Knob | None]:
    told = entry.meta["knob"]
    return (None if told is None else Knob(**told),)
