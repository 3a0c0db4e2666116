# SPDX-License-Identifier: GPL-3.0-or-later
"""The life of a seed: a disk target that is filled at home, sealed, carried to where an ssh target lives, and adopted there. Pure.

The ssh target that names a seed is its *heir*. What is told here comes from the records of jobs alone.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from offsited.core.config import DiskTarget, SshTarget, Vault
from offsited.core.outcome import Outcome, Reason
from offsited.core.record import JobRecord, Kind
from offsited.core.stage import Stage

_UNKNOWN: Final = frozenset({Reason.INTERRUPTED, Reason.TIMED_OUT, Reason.TARGET_LOST})
"""Reasons of jobs that could not say how far they came."""


@dataclass
class Life:
    """What the jobs of one target say of it, the oldest first."""

    sealed: JobRecord | None = None
    """The seal that no sync has broken since."""
    adopted: JobRecord | None = None
    """The last adoption of a seed."""
    synced: JobRecord | None = None
    """The last sync that committed something, all or part of a snapshot."""

    def take(self, record: JobRecord) -> None:
        """Learn how a newer job ended."""
        if record.options.dry_run or record.kind not in {Kind.SYNC, Kind.SEAL, Kind.ADOPT}:
            return
        done = record.outcome is Outcome.DONE
        if record.kind is Kind.ADOPT:
            self.adopted = record if done else self.adopted
        elif record.kind is Kind.SEAL and done:
            self.sealed = record
        elif _has_touched(record):
            self.sealed = None
        if record.kind is Kind.SYNC and record.outcome in {Outcome.DONE, Outcome.PARTIAL, Outcome.HELD}:
            self.synced = record

    @property
    def begun(self) -> bool:
        """Whether an heir may be synced: its seed was adopted there, or it was synced before it had one."""
        return bool(self.adopted or self.synced)

    @property
    def kept(self) -> tuple[JobRecord | None, ...]:
        """Records that must stay."""
        return self.sealed, self.adopted, self.synced

    @property
    def stage(self) -> Stage:
        """Of an heir by itself."""
        if self.adopted and (self.synced is None or self.synced.job < self.adopted.job):
            return Stage.ADOPTED
        return Stage.LIVE if self.synced else Stage.NONE


Lives = Callable[[str], Life]
"""Given a target's name, its life."""


def _has_touched(record: JobRecord) -> bool:
    """Whether a job had the disk mounted for writing, or may have had."""
    return record.capacity > 0 or (record.started > 0 and record.reason in _UNKNOWN)


def heirs(vault: Vault, seed: str) -> Iterator[SshTarget]:
    """The targets that wait for a seed, or once did."""
    yield from (target for target in vault.target if isinstance(target, SshTarget) and target.seed == seed)


def awaited(vault: Vault, target: DiskTarget | SshTarget, lives: Lives) -> DiskTarget | SshTarget | None:
    """Given a target, return the seed that must be adopted there before it is synced; None if it may be."""
    if not isinstance(target, SshTarget) or not target.seed or lives(target.name).begun:
        return None
    return vault.find_target(target.seed)


def stage(vault: Vault, target: DiskTarget | SshTarget, lives: Lives) -> Stage:
    """Where a target stands. A disk with several heirs stands where the last of them does."""
    if isinstance(target, SshTarget):
        seed = awaited(vault, target, lives)
        own = lives(target.name).stage
        if seed is None:
            return own if target.seed else Stage.NONE
        return Stage.SEALED if lives(seed.name).sealed else Stage.SEEDING
    found = [lives(heir.name) for heir in heirs(vault, target.name)]
    sealed = lives(target.name).sealed
    if sealed and not any(life.adopted and life.adopted.job > sealed.job for life in found):
        return Stage.SEALED
    return min((life.stage or Stage.SEEDING for life in found), key=list(Stage).index, default=Stage.NONE)


def in_transit(vault: Vault, lives: Lives) -> dict[str, JobRecord]:
    """The targets that no sync can go to because a sealed disk is on its way: each with the job that sealed it."""
    found: dict[str, JobRecord] = {}
    for target in vault.target:
        sealed = lives(target.name).sealed
        waiting = [heir.name for heir in heirs(vault, target.name) if not lives(heir.name).begun]
        if sealed and (waiting or not any(heirs(vault, target.name))):
            found |= dict.fromkeys([target.name, *waiting], sealed)
    return found
