"""A compressed file back in Python: its tensors, alone or in a network."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor, nn


def load(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """The state that a ``.nqz`` file stands for: every tensor under its name, on the CPU, in the state's order.

    The file alone is needed, and the plugins that ``nqbench inspect`` names.

    Args:
        path: the compressed file.

    Returns:
        name -> tensor of the shape and dtype that the network had; tied tensors stand under each of their names.

    Raises:
        CorruptFile: the file is damaged, and where. NotRegistered: it needs a plugin that is not installed. BadInput:
        there is no such file, or too little memory for what it stands for.
    """
    from nqbench.container import read
    from nqbench.registry import registry

    return read(path, registry()).tensors


def load_into(module: nn.Module, path: str | os.PathLike[str]) -> nn.Module:
    """Put the tensors of a ``.nqz`` file into a network of the architecture that was compressed, in place.

    Args:
        module: the network, on any device. Tensors keep its dtypes.
        path: the compressed file.

    Returns:
        The module.

    Raises:
        What ``load`` raises. BadInput: names or shapes do not fit; the module is as it was.
    """
    from nqbench.api.errors import BadInput

    tensors, wanted = load(path), module.state_dict()
    absent = [name for name in wanted if name not in tensors]
    odd = [name for name in tensors if name not in wanted]
    shaped = [n for n, t in wanted.items() if n in tensors and tensors[n].shape != t.shape]
    for names, what in ((absent, "lacks"), (odd, "has"), (shaped, "has another shape for")):
        if names:
            more = f" and {len(names) - 1} more" if len(names) > 1 else ""
            raise BadInput(f"{os.fspath(path)} {what} '{names[0]}'{more}: it is of another network than this module")
    module.load_state_dict(tensors)
    return module
