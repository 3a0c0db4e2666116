# SPDX-License-Identifier: GPL-3.0-or-later
"""A job's record: written by the daemon when the job is asked for, by the worker when it starts and when it ends.

A record without an outcome whose unit is gone was interrupted. Stored as JSON in `state/jobs/ID.json`, root only: it may name paths.
"""

from enum import StrEnum

from pydantic import BaseModel, ConfigDict, Field

from offsited.core.outcome import Outcome

FORMAT = 1


class Kind(StrEnum):
    """What a job does."""

    SYNC = "sync"
    RESTORE = "restore"
    VERIFY = "verify"
    RESTORE_TEST = "restore-test"
    MOUNT = "mount"
    SEAL = "seal"
    ADOPT = "adopt"


WRITING = frozenset({Kind.SYNC, Kind.SEAL, Kind.ADOPT})
"""Jobs that write to a target, or to what is known of one: a vault has one of them at a time."""


class Options(BaseModel):
    """What a person chose for one job."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    allow_older: bool = False
    reconcile: bool = False
    adopt: bool = False
    """Take a target that carries no owner marker, if its key file is the vault's."""
    dry_run: bool = False
    without_manifest: bool = False
    timed: bool = False
    arrived: bool = False
    """Asked for by the arrival of the target's disk."""
    seed: str = ""
    """Of an adoption: the target that what lies there was filled as."""
    approved: str = ""
    """Id of the held set that a person has released."""
    level: str = ""
    """Of a verification: a word of `core.verification.Level`; "" = the vault's own choice."""
    sample: int = 0
    """Of a verification of data: so many files by chance, 0 = all."""
    repair: bool = False


class Counts(BaseModel):
    """What a job met and did. Entries are files, directories, links, nodes; sizes in bytes of plain content unless said."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    entries: int = 0
    bytes: int = 0
    sent_entries: int = 0
    sent_bytes: int = 0
    wire_bytes: int = 0
    """Bytes that rsync wrote to and read from the other side, in both directions."""
    deleted_entries: int = 0
    differences: int = 0
    """Entries that a verification or a restore found to be otherwise than the manifest says."""


class Plan(BaseModel):
    """What a sync was about to do, sums of core.limits.Count: entries that are no directories; `replaced` has the bytes that went."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    added_entries: int = 0
    added_bytes: int = 0
    replaced_entries: int = 0
    replaced_bytes: int = 0
    deleted_entries: int = 0
    deleted_bytes: int = 0
    renamed_entries: int = 0
    renamed_bytes: int = 0
    attributes: int = 0
    """Entries of any kind of which only attributes change."""
    unreadable: int = 0


class Held(BaseModel):
    """What a limit held back, with the id under which a person may release it; "" = nothing."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    plan: str = ""
    deleted_entries: int = 0
    deleted_bytes: int = 0
    changed_entries: int = 0
    changed_bytes: int = 0


class JobRecord(BaseModel):
    """One job, from request to end. Times in microseconds since the epoch, 0 = not yet."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    format: int = FORMAT
    job: int = Field(ge=1)
    kind: Kind
    vault: str
    target: str
    options: Options = Options()
    unit: str
    requested: int
    started: int = 0
    ended: int = 0
    boot: str = ""
    """Boot id under which the worker started."""
    invocation: str = ""
    """systemd's InvocationID of the unit, 32 hex digits."""
    outcome: Outcome | None = None
    reason: str = ""
    """A word of `core.outcome.Reason`."""
    detail: str = ""
    counts: Counts = Counts()
    plan: Plan | None = None
    held: Held | None = None
    """Of a sync that got as far as its limits."""
    snapshot: str = ""
    """Name (last path component) of the snapshot."""
    snapshot_dated: int = 0
    """Date of the snapshot as its source gives it; 0 = undated."""
    newer: bool = False
    """When the job ended, the source named another snapshot already."""
    key_file: str = ""
    """SHA-256 of the key file that the target has since this job, in hex; "" = not known."""
    free: int = 0
    """Bytes that were free in the target's file system when the job was done with it; 0 = not known."""
    capacity: int = 0
    """Bytes that this file system has in all; 0 = not known."""
    commit: str = ""
    """SHA-256 of the commit file that this job brought to the target, in hex."""
