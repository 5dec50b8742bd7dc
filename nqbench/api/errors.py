"""The errors a user can act on.

Every one of them prints as a single line that says where, what was expected and what to do. Library code
raises them; only ``nqbench.cli`` turns them into text and an exit code.
"""

from __future__ import annotations


class NqbenchError(Exception):
    """Base of all errors whose text is meant for the user."""


class Note(UserWarning):
    """Something that was done and that the user should know, as a warning of one line (``warnings.warn``)."""


class BadInput(NqbenchError, ValueError):
    """A value handed to a plugin or to the core cannot be used (NaN weights, a wrong shape, a wrong device)."""


class DataMissing(NqbenchError):
    """Data or weights are not at hand: the text names the file and the folder to put it in."""


class NotRegistered(NqbenchError, LookupError):
    """No plugin of that kind and name is installed."""


class CorruptFile(NqbenchError):
    """A compressed file, or one section of it, cannot be decoded.

    ``section`` is the container's name of the section (``header``, ``codebook``, ``scales``, ``coder_table``,
    ``positions``, ``symbols``, ``raw_parameters``, ``raw_buffers``; coders leave it empty or say ``coder_table``, and
    the container fills it in) and ``offset`` the byte within that section at which decoding could not go on, if it is
    known.
    """

    def __init__(self, reason: str, *, section: str = "", offset: int | None = None, path: str = "") -> None:
        super().__init__(reason)
        self.reason = reason
        self.section = section
        self.offset = offset
        self.path = path

    def at(self, *, section: str | None = None, path: str | None = None) -> CorruptFile:
        """The same error with the place filled in where it was unknown."""
        return CorruptFile(
            self.reason,
            section=self.section or section or "",
            offset=self.offset,
            path=self.path or path or "",
        )

    def __reduce__(self) -> tuple[object, ...]:  # exceptions with keyword arguments do not pickle by themselves
        return _corrupt, (self.reason, self.section, self.offset, self.path)

    def __str__(self) -> str:
        where = f"section '{self.section}'" if self.section else ""
        if self.offset is not None:
            where += f"{', ' if where else ''}byte {self.offset}"
        parts = [part for part in (self.path, where, self.reason) if part]
        return ": ".join(parts)


def _corrupt(reason: str, section: str, offset: int | None, path: str) -> CorruptFile:
    return CorruptFile(reason, section=section, offset=offset, path=path)
