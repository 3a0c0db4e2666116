# SPDX-License-Identifier: GPL-3.0-or-later
"""Notices as values: what is told, what is remembered of it, and on what it is judged (core.judgment)."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from pydantic import BaseModel, ConfigDict, Field

from offsited.core.event import Event
from offsited.core.record import JobRecord

FORMAT: Final = 1


@dataclass(frozen=True)
class Moment:
    """Now: `now` by the time of day, `uptime` since boot with the time in sleep (CLOCK_BOOTTIME), both in microseconds."""

    now: int
    boot: str
    """The boot's id."""
    uptime: int


class _Kept(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class Mark(_Kept):
    """A clock that never goes back, as it was when it was last read."""

    reading: int
    begun: int
    """Its first reading."""
    boot: str = ""
    uptime: int = 0
    done: int = 0
    """The job that set it; 0 = none yet."""
    limit: int = 0
    """`stale_after` of its target, in microseconds, as last configured: it counts on when the vault file has become invalid."""

    @classmethod
    def start(cls, moment: Moment, reading: int, *, done: int = 0, begun: int | None = None, limit: int = 0) -> "Mark":
        return cls(
            reading=reading, begun=reading if begun is None else begun, boot=moment.boot, uptime=moment.uptime, done=done, limit=limit
        )

    def at(self, moment: Moment) -> "Mark":
        """Return it as it is at a moment."""
        passed = max(moment.uptime - self.uptime, 0) if moment.boot == self.boot else 0
        reading = max(moment.now, self.reading + passed)
        return self.model_copy(update={"reading": reading, "boot": moment.boot, "uptime": moment.uptime})


class Trouble(_Kept):
    """A state that is not as it should be."""

    event: Event
    target: str = ""
    """"" = the whole vault."""
    reason: str = ""
    """A word of `core.outcome.Reason` or `Why`."""
    job: int = 0
    """The job that met it; 0 = none."""
    since: int
    """By the time of day, microseconds since the epoch."""
    told: int
    """When it was last told, by the vault's clock."""

    @property
    def what(self) -> tuple[Event, str]:
        """What makes it another one. Of staleness the reason changes by itself while it lasts."""
        return self.event, "" if self.event is Event.STALE else self.reason


class Remembered(_Kept):
    """What was told of one vault, and what is not to be forgotten."""

    format: int = FORMAT
    clock: Mark
    """For reminders: the vault's own."""
    targets: dict[str, Mark] = Field(default_factory=dict)
    """For ages: one for each target."""
    troubles: dict[str, Trouble] = Field(default_factory=dict)
    """Those that last, by what they are about."""
    judged: tuple[int, ...] = ()
    """Jobs on record whose end was told, or was not worth it."""
    serial: int = 0
    """Number of the last notice."""
    skipped: int = 0
    """The last job of which it was told that a timed run was skipped for it."""


class Notice(_Kept):
    """One thing to tell."""

    serial: int
    event: Event
    vault: str
    target: str = ""
    job: int = 0
    time: int
    """By the time of day, microseconds since the epoch."""
    reminder: bool = False
    troubles: tuple[Trouble, ...] = ()
    """What began; of a reminder, all that lasts; of a recovery, what is over."""


@dataclass(frozen=True)
class TargetFacts:
    """What is known of one target."""

    name: str
    limit: int = 0
    """`stale_after` in microseconds; 0 = its age is nobody's concern."""
    done: JobRecord | None = None
    """The last sync that confirmed it to hold a snapshot."""
    dated: int = 0
    """The date of the snapshot in its commit, as this machine keeps it; 0 = undated or not known."""
    intact: bool = True
    """Whether this machine's copy of the commit is there and can be read, if there should be one."""
    lacking: int | None = 0
    """How many disks the arrays lack that it lies on; None = not known at this moment."""

    @property
    def confirmed(self) -> int:
        """When it was last confirmed; 0 = never."""
        return self.done.ended if self.done else 0

    @property
    def snapshot_dated(self) -> int:
        """The older one of the dates that record and commit give; an undated snapshot counts from when its job started."""
        if self.done is None:
            return 0
        dates = (self.done.snapshot_dated or self.done.started, self.dated or self.done.ended)
        return min((date for date in dates if date), default=0)


@dataclass(frozen=True)
class Facts:
    """What is on record of one vault."""

    vault: str
    targets: tuple[TargetFacts, ...] = ()
    records: tuple[JobRecord, ...] = ()
    """In any order; those without an outcome run."""
    invalid: str = ""
    """A word of Reason if the vault file cannot be used: then `targets` are those of before."""
    skipped: int = 0
    """A running job for which a timed run was just skipped."""
    transit: Mapping[str, int] = field(default_factory=dict)
    """Targets that wait for a sealed disk to be adopted, each with when it was sealed."""
    locked: bool | None = None
    """Whether the vault is locked though somebody has had the time to unlock it after the boot; None = nobody has looked."""


class Ping(StrEnum):
    """What a monitor that expects signs of life is told."""

    START = "start"
    SUCCESS = "success"
    FAIL = "fail"
