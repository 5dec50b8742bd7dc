"""Errors that a user can act on.

Each prints as one line that says where the error is, what was expected and what to do. Library code raises them; only
``nqbench.cli`` turns them into text and an exit code.
"""

from __future__ import annotations


class NqbenchError(Exception):
    """Base of all errors whose text is meant for the user.

    Example:
        >>> raise BadInput("step is 0: take a larger one")
        Traceback (most recent call last):
        nqbench.api.errors.BadInput: step is 0: take a larger one
    """


class Note(UserWarning):
    """A warning of one line about something that was done and that the user should know.

    Example:
        >>> import warnings
        >>> with warnings.catch_warnings(record=True) as notes:
        ...     warnings.simplefilter("always")
        ...     warnings.warn("2 buffers are stored as float16", Note)
        >>> str(notes[0].message)
        '2 buffers are stored as float16'
    """


class BadInput(NqbenchError, ValueError):
    """A value handed to a plugin or to the core cannot be used: NaN weights, a wrong shape, a wrong device.

    Example:
        >>> issubclass(BadInput, ValueError)
        True
    """


class NoFigure(BadInput):
    """A network's metric is not a finite number, so that nothing can be ranked by it: quantized so coarsely, its
    outputs may be constant, or overflow. A search takes its file for one that does not hold.

    Example:
        >>> issubclass(NoFigure, BadInput)
        True
    """


class DataMissing(NqbenchError):
    """Data or weights are missing. The text names the file and the folder to put it in.

    Example:
        >>> str(DataMissing("train-images.gz: put it into $NQBENCH_DATA/MNIST/raw"))
        'train-images.gz: put it into $NQBENCH_DATA/MNIST/raw'
    """


class NotRegistered(NqbenchError, LookupError):
    """No plugin of that kind and name is installed.

    Example:
        >>> issubclass(NotRegistered, LookupError)
        True
    """


class CorruptFile(NqbenchError):
    """A compressed file, or one section of it, cannot be decoded.

    Args:
        reason: what is wrong, in a few words.
        section: the container's name of the section: ``header``, ``codebook``, ``coder_table``, ``positions``,
            ``symbols``, ``raw_parameters`` or ``raw_buffers``. Coders leave it empty or say ``coder_table``, and the
            container fills it in.
        offset: the byte within that section at which decoding could not go on, if it is known.
        path: of the file; the container fills it in.

    Example:
        >>> print(CorruptFile("ends within a codeword", offset=17).at(section="symbols", path="net.nqz"))
        net.nqz: section 'symbols', byte 17: ends within a codeword
    """

    def __init__(self, reason: str, *, section: str = "", offset: int | None = None, path: str = "") -> None:
        super().__init__(reason)
        self.reason = reason
        self.section = section
        self.offset = offset
        self.path = path

    def at(self, *, section: str | None = None, path: str | None = None) -> CorruptFile:
        """A copy of the error with the place filled in as far as it was unknown.

        Args:
            section: the container's name of the section.
            path: of the file.

        Returns:
            A new error; what this one knows already stays.
        """
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
