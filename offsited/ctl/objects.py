# SPDX-License-Identifier: GPL-3.0-or-later
"""What the daemon shows on the bus, as frozen values. Times in microseconds since the epoch, 0 = never; amounts in bytes."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Self

from offsited import names

Properties = Mapping[str, Any]
Managed = Mapping[str, Mapping[str, Properties]]
"""GetManagedObjects: path -> interface -> properties."""


def leaf(path: str) -> str:
    """The last part of an object path: a name or a number; "" for "/"."""
    return path.rpartition("/")[2]


@dataclass(frozen=True)
class Job:
    """A job that runs."""

    job: int
    kind: str = ""
    vault: str = ""
    target: str = ""
    phase: str = ""
    bytes_done: int = 0
    bytes_total: int = 0
    entries_done: int = 0
    entries_total: int = 0
    requested: int = 0

    @classmethod
    def of(cls, properties: Properties) -> Self:
        """Given the properties of a Job object, return it."""
        job = cls(
            job=int(properties.get("Id", 0)),
            kind=str(properties.get("Kind", "")),
            vault=leaf(str(properties.get("Vault", ""))),
            target=leaf(str(properties.get("Target", ""))),
            requested=int(properties.get("Requested", 0)),
        )
        return job.changed(properties)

    def changed(self, properties: Properties) -> Self:
        """Given those of its properties that changed, return the job as it is now."""
        fields = {
            "Phase": "phase",
            "BytesDone": "bytes_done",
            "BytesTotal": "bytes_total",
            "EntriesDone": "entries_done",
            "EntriesTotal": "entries_total",
        }
        return replace(self, **{field: properties[name] for name, field in fields.items() if name in properties})

    @property
    def fraction(self) -> float | None:
        """How much of this phase is done, 0 to 1; None if that is not known."""
        done, total = (self.bytes_done, self.bytes_total) if self.bytes_total else (self.entries_done, self.entries_total)
        return min(done / total, 1.0) if total else None

    def as_json(self) -> dict[str, object]:
        return asdict(self)


@dataclass(frozen=True)
class Held:
    """What a limit holds back, with the id under which it can be approved; "" = nothing. Entries that are no directories."""

    plan: str = ""
    deleted: int = 0
    deleted_bytes: int = 0
    changed: int = 0
    changed_bytes: int = 0


@dataclass(frozen=True)
class JobEnd:
    """A job on record: how it ended, or with an empty outcome that it runs."""

    job: int
    kind: str = ""
    vault: str = ""
    target: str = ""
    outcome: str = ""
    reason: str = ""
    requested: int = 0
    started: int = 0
    ended: int = 0
    snapshot_dated: int = 0
    entries: int = 0
    bytes: int = 0
    sent_entries: int = 0
    sent_bytes: int = 0
    wire_bytes: int = 0
    deleted_entries: int = 0
    dry_run: bool = False
    plan_added_entries: int = 0
    plan_added_bytes: int = 0
    plan_replaced_entries: int = 0
    plan_replaced_bytes: int = 0
    plan_deleted_entries: int = 0
    plan_deleted_bytes: int = 0
    plan_renamed_entries: int = 0
    plan_renamed_bytes: int = 0
    plan_attributes: int = 0
    plan_unreadable: int = 0
    held_plan: str = ""
    held_deleted_entries: int = 0
    held_deleted_bytes: int = 0
    held_changed_entries: int = 0
    held_changed_bytes: int = 0
    differences: int = 0
    commit: str = ""

    @classmethod
    def of(cls, job: int, outcome: Properties) -> Self:
        """Given what GetOutcome returned for a job, return it. Keys of a newer daemon are left out."""
        known = {key: value for key, value in outcome.items() if key in cls.__dataclass_fields__ and key != "job"}
        return cls(job=job, **known)

    @property
    def held(self) -> Held:
        return Held(self.held_plan, self.held_deleted_entries, self.held_deleted_bytes, self.held_changed_entries, self.held_changed_bytes)

    @property
    def seconds(self) -> float:
        """How long it ran; 0 if it never started."""
        return max(self.ended - self.started, 0) / 1e6 if self.started and self.ended else 0.0

    def as_json(self) -> dict[str, object]:
        return asdict(self)


@dataclass(frozen=True)
class Target:
    """One target of a vault."""

    name: str
    kind: str = ""
    default: bool = False
    state: str = ""
    stage: str = ""
    seed: str = ""
    sealed: int = 0
    commit_job: int = 0
    snapshot_dated: int = 0
    confirmed: int = 0
    verified: int = 0
    proven: int = 0
    check_reason: str = ""
    key_file: str = ""
    last_outcome: str = ""
    last_reason: str = ""
    held: Held = Held()
    stale: bool = False
    stale_after: int = 0
    degraded: bool = False
    free_bytes: int = 0
    size_bytes: int = 0

    @classmethod
    def of(cls, properties: Properties) -> Self:
        return cls(
            name=str(properties.get("Name", "")),
            held=Held(
                plan=str(properties.get("HeldPlan", "")),
                deleted=int(properties.get("HeldDeleted", 0)),
                deleted_bytes=int(properties.get("HeldDeletedBytes", 0)),
                changed=int(properties.get("HeldChanged", 0)),
                changed_bytes=int(properties.get("HeldChangedBytes", 0)),
            ),
            stale=bool(properties.get("Stale", False)),
            stale_after=int(properties.get("StaleAfter", 0)),
            degraded=bool(properties.get("Degraded", False)),
            free_bytes=int(properties.get("FreeBytes", 0)),
            size_bytes=int(properties.get("SizeBytes", 0)),
            kind=str(properties.get("Kind", "")),
            default=bool(properties.get("Default", False)),
            state=str(properties.get("State", "")),
            stage=str(properties.get("Stage", "")),
            seed=str(properties.get("Seed", "")),
            sealed=int(properties.get("Sealed", 0)),
            commit_job=int(properties.get("CommitJob", 0)),
            snapshot_dated=int(properties.get("SnapshotDated", 0)),
            confirmed=int(properties.get("Confirmed", 0)),
            verified=int(properties.get("Verified", 0)),
            proven=int(properties.get("Proven", 0)),
            check_reason=str(properties.get("CheckReason", "")),
            key_file=str(properties.get("KeyFile", "")),
            last_outcome=str(properties.get("LastOutcome", "")),
            last_reason=str(properties.get("LastReason", "")),
        )


@dataclass(frozen=True)
class Vault:
    """A vault with its targets, the default one first, and the job that writes to it, if one runs."""

    name: str
    id: str = ""
    locked: bool = False
    passphrase_changed: int = 0
    kit_confirmed: int = 0
    default_target: str = ""
    last_job: int = 0
    last_outcome: str = ""
    last_reason: str = ""
    job: Job | None = None
    targets: tuple[Target, ...] = ()
    unsent: int = 0
    unsent_reason: str = ""

    @classmethod
    def of(cls, properties: Properties, job: Job | None, targets: tuple[Target, ...]) -> Self:
        return cls(
            name=str(properties.get("Name", "")),
            id=str(properties.get("Id", "")),
            locked=bool(properties.get("Locked", False)),
            passphrase_changed=int(properties.get("PassphraseChanged", 0)),
            kit_confirmed=int(properties.get("KitConfirmed", 0)),
            default_target=str(properties.get("DefaultTarget", "")),
            last_job=int(properties.get("LastJob", 0)),
            last_outcome=str(properties.get("LastOutcome", "")),
            last_reason=str(properties.get("LastReason", "")),
            job=job,
            targets=targets,
            unsent=int(properties.get("Unsent", 0)),
            unsent_reason=str(properties.get("UnsentReason", "")),
        )

    def as_json(self) -> dict[str, object]:
        return asdict(self)


def vaults(managed: Managed) -> list[Vault]:
    """Given all objects of the daemon, return the vaults by name."""
    found = [interfaces[names.VAULT] for interfaces in managed.values() if names.VAULT in interfaces]
    return sorted((_vault(properties, managed) for properties in found), key=lambda vault: vault.name)


def jobs(managed: Managed) -> list[Job]:
    """Given all objects of the daemon, return the jobs that run, oldest first."""
    return sorted((Job.of(interfaces[names.JOB]) for interfaces in managed.values() if names.JOB in interfaces), key=lambda job: job.job)


def _vault(properties: Properties, managed: Managed) -> Vault:
    path = names.vault_path(str(properties.get("Name", "")))
    running = managed.get(str(properties.get("Job", "/")), {}).get(names.JOB)
    below = [
        Target.of(interfaces[names.TARGET])
        for other, interfaces in managed.items()
        if names.TARGET in interfaces and other.startswith(f"{path}/targets/")
    ]
    return Vault.of(
        properties, Job.of(running) if running else None, tuple(sorted(below, key=lambda target: (not target.default, target.name)))
    )
