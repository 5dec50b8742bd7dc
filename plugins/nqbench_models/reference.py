"""How far a network's outputs are from those of the float network: far less noisy than counting right answers."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from nqbench.api import Batch, Model, Split, device_of, to_device

_networks: dict[str, nn.Module] = {}
_outputs: dict[tuple[str, str], Tensor] = {}


def float_network(model: Model, device: torch.device) -> nn.Module:
    """The model's own network, loaded once a process."""
    key = f"{model.fingerprint()} {device}"
    if key not in _networks:
        _networks.clear()
        _networks[key] = model.load(device)
    return _networks[key]


def float_outputs(model: Model, split: Split) -> Tensor:
    """(N, C) outputs of the model's own network on a split, computed once a process."""
    key = (model.fingerprint(), split)
    if key not in _outputs:
        _outputs.clear()
        # on the CPU wherever the other runs: one reference for every device
        module = float_network(model, torch.device("cpu"))
        with torch.inference_mode():
            found = [model.predict(module, batch) for batch in model.batches(split)]
        _outputs[key] = torch.cat(found)
    return _outputs[key]


def outputs_of(model: Model, module: nn.Module, split: Split) -> tuple[Tensor, list[Batch]]:
    """(N, C) outputs of a network on a split, on the CPU, and the batches."""
    device, found, batches = device_of(module), [], []
    with torch.inference_mode():
        for batch in model.batches(split):
            found.append(model.predict(module, to_device(batch, device)).cpu())
            batches.append(batch)
    return torch.cat(found), batches


def compared(outputs: Tensor, reference: Tensor) -> tuple[dict[str, float], Tensor]:
    """``agreement`` (% of the same first choice) and ``divergence`` (mean KL from the reference's distribution to this
    one's, nats), and (N,) whether each agrees. outputs, reference: (N, C) logits."""
    agrees = outputs.argmax(1) == reference.argmax(1)
    mine, wanted = (logits.double().log_softmax(1) for logits in (outputs, reference))
    apart = float((wanted.exp() * (wanted - mine)).sum(1).mean())
    return {"agreement": 100 * float(agrees.double().mean()), "divergence": apart}, agrees
