"""nqbench's own pruners, sensitivities and trainings."""

from __future__ import annotations

from collections.abc import Sequence

from nqbench.api import Plugin, hookimpl

nqbench_api_version = 1


@hookimpl
def nqbench_plugins() -> Sequence[type[Plugin]]:
    from nqbench_training.nothing import NoPruner, NoSensitivity, NoTraining
    from nqbench_training.second_moments import SecondMoments
    from nqbench_training.sensitivities import Adam, Fisher, Hessian, Hutchinson

    return [NoPruner, NoSensitivity, NoTraining, Hessian, Fisher, Hutchinson, Adam, SecondMoments]
