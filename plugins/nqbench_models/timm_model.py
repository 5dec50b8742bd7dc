"""A network of the package timm, by its name, with the user's checkpoint."""

from __future__ import annotations

from torch import nn

from nqbench.api import BadInput
from nqbench_models.module import Module


class Timm(Module, name="timm", computes_with=("timm",)):
    """``timm.create_model(NAME)`` with a checkpoint: ``--model timm:resnet18 --checkpoint F``, where timm is installed.

    Everything else is as for ``module``: ``data``, ``score`` and so on name functions of yours. Nothing is downloaded.
    """

    network: str
    """A network's name in timm: ``resnet18``, ``vit_tiny_patch16_224``."""
    classes: int | None = None
    """Number of classes of the last layer. None: timm's default."""

    def _build(self) -> nn.Module:
        try:
            import timm
        except ImportError:
            raise BadInput("model 'timm' needs the package timm: pip install timm") from None
        options = {} if self.classes is None else {"num_classes": self.classes}
        if self.network not in timm.list_models():
            from difflib import get_close_matches

            near = get_close_matches(self.network, timm.list_models(), 1)
            hint = f"; did you mean '{near[0]}'?" if near else ""
            raise BadInput(f"model 'timm': there is no network '{self.network}'{hint}")
        module = timm.create_model(self.network, pretrained=False, **options)
        assert isinstance(module, nn.Module)
        return module

    def prepare(self) -> None:
        if self.checkpoint is None:
            raise BadInput(f"model 'timm': '{self.network}' comes without weights: name a --checkpoint")
        super().prepare()

    def _network_function(self) -> tuple[str, ...]:
        return ()
