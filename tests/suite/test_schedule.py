"""Trials are pulled from a schedule that is told how each ended."""

from nqbench.suite import Choice, GridSchedule, Trial


def trial(seed):
    return Trial(Choice("model", "net"), Choice("quantizer", "q"), Choice("coder", "c"), seed=seed)


def test_a_grid_hands_out_every_trial_once_and_ends_with_the_last():
    trials = [trial(seed) for seed in range(3)]
    schedule = GridSchedule(trials)
    assert schedule.upper_bound() == 3
    assert not schedule.finished()
    assert schedule.ready() == trials
    assert schedule.ready() == []
    for one in trials:
        assert not schedule.finished()
        schedule.ended(one, {"status": "failed"})
    assert schedule.finished()
    assert schedule.upper_bound() == 3


def test_a_grid_of_nothing_is_finished():
    assert GridSchedule([]).finished()
