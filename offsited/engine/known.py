# SPDX-License-Identifier: GPL-3.0-or-later
"""A configured vault, and what the records on this machine say of it and of its targets."""

from collections.abc import Iterable
from dataclasses import dataclass, field

from offsited.core.config import DiskTarget, SshTarget, Vault
from offsited.core.outcome import Outcome
from offsited.core.record import WRITING, Held, JobRecord, Kind
from offsited.core.seeding import Life, awaited, stage
from offsited.core.stage import Stage
from offsited.core.verification import Level
from offsited.store import VaultFiles


@dataclass
class KnownTarget:
    """What is known of one target. Each record is that of a job which has ended, of a sync where nothing else is said."""

    last: JobRecord | None = None
    """The last one."""
    done: JobRecord | None = None
    """The last good one: the target was confirmed to hold its snapshot."""
    commit: JobRecord | None = None
    """The last one that committed something new."""
    waiting: JobRecord | None = None
    """The last one that came to its limits, if they held something back."""
    verified: JobRecord | None = None
    """The last verification, of metadata or data, that found everything as it should be."""
    proven: JobRecord | None = None
    """The last restore-test that did."""
    checked: JobRecord | None = None
    """The last verification or restore-test."""
    life: Life = field(default_factory=Life)
    """Its part in the life of a seed."""

    def take_reader(self, record: JobRecord) -> None:
        """Learn how a newer job that reads ended."""
        if record.kind in {Kind.VERIFY, Kind.RESTORE_TEST}:
            self.checked = record
        if record.outcome is not Outcome.DONE:
            return
        if record.kind is Kind.VERIFY and record.options.level != Level.COMMIT:
            self.verified = record
        if record.kind is Kind.RESTORE_TEST:
            self.proven = record

    key_file: str = ""
    """SHA-256 of the key file that the target has, in hex; "" = not known."""

    room: tuple[int, int] = (0, 0)
    """Bytes free there and in all, as the last sync that could tell has found them; 0 = not known."""

    def take(self, record: JobRecord) -> None:
        """Learn of a newer sync, seal or adoption. One that only looked says what a limit would hold, and nothing of the target."""
        if record.held is not None:
            self.waiting = record if record.held.plan else None
        if record.options.dry_run:
            return
        self.last = record
        self.life.take(record)
        if record.kind is not Kind.SYNC and record.outcome is Outcome.DONE:  # its metadata was compared
            self.verified = record
        if record.capacity:
            self.room = record.free, record.capacity
        if record.outcome is Outcome.DONE:
            self.done = record
        if record.commit:
            self.commit = record
        if record.key_file:
            self.key_file = record.key_file

    @property
    def confirmed(self) -> int:
        """When the target was last confirmed to hold a snapshot, microseconds since the epoch, 0 = never."""
        return self.done.ended if self.done else 0

    @property
    def snapshot_dated(self) -> int:
        """Date of that snapshot; an undated one counts from when its job started."""
        return (self.done.snapshot_dated or self.done.started) if self.done else 0

    @property
    def commit_job(self) -> int:
        """Job of the last commit, 0 = none."""
        return self.commit.job if self.commit else 0

    @property
    def held(self) -> Held:
        """What a limit holds back until it is approved."""
        return (self.waiting.held if self.waiting else None) or Held()

    @property
    def check_reason(self) -> str:
        """What the last verification or restore-test found to be wrong, a word of `core.outcome.Reason`; "" = nothing."""
        return self.checked.reason if self.checked and self.checked.outcome is Outcome.PARTIAL else ""

    @property
    def kept(self) -> set[int]:
        """Jobs whose records must stay."""
        kept = (self.last, self.done, self.commit, self.waiting, self.verified, self.proven, self.checked, *self.life.kept)
        return {record.job for record in kept if record}


@dataclass
class KnownVault:
    """One vault. `config` changes with a reload alone, and then the whole object is made anew."""

    config: Vault
    id: str
    files: VaultFiles
    last: JobRecord | None = None
    """The last sync that ended, to whichever target."""
    targets: dict[str, KnownTarget] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return self.config.name

    @classmethod
    def learn(cls, config: Vault, files: VaultFiles) -> "KnownVault":
        """Read what is on record. Raise ConfigInvalid if the vault has no state."""
        vault = cls(config, files.identity(), files)
        vault._take_all(files.records())
        return vault

    def _take_all(self, records: Iterable[JobRecord]) -> None:
        """Given records, newest first."""
        for record in reversed(list(records)):
            if record.outcome is not None:
                self.take(record)
        for target in self.config.target:
            self.targets.setdefault(target.name, KnownTarget())

    def take(self, record: JobRecord) -> None:
        """Learn how a job ended."""
        target = self.targets.setdefault(record.target, KnownTarget())
        if record.kind in WRITING:
            self.last = self.last if record.options.dry_run else record
            target.take(record)
        else:
            target.take_reader(record)

    def life(self, target: str) -> Life:
        """A target's part in the life of a seed."""
        known = self.targets.get(target)
        return known.life if known else Life()

    def stage(self, target: DiskTarget | SshTarget) -> Stage:
        """Where that life stands."""
        return stage(self.config, target, self.life)

    def awaited(self, target: DiskTarget | SshTarget) -> DiskTarget | SshTarget | None:
        """The seed that must be adopted at a target before it is synced; None if it may be."""
        return awaited(self.config, target, self.life)

    @property
    def kept(self) -> frozenset[int]:
        """Jobs whose records must stay, however old."""
        return frozenset(job for target in self.targets.values() for job in target.kept)
