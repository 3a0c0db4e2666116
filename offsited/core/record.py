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


class Options(BaseModel):
    """What a person chose for one job."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    allow_older: bool = False
    reconcile: bool = False
    dry_run: bool = False
    without_manifest: bool = False
    timed: bool = False


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
    snapshot: str = ""
    """Name (last path component) of the snapshot."""
    snapshot_dated: int = 0
    """Date of the snapshot as its source gives it; 0 = undated."""
    newer: bool = False
    """When the job ended, the source named another snapshot already."""
    free: int = 0
    """Bytes that were free in the target's file system when the job was done with it; 0 = not known."""
    capacity: int = 0
    """Bytes that this file system has in all; 0 = not known."""
    commit: str = ""
    """SHA-256 of the commit file that this job brought to the target, in hex."""
