"""Which worker gets which trial."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from nqbench.engine.protocol import TrialJob
from nqbench.engine.queue import AffinityQueue
from nqbench.pipeline.keys import Keys
from nqbench.pipeline.trial import Choice, Trial


def job(source: str, quantize: str = "q", number: int = 0) -> TrialJob:
    trial = Trial(Choice("model", f"{source}-{quantize}-{number}"))
    return TrialJob(trial, Keys({}, {"sense": source, "quantize": f"{source}-{quantize}"}, trial.trial))


def source_of(one: TrialJob | None) -> str:
    assert one is not None
    return one.keys.affinity[0]


def test_each_worker_keeps_to_its_source_while_there_is_one_for_all() -> None:
    queue = AffinityQueue[TrialJob]()
    queue.add(job(source, number=n) for n in range(3) for source in "ab")
    taken = [(worker, source_of(queue.take(str(worker)))) for worker in (0, 1, 1, 0, 0, 1)]
    assert {worker: {s for w, s in taken if w == worker} for worker in (0, 1)} == {0: {"a"}, 1: {"b"}}
    assert queue.take("0") is None


def test_trials_of_one_source_come_in_the_order_they_were_added() -> None:
    queue = AffinityQueue[TrialJob]()
    jobs = [job("a", number=n) for n in range(4)]
    queue.add(jobs)
    assert [queue.take("0") for _ in jobs] == jobs


def test_an_idle_worker_steals_the_last_quantization_and_stays_with_it() -> None:
    """q1 q1 q2 q2 q3 q3 of one source: the thief takes q3 q3, then q2 q2, and never parts a pair while it can."""
    queue = AffinityQueue[TrialJob]()
    queue.add(job("a", f"q{q}", n) for q in (1, 2, 3) for n in range(2))
    order = []
    for worker in (0, 1, 1, 0, 0, 1):
        one = queue.take(str(worker))
        assert one is not None
        order.append((worker, one.keys.affinity[1]))
    assert order == [(0, "a-q1"), (1, "a-q3"), (1, "a-q3"), (0, "a-q1"), (0, "a-q2"), (1, "a-q2")]


def test_a_thief_robs_the_longest_queue() -> None:
    queue = AffinityQueue[TrialJob]()
    queue.add([job("a", number=0), job("a", number=1), *(job("b", number=n) for n in range(5))])
    assert [source_of(queue.take("0")), source_of(queue.take("1")), source_of(queue.take("2"))] == ["a", "b", "b"]


def test_a_source_that_comes_back_goes_to_the_worker_that_holds_it() -> None:
    queue = AffinityQueue[TrialJob]()
    queue.add([job("a"), job("b")])
    assert [source_of(queue.take("0")), source_of(queue.take("1"))] == ["a", "b"]
    queue.add([job("b", number=1), job("a", number=1)])
    assert [source_of(queue.take("0")), source_of(queue.take("1"))] == ["a", "b"]


@given(
    added=st.lists(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from("xyz")), max_size=8), max_size=4),
    workers=st.integers(1, 4),
    data=st.data(),
)
def test_every_trial_is_taken_exactly_once_whoever_asks(
    added: list[list[tuple[str, str]]], workers: int, data: st.DataObject
) -> None:
    queue, all_jobs, taken = AffinityQueue[TrialJob](), [], []
    for batch in added:
        jobs = [job(source, quantize, len(all_jobs) + n) for n, (source, quantize) in enumerate(batch)]
        all_jobs += jobs
        queue.add(jobs)
        for _ in range(data.draw(st.integers(0, 4))):
            one = queue.take(str(data.draw(st.integers(0, workers - 1))))
            taken += [] if one is None else [one]
        assert len(queue) == len(all_jobs) - len(taken)
    while len(queue):
        one = queue.take(str(data.draw(st.integers(0, workers - 1))))
        assert one is not None  # no worker idles while there is work
        taken.append(one)
    assert Counter(one.trial for one in taken) == Counter(one.trial for one in all_jobs)
    assert queue.take("0") is None


def test_a_job_that_waits_for_another_process_makes_room_for_all_other_work() -> None:
    queue = AffinityQueue[TrialJob]()
    a, b, c = ([job(source, number=n) for n in range(2)] for source in "abc")
    queue.add([*a, *b, *c])
    first = queue.take("0")
    assert first is a[0]
    queue.later(first)
    assert len(queue) == 6
    assert [queue.take("0") for _ in range(4)] == [*b, *c]
    assert queue.take("1") is a[1]  # nobody owns it any more
    assert queue.take("0") is a[0]
    queue.later(a[0])  # with nothing else to do
    assert queue.take("0") is a[0]
    assert len(queue) == 0
