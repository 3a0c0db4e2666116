# SPDX-License-Identifier: GPL-3.0-or-later
"""A configured vault, and what the records on this machine say of it and of its targets."""

from collections.abc import Iterable
from dataclasses import dataclass, field

from offsited.core.config import Vault
from offsited.core.outcome import Outcome
from offsited.core.record import JobRecord, Kind
from offsited.store import VaultFiles


@dataclass
class KnownTarget:
    """What is known of one target. Each record is that of a sync which has ended."""

    last: JobRecord | None = None
    """The last one."""
    done: JobRecord | None = None
    """The last good one: the target was confirmed to hold its snapshot."""
    commit: JobRecord | None = None
    """The last one that committed something new."""

    room: tuple[int, int] = (0, 0)
    """Bytes free there and in all, as the last sync that could tell has found them; 0 = not known."""

    def take(self, record: JobRecord) -> None:
        """Learn of a newer sync."""
        self.last = record
        if record.capacity:
            self.room = record.free, record.capacity
        if record.outcome is Outcome.DONE:
            self.done = record
        if record.commit:
            self.commit = record

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
    def kept(self) -> set[int]:
        """Jobs whose records must stay."""
        return {record.job for record in (self.last, self.done, self.commit) if record}


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
        """Learn how a job ended. Only a sync says something of vault and target."""
        if record.kind is Kind.SYNC:
            self.last = record
            self.targets.setdefault(record.target, KnownTarget()).take(record)

    @property
    def kept(self) -> frozenset[int]:
        """Jobs whose records must stay, however old."""
        return frozenset(job for target in self.targets.values() for job in target.kept)
