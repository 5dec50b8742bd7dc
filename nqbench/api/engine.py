"""The contract of engines: they provide the processes in which the trials of a run are executed.

A run has trials; an engine has slots. A slot is a place on this or another machine that runs one trial at a time. An
engine does not need to know how a trial is run: it is given a picklable ``Host``, opens it in the process of the slot,
and passes tasks to it one by one. The host runs each task in a separate worker process, enforces deadlines and memory
limits, and always answers with plain data, even if a method crashes. The engine only starts slots, transports tasks and
outcomes, and reports when a slot joins or is lost. The run decides which trial goes to which slot, and whether a slot
may take part.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar, Protocol, Self

from nqbench.api.errors import NqbenchError
from nqbench.api.plugin import Plugin

Task = Any
"""What is sent to a slot; picklable."""
Outcome = dict[str, Any]
"""How a task ended: plain data, with its ``status``."""
Greeting = Mapping[str, Any]
"""How a slot's process describes itself: plain data."""


class SlotsLost(NqbenchError):
    """The engine cannot be reached any more. The run ends as if it was interrupted; finished trials are kept.

    Example:
        >>> str(SlotsLost("the scheduler tcp://10.0.0.1:8786 is gone"))
        'the scheduler tcp://10.0.0.1:8786 is gone'
    """


@dataclass(frozen=True)
class Resources:
    """The resources that a trial needs, or that a slot has.

    Args:
        cpus: number of cores; None: not specified.
        memory: bytes; None: not specified.
        gpu: number of GPUs.

    Example:
        >>> Resources(cpus=4, gpu=1).lacks(Resources(cpus=8))
        'has 0 gpu, not 1'
        >>> Resources(cpus=4).lacks(Resources(cpus=8))
        ''
    """

    cpus: int | None = None
    memory: int | None = None
    gpu: int = 0

    def lacks(self, offered: Resources) -> str:
        """Why a slot with the offered resources cannot run a trial that needs these.

        Args:
            offered: the resources of the slot; what it does not specify is assumed to be enough.

        Returns:
            A text about the first resource that is too small, or an empty text.
        """
        for name, unit, most in (("gpu", 1, False), ("cpus", 1, False), ("memory", 1 << 20, True)):
            need, has = getattr(self, name), getattr(offered, name)
            if need and has is not None and has < need:
                suffix = " MiB" if most else ""
                return f"has {has // unit:,}{suffix} {name}, not {need // unit:,}{suffix}"
        return ""


@dataclass(frozen=True)
class SlotShape:
    """One slot that a host opens.

    Args:
        name: unique among the slots of the host.
        threads: number of threads of torch, numba and BLAS; None: its share of the cores, or OMP_NUM_THREADS.
        memory: limit of its processes' memory in bytes; None: no limit.
        gpus: the GPUs that it may use; None: all.
    """

    name: str
    threads: int | None = None
    memory: int | None = None
    gpus: tuple[int, ...] | None = None


@dataclass(frozen=True)
class Joined:
    """A slot is ready for tasks.

    Args:
        slot: its name; never used again for another slot.
        greeting: the answer of ``Host.greet`` in the slot's process; None: it is this machine and installation.
        offers: its resources.
        label: a name for the user; empty: none is needed.
        alone: whether no other slot is on its machine.
    """

    slot: str
    greeting: Greeting | None = None
    offers: Resources = field(default_factory=Resources)
    label: str = ""
    alone: bool = True


@dataclass(frozen=True)
class Lost:
    """A slot is gone. If it had a task, another slot will be given it.

    Args:
        slot: its name.
        why: the reason, as far as it is known.
    """

    slot: str
    why: str


@dataclass(frozen=True)
class Ended:
    """A slot's task ended, and the slot is ready for the next.

    Args:
        slot: its name.
        outcome: the answer of its host.
    """

    slot: str
    outcome: Outcome


@dataclass(frozen=True)
class Refused:
    """A process that tried to join cannot be used as a slot.

    Args:
        why: one line that names the process and the reason.
    """

    why: str


Event = Joined | Lost | Ended | Refused


class Slots(ABC):
    """The open slots of one run. Use as a context manager; on exit, everything is stopped."""

    notice: str = ""
    """A hint for the user once the slots are open, such as the address of a dashboard."""

    def __enter__(self) -> Self:
        return self

    @abstractmethod
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop every slot and whatever runs there, at once."""

    @abstractmethod
    def send(self, slot: str, task: Task) -> None:
        """Send a task to a free slot.

        Args:
            slot: a slot that has joined and has no task.
            task: the task for its host.
        """

    @abstractmethod
    def wait(self, seconds: float) -> Sequence[Event]:
        """The events since the last call.

        Args:
            seconds: the longest time to wait for the first event.

        Returns:
            The events in order; empty if there were none.

        Raises:
            SlotsLost: there will be no more events.
        """

    @abstractmethod
    def doing(self) -> Mapping[str, str]:
        """Slot -> the current step of its task and its progress, for the slots for which this is known."""

    def expecting(self) -> bool:
        """Whether a process was started or asked to join and has not answered yet."""
        return False


class Host(Protocol):
    """Runs tasks in the process of a slot. Picklable; the same for every slot of a run."""

    def greet(self) -> Greeting:
        """Describe this process: versions, code, hardware. Call it in the slot's process; it takes seconds.

        Returns:
            Plain data. An engine may read ``cpus``, ``memory`` (bytes) and ``gpu``, the resources of the machine.
        """
        ...

    def open(self, shapes: Sequence[SlotShape], scratch: Path, *, away: bool) -> Slots:
        """Slots that are child processes of this process. They join at once and are started with their first task.

        Args:
            shapes: the slots.
            scratch: a folder for temporary files, made and removed by the slots.
            away: whether this process may be on another machine than the run. If so, the cache of this machine is used,
                and the outcome contains the trial's file.

        Returns:
            The slots. Only one thread at a time may use them.
        """
        ...


@dataclass(frozen=True)
class Work:
    """What a run needs from an engine.

    Args:
        host: to be opened in the slots' processes.
        needs: the resources that each trial needs.
        machine: the resources of this machine.
        jobs: the number of slots; None: the engine chooses.
        scratch: a folder of this run for temporary files, for slots on this machine.
    """

    host: Host
    needs: Resources
    machine: Resources
    jobs: int | None
    scratch: Path


@dataclass(frozen=True)
class Start:
    """What a text that starts a cluster is to hold.

    Args:
        suite: that is run.
        output: folder of the run.
        slots: how many.
        cpus: of each slot.
        memory: bytes of each slot.
        gpu: devices of each slot.
        time: that the cluster may take, as HH:MM:SS.
    """

    suite: str
    output: str
    slots: int = 4
    cpus: int = 4
    memory: int = 16 << 30
    gpu: int = 0
    time: str = "24:00:00"


class Engine(Plugin):
    """Starts the slots that run the trials of a run.

    Example:
        >>> class Mine(Engine, name="mine"):
        ...     def open(self, work):
        ...         return work.host.open([SlotShape("only")], work.scratch, away=False)
        >>> Mine(place="here").canonical_json()
        '{"place":"here"}'
    """

    kind: ClassVar[str] = "engine"
    away: ClassVar[bool] = False
    """Whether its slots may be on other machines. If so, this machine's devices and memory are not checked."""

    starters: ClassVar[tuple[str, ...]] = ()
    """Kinds of clusters for which it has a text that starts one."""

    place: str = ""
    """The part after the colon in ``--engine NAME:PLACE``, such as the address of a scheduler."""

    def open(self, work: Work) -> Slots:
        """Make the slots of a run. They are started when they are entered as a context manager.

        Args:
            work: what the run needs.

        Returns:
            The slots, not entered yet.

        Raises:
            BadInput: there is no such place, or the resources for a trial are missing.
        """
        raise NotImplementedError

    @classmethod
    def starter(cls, name: str, start: Start) -> str:
        """A commented script, or another text, that starts a cluster and runs a suite on it.

        Args:
            name: one of ``starters``.
            start: what is asked for.

        Returns:
            The text.
        """
        raise NotImplementedError
