# SPDX-License-Identifier: GPL-3.0-or-later
"""The vocabulary of notices: what can be told, why, what is remembered of it, and on what it is judged (core.judgment). Pure values."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from pydantic import BaseModel, ConfigDict, Field

from offsited import names
from offsited.core.outcome import ADVICE, Outcome, parse_reason
from offsited.core.record import JobRecord

FORMAT: Final = 1


class Event(StrEnum):
    """What a notice is about."""

    FAILED = "failed"
    HELD = "held"
    LOCKED = "locked"
    STALE = "stale"
    DEGRADED = "degraded"
    SKIPPED = "skipped"
    TRANSIT = "transit"
    RECOVERED = "recovered"
    SUCCESS = "success"


MESSAGE_IDS: Final[Mapping[Event, str]] = {
    Event.FAILED: names.MESSAGE_FAILED,
    Event.HELD: names.MESSAGE_HELD,
    Event.LOCKED: names.MESSAGE_LOCKED,
    Event.STALE: names.MESSAGE_STALE,
    Event.DEGRADED: names.MESSAGE_DEGRADED,
    Event.SKIPPED: names.MESSAGE_SKIPPED,
    Event.TRANSIT: names.MESSAGE_TRANSIT,
    Event.RECOVERED: names.MESSAGE_RECOVERED,
    Event.SUCCESS: names.MESSAGE_DONE,
}
"""What the journal's catalog says of it."""


class Why(StrEnum):
    """Reasons of troubles that no job has."""

    NEVER_SYNCED = "never-synced"
    UNCONFIRMED = "unconfirmed"
    SNAPSHOT_OLD = "snapshot-old"
    COMMIT_MISSING = "commit-missing"
    STILL_RUNNING = "still-running"
    IN_TRANSIT = "in-transit"
    UNANSWERED = "unanswered"
    ARRAY_DEGRADED = "array-degraded"


_WHY: Final[Mapping[str, tuple[str, str]]] = {
    Why.NEVER_SYNCED: ("the target has never held a snapshot", "Sync it: offsitectl sync {vault} --target {target}"),
    Why.UNCONFIRMED: (
        "the target was not confirmed to hold a snapshot for too long",
        "See why no sync was done: offsitectl status {vault}. Does its timer run? systemctl status offsited-sync@{vault}.timer",
    ),
    Why.SNAPSHOT_OLD: (
        "the newest snapshot at the target is too old, although syncs are done",
        "Does your snapshot tool still make snapshots, and does [source] in the vault file name the newest one?",
    ),
    Why.COMMIT_MISSING: (
        "this machine's own record of what the target holds is missing or damaged",
        "Compare everything with the target: offsitectl sync {vault} --target {target} --reconcile",
    ),
    Why.STILL_RUNNING: (
        "a timed sync was skipped, because the one before it still runs",
        "See how far it is: offsitectl status {vault}. Nothing is lost: the next sync brings the newest snapshot",
    ),
    Why.ARRAY_DEGRADED: (
        "an array that the target lies on lacks a disk",
        "See which: cat /proc/mdstat. How to put in another one: man offsited-prepare",
    ),
    Why.UNANSWERED: (
        "the machine was booted, and nobody has entered the passphrase since",
        "Enter it once: sudo offsitectl unlock {vault}. Until then nothing is synced",
    ),
    Why.IN_TRANSIT: (
        "the seed was sealed and has not been adopted yet; nothing is synced meanwhile",
        "Has it arrived? How it is adopted: offsitectl status {vault}",
    ),
}
_SENTENCES: Final[Mapping[Outcome, str]] = {
    Outcome.PARTIAL: "something could be neither sent nor kept",
    Outcome.HELD: "a limit holds deletions or changes back until you approve them",
    Outcome.FAILED: "the job failed",
}


def explain(event: Event, reason: str, vault: str, target: str, job: int) -> tuple[str, str]:
    """Given what a trouble is, return a sentence on what happened and one on what to do; neither names a user's file."""
    if reason in _WHY:
        sentence, hint = _WHY[reason]
    elif event is Event.HELD and not reason:
        sentence, hint = _SENTENCES[Outcome.HELD], "See what waits: offsitectl status {vault}"
    else:
        advice = ADVICE[parse_reason(reason)]
        sentence = advice.sentence or _SENTENCES[Outcome.PARTIAL if event is Event.DEGRADED else Outcome.FAILED]
        hint = advice.hint or "See: offsitectl status {vault}"
    return sentence, hint.format(vault=vault, target=target, job=job)


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


class Unsent(StrEnum):
    """Why a notice could not be sent; open for more."""

    MAIL_ABSENT = "mail-absent"
    MAIL_FAILED = "mail-failed"
    MAIL_TIMED_OUT = "mail-timed-out"
    PING_FAILED = "ping-failed"
    PING_REFUSED = "ping-refused"
    APPRISE_ABSENT = "apprise-absent"
    APPRISE_FAILED = "apprise-failed"


UNSENT: Final[Mapping[str, tuple[str, str]]] = {
    Unsent.MAIL_ABSENT: ("there is no /usr/sbin/sendmail", "Install a mail transfer agent, or take mail out of offsited.toml"),
    Unsent.MAIL_FAILED: ("sendmail refused the mail", "See what it said: journalctl -t offsited-notify"),
    Unsent.MAIL_TIMED_OUT: ("sendmail did not end in time", "See whether the mail transfer agent is well"),
    Unsent.PING_FAILED: ("the monitor cannot be reached", "Check network and ping in offsited.toml"),
    Unsent.PING_REFUSED: ("the monitor refused the ping", "Check ping in offsited.toml"),
    Unsent.APPRISE_ABSENT: ("Apprise is not installed", "apt install apprise, or take apprise out of offsited.toml"),
    Unsent.APPRISE_FAILED: ("Apprise could not deliver it", "Check apprise in offsited.toml"),
}
"""A sentence, and what to do."""


class Ping(StrEnum):
    """What a monitor that expects signs of life is told."""

    START = "start"
    SUCCESS = "success"
    FAIL = "fail"
