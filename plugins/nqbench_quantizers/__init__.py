"""nqbench's own quantizers, one module per family."""

from __future__ import annotations

from nqbench.api import Plugin, hookimpl
from nqbench_quantizers.awq import AWQ
from nqbench_quantizers.block_peers import HQQPackage, Quanto, TorchAO
from nqbench_quantizers.cerwu import CERWU
from nqbench_quantizers.ecsq import ECSQ, ECSQOptimal
from nqbench_quantizers.entquant import EntQuant
from nqbench_quantizers.gptq import GPTQ
from nqbench_quantizers.hqq import HQQ
from nqbench_quantizers.kmeans import KMeans
from nqbench_quantizers.kquants import Q2K, Q3K, Q4K
from nqbench_quantizers.lattice import Lattice, RandomizedLattice
from nqbench_quantizers.lattices import D4, E8, Zn
from nqbench_quantizers.low_rank import LowRank
from nqbench_quantizers.peers import Faiss, KMeans1D, ScikitLearn
from nqbench_quantizers.pq import PQ, RVQ
from nqbench_quantizers.radio import Radio
from nqbench_quantizers.random_code import RandomCodeQuantizer
from nqbench_quantizers.rtn import RTN
from nqbench_quantizers.scaled import Binary, Fixed, PowersOfTwo, Ternary
from nqbench_quantizers.tabled import FP4, FP8, NF4
from nqbench_quantizers.uniform import Uniform
from nqbench_quantizers.watersic import WaterSIC

nqbench_api_version = 1


@hookimpl
def nqbench_plugins() -> list[type[Plugin]]:
    """The classes registered under the entry point ``quantizers``; those of other libraries only where these are
    installed."""
    return [
        ScikitLearn,
        KMeans1D,
        Faiss,
        HQQPackage,
        Quanto,
        TorchAO,
        Uniform,
        RTN,
        NF4,
        FP4,
        FP8,
        HQQ,
        Q4K,
        Q3K,
        Q2K,
        PQ,
        RVQ,
        RandomCodeQuantizer,
        Zn,
        D4,
        E8,
        EntQuant,
        LowRank,
        WaterSIC,
        KMeans,
        ECSQ,
        ECSQOptimal,
        Lattice,
        RandomizedLattice,
        Binary,
        Ternary,
        PowersOfTwo,
        Fixed,
        GPTQ,
        CERWU,
        AWQ,
        Radio,
    ]
