"""Jobs and slots, with slots that do what the test says: nothing is lost, nothing is done twice, nobody unfit takes
part."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nqbench.api.engine import Ended, Event, Greeting, Joined, Lost, Refused, Resources, Slots
from nqbench.api.errors import BadInput
from nqbench.engine.dispatcher import ELSEWHERE, Dispatcher
from nqbench.engine.greeting import difference

HERE: Greeting = {"versions": {"nqbench": "1.0", "torch": "2.13.0"}, "code": {"nqbench": ("1.0", "abc")}}


@dataclass(frozen=True)
class Chore:
    name: str
    affinity: tuple[str, ...] = ("source",)

    @property
    def task(self) -> str:
        return self.name


class Scripted(Slots):
    """events: what each call of ``wait`` gives. Tasks that were sent are kept, and end when ``end`` says so."""

    def __init__(self, *events: Sequence[Event], coming: bool = False) -> None:
        self.events = deque(events)
        self.sent: list[tuple[str, str]] = []
        self.closed, self.coming = False, coming

    def __exit__(self, *_: object) -> None:
        self.closed = True

    def send(self, slot: str, task: str) -> None:
        self.sent.append((slot, task))

    def wait(self, seconds: float) -> Sequence[Event]:
        return self.events.popleft() if self.events else []

    def doing(self) -> dict[str, str]:
        return {slot: "quantize" for slot, _ in self.sent}

    def expecting(self) -> bool:
        return self.coming


class Kit:
    def __init__(self, slots: Scripted, **options: Any) -> None:
        self.slots, self.told, self.opened = slots, list[str](), 0

        def opened() -> Scripted:
            self.opened += 1
            return slots

        self.engine: Dispatcher[Chore] = Dispatcher(opened, lambda: HERE, self.told.append, **options)


def ok(slot: str) -> Ended:
    return Ended(slot, {"status": "ok"})


def test_nothing_is_opened_before_there_is_work() -> None:
    kit = Kit(Scripted([Joined("a")]))
    with kit.engine as engine:
        assert engine.step() == []
        assert (kit.opened, engine.started, engine.busy) == (0, False, False)
        engine.add(Chore("one"))
        engine.step()
        assert (kit.opened, engine.started, kit.slots.sent) == (1, True, [("a", "one")])
    assert kit.slots.closed


def test_a_job_of_a_lost_slot_goes_elsewhere_twice_and_then_is_lost_with_every_cause() -> None:
    assert ELSEWHERE == 2
    events = [[Joined(slot, label=f"node-{slot}") for slot in "abcd"]]
    events += [[Lost(slot, f"why-{slot}")] for slot in "abc"]
    kit = Kit(Scripted(*events))
    kit.engine.add(job := Chore("one"))
    ended = [kit.engine.step() for _ in range(4)]
    assert [len(one) for one in ended] == [0, 0, 0, 1]
    assert [slot for slot, _ in kit.slots.sent] == ["a", "b", "c"]
    ((found, done),) = ended[-1]
    assert found is job
    assert done.outcome["status"] == "lost"
    for slot in "abc":
        assert f"node-{slot}: why-{slot}" in done.outcome["error"]
    assert not kit.engine.busy
    assert len(kit.told) == 2


def test_what_is_withdrawn_leaves_no_losses_to_a_job_that_comes_to_be_where_it_was() -> None:
    kit = Kit(Scripted([Joined("a")], [Lost("a", "gone")]))
    kit.engine.add(Chore("one"))
    for _ in range(2):
        kit.engine.step()
    assert kit.engine._losses
    assert [job.name for job in kit.engine.withdraw(lambda job: True)] == ["one"]
    assert not kit.engine._losses


def test_a_lost_slots_source_is_anybodys_and_its_job_comes_first() -> None:
    kit = Kit(Scripted([Joined("a"), Joined("b")], [Lost("a", "gone")], [ok("b")], [ok("b")]))
    for name in ("a1", "a2"):
        kit.engine.add(Chore(name, ("A",)))
    kit.engine.add(Chore("b1", ("B",)))
    for _ in range(4):
        kit.engine.step()
    assert kit.slots.sent == [("a", "a1"), ("b", "b1"), ("b", "a1"), ("b", "a2")]


def test_an_answer_that_comes_after_the_slot_was_given_up_counts_for_nothing() -> None:
    kit = Kit(Scripted([Joined("a"), Joined("b")], [Lost("a", "gone"), ok("a")], [ok("b")]))
    kit.engine.add(Chore("one"))
    ended = [one for _ in range(4) for one in kit.engine.step()]
    assert [job.name for job, _ in ended] == ["one"]


@pytest.mark.parametrize(
    ("there", "said"),
    [
        ({"versions": {"nqbench": "0.9", "torch": "2.13.0"}}, "has nqbench 0.9, the driver 1.0"),
        ({"versions": {"nqbench": "1.0"}}, "has torch not at all, the driver 2.13.0"),
        ({"code": {"nqbench": ("1.0", "abd")}}, "has nqbench 1.0 with code abd, the driver nqbench 1.0 with code abc"),
        ({"code": {}}, "has no nqbench, the driver nqbench 1.0 with code abc"),
    ],
)
def test_a_slot_that_differs_is_refused_and_the_run_ends_where_there_is_no_other(
    there: dict[str, Any], said: str
) -> None:
    greeting = {**HERE, **there}
    assert difference(HERE, greeting) == said
    kit = Kit(Scripted([Joined("a", greeting, label="node-a")]))
    kit.engine.add(Chore("one"))
    with pytest.raises(BadInput, match="no slot can take part: node-a has") as raised:
        kit.engine.step()
    assert said in str(raised.value)
    assert kit.slots.sent == []


def test_what_a_slot_has_beside_what_the_run_uses_is_no_difference() -> None:
    more = {"versions": {**HERE["versions"], "jax": "1"}, "code": {**HERE["code"], "other": ("3", "fff")}}
    assert difference(HERE, more) == ""


def test_one_fit_slot_is_enough_and_one_that_is_still_asked_is_waited_for() -> None:
    unfit = Joined("a", {**HERE, "code": {}})
    kit = Kit(Scripted([unfit], [Refused("b: cannot")], coming=True))
    kit.engine.add(Chore("one"))
    kit.engine.step()
    kit.engine.step()
    kit.slots.events.append([Joined("c", {**HERE, "environment": {"host": "c"}})])
    kit.slots.events.append([ok("c")])
    kit.slots.coming = False
    kit.engine.step()
    ((_, done),) = kit.engine.step()
    assert done.environment == {"host": "c"}
    assert len(kit.told) == 2


@pytest.mark.parametrize(
    ("needs", "offers", "said"),
    [
        (Resources(gpu=1), Resources(), "has 0 gpu, not 1"),
        (Resources(cpus=4), Resources(cpus=2), "has 2 cpus, not 4"),
        (Resources(memory=1 << 34), Resources(memory=1 << 30), "has 1,024 MiB memory, not 16,384 MiB"),
        (Resources(cpus=4, memory=1 << 34), Resources(), ""),  # what is not said is enough
        (Resources(), Resources(cpus=1, memory=1, gpu=0), ""),
    ],
)
def test_a_slot_with_too_little_is_refused(needs: Resources, offers: Resources, said: str) -> None:
    assert needs.lacks(offers) == said
    kit = Kit(Scripted([Joined("a", offers=offers)], coming=True), needs=needs)
    kit.engine.add(Chore("one"))
    kit.engine.step()
    assert kit.slots.sent == ([] if said else [("a", "one")])
    assert [line for line in kit.told if said and said in line] == kit.told


def test_no_more_slots_are_used_than_asked_for_and_a_spare_one_takes_a_lost_ones_place() -> None:
    kit = Kit(Scripted([Joined(slot) for slot in "abc"], [Lost("a", "gone")], [ok("b"), ok("c")]), limit=2)
    for number in range(3):
        kit.engine.add(Chore(str(number), (str(number),)))
    kit.engine.step()
    assert kit.slots.sent == [("a", "0"), ("b", "1")]
    kit.engine.step()
    assert kit.slots.sent[2:] == [("c", "0")]
    done = [done for _, done in kit.engine.step()]
    assert [(one.slots, one.alone) for one in done] == [(2, False), (2, False)]


def test_one_slot_that_shares_its_machine_is_not_alone() -> None:
    for alone in (True, False):
        kit = Kit(Scripted([Joined("a", alone=alone)], [ok("a")]), limit=1)
        kit.engine.add(Chore("one"))
        kit.engine.step()
        assert [done.alone for _, done in kit.engine.step()] == [alone]


@given(data=st.data(), sources=st.lists(st.sampled_from("xyz"), max_size=12))
def test_whatever_slots_do_every_job_ends_once(data: st.DataObject, sources: list[str]) -> None:
    """Slots join, end tasks and are lost in any order: a job ends well, or is lost after three slots."""
    kit = Kit(Scripted())
    jobs = [Chore(str(number), (source,)) for number, source in enumerate(sources)]
    for job in jobs:
        kit.engine.add(job)
    alive: set[str] = set()
    busy: dict[str, str] = {}
    ended: list[tuple[Chore, Any]] = []
    names, losses = iter(range(1000)), Counter[str]()
    while kit.engine.busy:
        for slot, task in kit.slots.sent:
            assert slot in alive
            assert slot not in busy
            busy[slot] = task
        kit.slots.sent.clear()
        choices = ["join"] * (len(alive) < 4) + ["end"] * bool(busy) + ["lose"] * bool(alive)
        what = data.draw(st.sampled_from(choices))
        if what == "join":
            slot = str(next(names))
            alive.add(slot)
            event: Event = Joined(slot)
        elif what == "end":
            slot = data.draw(st.sampled_from(sorted(busy)))
            del busy[slot]
            event = ok(slot)
        else:
            slot = data.draw(st.sampled_from(sorted(alive)))
            alive.discard(slot)
            if slot in busy:
                losses[busy.pop(slot)] += 1
            event = Lost(slot, "gone")
        kit.slots.events.append([event])
        ended += kit.engine.step()
    assert Counter(job.name for job, _ in ended) == Counter(job.name for job in jobs)
    for job, done in ended:
        assert done.outcome["status"] == ("lost" if losses[job.name] > ELSEWHERE else "ok")
