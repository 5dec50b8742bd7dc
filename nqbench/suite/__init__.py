"""Suites: a YAML file -> a validated ``Suite`` -> trials, handed out by a ``Schedule``.

A suite in full; a scalar stands for a list of one, and all keys but ``models`` and ``quantizers`` (or ``codecs``) may
be left out::

    name: example                       # else the file's name
    question: Which is smaller?         # one line
    takes: a minute on two cores
    models: [lenet300: {data: digits}]  # a plugin: its name, or its name with parameters
    pruners: [none, magnitude]
    sensitivities: none
    granularities: [global, layer]
    quantizers:
      - kmeans: {k: [4, 8]}             # a list where the parameter takes none is swept
      - uniform
    trainings:
      - none
      - [finetune: {epochs: 2}, batchnorm]  # a list inside the list is a chain, run in order
    positions: [zero, gaps]             # only where something is pruned
    coders: [huffman, lzw]
    codecs: nncodec                     # stand for sensitivity, granularity, quantizer, training, positions and coder
    streams: auto                       # auto | joint | per-tensor
    seeds: [0, 1, 2]                    # only for methods that draw; the others run once
    unquantized: float32                # float32 | float16 | uint8: other parameters; float16-all: buffers too
    fold_batchnorm: false
    nonfinite: refuse                   # or store: nan and inf in tensors that are only stored stay what they are
    judged_by: divergence               # the metric to rank and to search by, of those that the model gives
    loss_increase: false                # record the predicted and the measured increase of the training loss
    measure: {repeats: 7, warmup: 1, exclusive: true, rounds: 1}  # rounds: passes over the trials, samples interleaved
    timeout: 600                        # seconds a trial; or by stage: {trial: 600, quantize: 60}; stages: load, prune,
                                        # sense, knob, quantize, file (from encoding to the check), evaluate, loss
    resources: {cpus: 2, memory: 4GiB}  # what a trial needs: gpu, memory, cpus
    published: [{network: lenet5}]      # reference rows, inline or selected from published.yaml
    target:                             # search each method's knob for the smallest file that holds this
      drop: 0.5                         # points below the float network (1%: of its metric); or metric: 99.0; or bytes
      divergence: 0.01                  # besides: at most so many nats from the float network's outputs
      split: test                       # test | validation | train: what the search looks at
      report: all                       # chosen: only the answer is evaluated on the test split, once, at the end
      trials: 12                        # points of a method's knob, at most; each is run once a seed
      baseline: kmeans                  # sizes are given relative to this method's; else the first
    thresholds:                         # what compare and nightly take for a change
      file_bytes: 0.001                 # a number is relative; else {relative: 0.001, absolute: 16}
      metrics: {accuracy: {absolute: 0.2}}
      seconds: {ratio: 1.1, p: 0.002}   # both must be exceeded
      margin: 0.5                       # points within which two networks count as equal
    include:                            # more grids: these axes instead, all others as above
      - {quantizers: {kmeans: {k: 256}}, coders: huffman}
    exclude:                            # less the trials that match; see nqbench.suite.matching
      - {quantizer: {kmeans: {k: 4}}, coder: [lzw, bzip2]}
    profiles:                           # --profile small: these keys instead
      small: {quantizers: kmeans}
"""

from nqbench.pipeline.trial import Choice, Trial
from nqbench.suite.document import SuiteError
from nqbench.suite.find import shipped
from nqbench.suite.grid import Dropped
from nqbench.suite.published import PublishedRow
from nqbench.suite.schedule import GridSchedule, Question, Schedule
from nqbench.suite.search import TargetSchedule
from nqbench.suite.spec import Measure, Target
from nqbench.suite.suite import Suite, load

__all__ = [
    "Choice",
    "Dropped",
    "GridSchedule",
    "Measure",
    "PublishedRow",
    "Question",
    "Schedule",
    "Suite",
    "SuiteError",
    "Target",
    "TargetSchedule",
    "Trial",
    "load",
    "shipped",
]
