"""Everything that a plugin needs to import: contracts, value types, errors and hooks.

The contracts were designed for the following methods; this is how each of them is written as a plugin:

* **A dithered vector quantizer with fine-tuning** returns form ``dithered``: symbols index the distinct lattice points
  (``parameters["codebook"]``, (k, d)), ``side`` holds seed and dither step. ``reconstruct`` is differentiable in the
  codebook while the dither stays fixed, so one fine-tuning serves every quantizer: it moves whatever is in
  ``parameters`` (less ``held``), by the gradient averaged over members. Conclusion: *parameters are a named set that
  the quantizer fills*, and d is a property of the codebook, not of the class.
* **Learning-compression with a warm start**: ``task.quantize(weights, previous=groups)`` with weights w - l/mu; the
  quantizer may start from ``source.previous`` or ignore it. ``ecsq`` as C step gets its lambda from its own field:
  ``quantizer.model_copy(update=...)`` gives a validated variant. Conclusion: *a source is cheap to make anew*, and the
  shared views belong to the source, not to the quantizer.
* **Straight-through and batch-norm re-estimation** change tensors that are not quantized: a training returns
  ``QuantizedModel(groups, raw_state)``, and trainings compose in a list.
* **Error feedback layer by layer** (X X^T, the coder's rates): ``Sensitivity.form = "second-moments"``; the quantizer
  declares ``takes = {"second-moments"}`` and ``uses_rate()``; the training ``sequential`` calls ``task.sense([name])``
  on the partly quantized network, ``task.quantize(names=[name], sensed=...)``, ``task.assign``. Shape, mask and groups
  of each tensor are in ``source.tensors``. Conclusion: *only a quantizer that reads the rate depends on the coder*.
* **Random codes that a training fills** (minimal random code learning): the quantizer has form ``plugin`` and an empty
  codebook (0, d), which says that a symbol stands for d weights; the training declares ``quantizers``, so that no suite
  has it beside another, and puts its own symbols into the quantizer's result.
* **A whole codec** is a kind of its own (``Codec``): bytes in, tensors out; the container stores its bytes as symbols.
* **A context coder** gets, beside the symbols, each tensor's name, shape, mask, slice and zero symbol, and whether
  symbols are ordered levels (``StreamSpec``); the decoder is given the same before it decodes. Conclusion: *positions
  are decoded before symbols*.
* **A search over a knob** needs ``Quantizer.knob(source)`` and ``Codec.knob()``: field, range, scale, direction.
* **A model without data** (rate and distortion only) has ``metric() -> None``.
"""

from nqbench.api.batches import Batch, Split, to_device
from nqbench.api.codec import Codec
from nqbench.api.coder import (
    Coder,
    Encoded,
    Positions,
    Stream,
    StreamSpec,
    StreamTensor,
    check_decoded,
)
from nqbench.api.dispatch import choose_kernels
from nqbench.api.engine import Engine
from nqbench.api.errors import BadInput, CorruptFile, DataMissing, Note, NotRegistered, NqbenchError
from nqbench.api.evaluation import Evaluation, Metric, PerExample
from nqbench.api.granularity import Per
from nqbench.api.hooks import hookimpl
from nqbench.api.model import Model
from nqbench.api.modules import device_of
from nqbench.api.moments import Moments
from nqbench.api.network import Network
from nqbench.api.outputs import as_outputs, hits
from nqbench.api.philox import dither
from nqbench.api.plugin import API_VERSION, Former, Plugin
from nqbench.api.pruner import Pruned, Pruner
from nqbench.api.quantized import Form, Quantized
from nqbench.api.quantized_model import Granularity, Group, QuantizedModel
from nqbench.api.quantizer import Knob, Quantizer, SensitivityForm, deployed, gaussian_step
from nqbench.api.sensitivity import Sensitivity
from nqbench.api.source import Diagonal, Rate, SecondMoments, SensitivityValue, Source, SourceTensor
from nqbench.api.structure import Array, Placed, Structure
from nqbench.api.task import Task
from nqbench.api.toolkit import scalar
from nqbench.api.training import Training, begin

choose_kernels()  # here, since whatever computes has imported this

__all__ = [
    "API_VERSION",
    "Array",
    "BadInput",
    "Batch",
    "Codec",
    "Coder",
    "CorruptFile",
    "DataMissing",
    "Diagonal",
    "Encoded",
    "Engine",
    "Evaluation",
    "Form",
    "Former",
    "Granularity",
    "Group",
    "Knob",
    "Metric",
    "Model",
    "Moments",
    "Network",
    "NotRegistered",
    "Note",
    "NqbenchError",
    "Per",
    "PerExample",
    "Placed",
    "Plugin",
    "Positions",
    "Pruned",
    "Pruner",
    "Quantized",
    "QuantizedModel",
    "Quantizer",
    "Rate",
    "SecondMoments",
    "Sensitivity",
    "SensitivityForm",
    "SensitivityValue",
    "Source",
    "SourceTensor",
    "Split",
    "Stream",
    "StreamSpec",
    "StreamTensor",
    "Structure",
    "Task",
    "Training",
    "as_outputs",
    "begin",
    "check_decoded",
    "deployed",
    "device_of",
    "dither",
    "gaussian_step",
    "hits",
    "hookimpl",
    "scalar",
    "to_device",
]
