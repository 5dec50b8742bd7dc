"""Choosing the tensors of a model to compress, by patterns of their names."""

from __future__ import annotations

from fnmatch import fnmatchcase

from torch import nn

from nqbench.api import BadInput, Model


class Chosen(Model):
    """A model whose tensors to compress can be chosen by patterns such as ``encoder.*`` or ``*.weight``."""

    include: tuple[str, ...] = ()
    """Patterns of the names of tensors to compress; none: all that can be compressed."""
    exclude: tuple[str, ...] = ()
    """Patterns of the names of tensors not to compress."""

    def candidates(self, module: nn.Module) -> tuple[str, ...]:
        """The tensors from which the patterns choose."""
        return super().compressible(module)

    def compressible(self, module: nn.Module) -> tuple[str, ...]:
        names = self.candidates(module)
        if not names:
            raise BadInput(f"model '{self.name}': the network has no parameter of two or more dimensions to compress")
        for pattern in (*self.include, *self.exclude):
            if not any(fnmatchcase(name, pattern) for name in names):
                some = ", ".join(names[:6]) + (", ..." if len(names) > 6 else "")
                raise BadInput(f"model '{self.name}': no tensor matches '{pattern}'; there are {some}")
        chosen = tuple(n for n in names if _matches(n, self.include or ("*",)) and not _matches(n, self.exclude))
        if not chosen:
            raise BadInput(f"model '{self.name}': `include` and `exclude` leave no tensor to compress")
        return chosen


def _matches(name: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)
