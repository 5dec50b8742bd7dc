"""nqbench's own pruners, sensitivities and trainings."""

from __future__ import annotations

from collections.abc import Sequence

from nqbench.api import Plugin, hookimpl

nqbench_api_version = 1


@hookimpl
def nqbench_plugins() -> Sequence[type[Plugin]]:
    from nqbench_training.alternating import IteratedDirect, LearningCompression
    from nqbench_training.batchnorm import BatchNorm
    from nqbench_training.bayesian_compression import BayesianCompression
    from nqbench_training.dynamic_surgery import DynamicSurgery
    from nqbench_training.finetune import FineTune
    from nqbench_training.fold import Fold
    from nqbench_training.information_bottleneck import InformationBottleneck
    from nqbench_training.iterative import Iterative
    from nqbench_training.lc_pruning import LearningCompressionPruning
    from nqbench_training.learned_step import LearnedStep
    from nqbench_training.magnitude import Magnitude
    from nqbench_training.miracle import Miracle
    from nqbench_training.none import NoPruner, NoSensitivity, NoTraining
    from nqbench_training.second_moments import SecondMoments
    from nqbench_training.sensitivities import Adam, Fisher, Hessian, Hutchinson
    from nqbench_training.sequential import Sequential
    from nqbench_training.soft_to_hard import SoftToHard
    from nqbench_training.soft_weight_sharing import SoftWeightSharing
    from nqbench_training.straight_through import BinaryRelax, ProxQuant, QuantNoise, StraightThrough
    from nqbench_training.surgeon import Surgeon
    from nqbench_training.variational_dropout import VariationalDropout
    from nqbench_training.wanda import Wanda

    pruners: list[type[Plugin]] = [NoPruner, Magnitude, Surgeon, DynamicSurgery, Wanda, LearningCompressionPruning]
    posteriors: list[type[Plugin]] = [VariationalDropout, BayesianCompression, InformationBottleneck]
    sensitivities: list[type[Plugin]] = [NoSensitivity, Hessian, Fisher, Hutchinson, Adam, SecondMoments]
    around: list[type[Plugin]] = [NoTraining, FineTune, Fold, BatchNorm, Sequential, StraightThrough]
    passing: list[type[Plugin]] = [BinaryRelax, ProxQuant, QuantNoise, LearnedStep]
    shared: list[type[Plugin]] = [SoftWeightSharing, SoftToHard, Miracle, Iterative]
    alternating: list[type[Plugin]] = [IteratedDirect, LearningCompression]
    return [*pruners, *posteriors, *sensitivities, *around, *passing, *shared, *alternating]
