"""The contract of engines: they provide the processes in which the trials of a run are executed.

A run has trials, an engine has slots: a place for one trial at a time, on this machine or on another. What a slot does
with a trial is not the engine's business: it gets a ``Host``, which pickles, opens that in the slot's process, and
gives it one task after another. The host runs each in a worker process of its own, keeps deadlines and memory limits,
and answers with plain data whatever a method does there. So an engine starts slots, carries tasks and outcomes, and
tells when a slot joins or is lost; which trial goes where, and whether a slot may take part, the run decides.
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
"""What is sent to a slot: it pickles."""
Outcome = dict[str, Any]
"""How a task ended: plain data, with its ``status``."""
Greeting = Mapping[str, Any]
"""What a slot's process says of itself: plain data."""


class SlotsLost(NqbenchError):
    """The engine cannot be reached any more: the run ends as if it was interrupted, and nothing that ended is lost.

    Example:
        >>> str(SlotsLost("the scheduler tcp://10.0.0.1:8786 is gone"))
        'the scheduler tcp://10.0.0.1:8786 is gone'
    """


@dataclass(frozen=True)
class Resources:
    """What a trial needs, or what a slot has.

    Args:
        cpus: cores. None: not said.
        memory: bytes. None: not said.
        gpu: devices.

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
        """Why a slot that offers these cannot run a trial that needs ours.

        Args:
            offered: the slot's; what it does not say is enough.

        Returns:
            The first that is too little, or an empty text.
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
        name: tells it from the host's others.
        threads: of torch, numba and BLAS; None: its share of the cores, or what OMP_NUM_THREADS asks for.
        memory: bytes that its processes may hold; None: no limit.
        gpus: which of the machine's GPUs it sees; None: all.
    """

    name: str
    threads: int | None = None
    memory: int | None = None
    gpus: tuple[int, ...] | None = None


@dataclass(frozen=True)
class Joined:
    """A slot is ready for tasks.

    Args:
        slot: its name, unlike any other's that is or was.
        greeting: what its host said (``Host.greet``) in the slot's process; None: it is this machine and installation.
        offers: what it has.
        label: what people know it by; empty: there is no need to say.
        alone: whether no other slot shares its machine.
    """

    slot: str
    greeting: Greeting | None = None
    offers: Resources = field(default_factory=Resources)
    label: str = ""
    alone: bool = True


@dataclass(frozen=True)
class Lost:
    """A slot is gone, with the task that it had: that goes to another.

    Args:
        slot: its name.
        why: as far as it is known.
    """

    slot: str
    why: str


@dataclass(frozen=True)
class Ended:
    """A slot's task ended, and the slot is ready for the next.

    Args:
        slot: its name.
        outcome: what its host answered.
    """

    slot: str
    outcome: Outcome


@dataclass(frozen=True)
class Refused:
    """What might have become a slot cannot be one.

    Args:
        why: in a line that names it.
    """

    why: str


Event = Joined | Lost | Ended | Refused


class Slots(ABC):
    """The slots of one run, open. Use as a context manager: leaving it leaves nothing running."""

    notice: str = ""
    """What the user should know once they are open: where to look on."""

    def __enter__(self) -> Self:
        return self

    @abstractmethod
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop every slot and whatever runs there, at once."""

    @abstractmethod
    def send(self, slot: str, task: Task) -> None:
        """Give a task to a slot that is ready.

        Args:
            slot: one that joined, and whose last task has ended.
            task: for the slot's host.
        """

    @abstractmethod
    def wait(self, seconds: float) -> Sequence[Event]:
        """What happened since the last call.

        Args:
            seconds: to wait at most for the first event.

        Returns:
            The events, in their order; none where nothing happened.

        Raises:
            SlotsLost: nothing will happen any more.
        """

    @abstractmethod
    def doing(self) -> Mapping[str, str]:
        """What each slot that has a task is at, as far as it is known here: the step, and how far it has come."""

    def expecting(self) -> bool:
        """Whether somebody was asked to join and has not answered yet."""
        return False


class Host(Protocol):
    """What runs tasks in a slot's process: picklable, the same for every slot of a run."""

    def greet(self) -> Greeting:
        """Says what this process is: versions, code, hardware. Call it in the slot's process; takes seconds.

        Returns:
            Plain data, of which an engine may read ``cpus``, ``memory`` (bytes) and ``gpu``: what the machine has.
        """
        ...

    def open(self, shapes: Sequence[SlotShape], scratch: Path, *, away: bool) -> Slots:
        """Slots of this process, each a worker process below it; they join at once, and start at their first task.

        Args:
            shapes: the slots.
            scratch: a folder for temporary files, made and removed by the slots.
            away: whether this is another process than the run's, perhaps on another machine: the cache is then this
                machine's own, and the outcome carries the trial's file.

        Returns:
            The slots, which one thread at a time may use.
        """
        ...


@dataclass(frozen=True)
class Work:
    """What a run asks of an engine.

    Args:
        host: for the slots' processes.
        needs: what each trial needs.
        machine: what this machine has.
        jobs: how many slots are wanted; None: as many as the engine finds right.
        scratch: a folder that slots on this machine may use, of this run alone.
    """

    host: Host
    needs: Resources
    machine: Resources
    jobs: int | None
    scratch: Path


class Engine(Plugin):
    """Starts the slots in which the trials of a run are run.

    Example:
        >>> class Mine(Engine, name="mine"):
        ...     def open(self, work):
        ...         return work.host.open([SlotShape("only")], work.scratch, away=False)
        >>> Mine(place="here").canonical_json()
        '{"place":"here"}'
    """

    kind: ClassVar[str] = "engine"
    away: ClassVar[bool] = False
    """Whether its slots may be on other machines: then devices and memory are not looked for on this one."""

    place: str = ""
    """What stands behind the colon of ``--engine NAME:PLACE``, such as a scheduler's address."""

    def open(self, work: Work) -> Slots:
        """The slots of a run; nothing needs to be started before they are entered.

        Args:
            work: what the run asks.

        Returns:
            The slots, not entered yet.

        Raises:
            BadInput: the place is none, or what a trial needs is not there.
        """
        raise NotImplementedError
