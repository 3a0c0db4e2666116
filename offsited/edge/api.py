# SPDX-License-Identifier: GPL-3.0-or-later
"""The interfaces of dbus/org.offsited.Offsite1.xml over the engine: who may, what goes in, what comes out, who is told."""

import os
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

from offsited import __version__, names
from offsited.core.config import DiskTarget, SshTarget
from offsited.core.outcome import Outcome, Reason, exit_status, parse_reason
from offsited.core.record import Held, JobRecord, Options, Plan
from offsited.core.verification import Level
from offsited.edge.bus import Bus, Call
from offsited.edge.polkit import Polkit
from offsited.engine import Engine, Job, KnownTarget, KnownVault, Standing
from offsited.errors import Exit, InvalidArgs, NoSuchJob

_NO_OBJECT: Final = "/"
_PROGRESS: Final = ("Phase", "BytesDone", "BytesTotal", "EntriesDone", "EntriesTotal")

_Method = Callable[..., Awaitable[tuple[Any, ...]]]


class _Exported:
    """What the exports have in common: methods by name, each behind its polkit action if it has one."""

    interface: str

    def __init__(self, api: "Api") -> None:
        self._api = api

    @property
    def _engine(self) -> Engine:
        return self._api.engine

    def methods(self) -> Mapping[str, tuple[str, _Method]]:
        """The polkit action ("" = open to everybody) and the function of each method."""
        return {}

    async def call(self, call: Call, member: str, args: tuple[Any, ...]) -> tuple[Any, ...]:
        action, method = self.methods()[member]
        if action:
            await self._api.polkit.check(call, action)
        return await method(*args)


class ManagerExport(_Exported):
    """The daemon itself."""

    interface = names.MANAGER

    def properties(self) -> Mapping[str, object]:
        return {"Version": __version__, "InvalidVaults": list(self._engine.invalid)}

    def methods(self) -> Mapping[str, tuple[str, _Method]]:
        return {
            "Reload": (names.ACTION_CONFIGURE, self._reload),
            "GetVault": ("", self._get_vault),
            "GetOutcome": ("", self._get_outcome),
            "OpenRecord": (names.ACTION_SYNC, self._open_record),
        }

    async def _reload(self, options: Mapping[str, object]) -> tuple[Any, ...]:
        _flags(options)
        await self._engine.reload()
        return ()

    async def _get_vault(self, name: str) -> tuple[Any, ...]:
        return (names.vault_path(self._engine.vault(name).name),)

    async def _get_outcome(self, number: int) -> tuple[Any, ...]:
        return (_outcome(await self._engine.record(number)),)

    async def _open_record(self, number: int, options: Mapping[str, object]) -> tuple[Any, ...]:
        _flags(options)
        record = await self._engine.record(number)
        return (_memfd(record.model_dump_json().encode()),)


class VaultExport(_Exported):
    """One vault."""

    interface = names.VAULT

    def __init__(self, api: "Api", vault: KnownVault) -> None:
        super().__init__(api)
        self._vault = vault

    def properties(self) -> Mapping[str, object]:
        vault = self._vault
        job = self._engine.jobs.writing(vault.name)
        key = vault.files.key_record()
        return {
            "Name": vault.name,
            "Id": vault.id,
            "Locked": self._engine.locked(vault.name),
            "PassphraseSource": vault.config.entered_by,
            "PassphraseChanged": key.changed if key else 0,
            "KitConfirmed": key.kit_confirmed if key else 0,
            "Job": names.job_path(job.number) if job else _NO_OBJECT,
            "DefaultTarget": vault.config.default_target.name,
            "LastJob": vault.last.job if vault.last else 0,
            **_last(vault.last),
            **_unsent(Standing.of(vault)),
        }

    def methods(self) -> Mapping[str, tuple[str, _Method]]:
        return {
            "Unlock": (names.ACTION_UNLOCK, self._unlock),
            "Lock": (names.ACTION_UNLOCK, self._lock),
            "FetchPassphrase": (names.ACTION_UNLOCK, self._fetch_passphrase),
            "Sync": (names.ACTION_SYNC, self._sync),
            "Seal": (names.ACTION_SYNC, self._seal),
            "Adopt": (names.ACTION_SYNC, self._adopt),
            "Diff": (names.ACTION_APPROVE, self._diff),
            "Approve": (names.ACTION_APPROVE, self._approve),
            "Restore": (names.ACTION_RESTORE, self._restore),
            "Verify": (names.ACTION_VERIFY, self._verify),
            "RestoreTest": (names.ACTION_VERIFY, self._restore_test),
            "Mount": (names.ACTION_RESTORE, self._mount),
            "Unmount": (names.ACTION_RESTORE, self._unmount),
            "Cancel": (names.ACTION_CANCEL, self._cancel),
            "ListJobs": ("", self._list_jobs),
        }

    async def _unlock(self, passphrase: int, options: Mapping[str, object]) -> tuple[Any, ...]:
        _flags(options)
        await self._engine.unlock(self._vault.name, passphrase)
        return ()

    async def _lock(self, options: Mapping[str, object]) -> tuple[Any, ...]:
        _flags(options)
        self._engine.lock(self._vault.name)
        return ()

    async def _fetch_passphrase(self, options: Mapping[str, object]) -> tuple[Any, ...]:
        _flags(options)
        await self._engine.fetch_passphrase(self._vault.name)
        return ()

    async def _sync(self, target: str, options: Mapping[str, object]) -> tuple[Any, ...]:
        chosen = Options(**_flags(options, "allow_older", "reconcile", "adopt", "timed", "dry_run"))
        job = await self._engine.sync(self._vault.name, target, chosen)
        return (names.job_path(job.number),)

    async def _seal(self, target: str, options: Mapping[str, object]) -> tuple[Any, ...]:
        _flags(options)
        job = await self._engine.seal(self._vault.name, target)
        return (names.job_path(job.number),)

    async def _adopt(self, target: str, seed: str, findings: int, options: Mapping[str, object]) -> tuple[Any, ...]:
        _flags(options)
        job = await self._engine.adopt(self._vault.name, target, seed, findings)
        return (names.job_path(job.number),)

    async def _diff(self, target: str, output: int, options: Mapping[str, object]) -> tuple[Any, ...]:
        _flags(options)
        job = await self._engine.diff(self._vault.name, target, output)
        return (names.job_path(job.number),)

    async def _approve(self, target: str, plan: str, options: Mapping[str, object]) -> tuple[Any, ...]:
        _flags(options)
        job = await self._engine.approve(self._vault.name, target, plan)
        return (names.job_path(job.number),)

    async def _restore(self, target: str, destination: int, paths: int, options: Mapping[str, object]) -> tuple[Any, ...]:
        chosen = Options(**_flags(options, "without_manifest"))
        job = await self._engine.restore(self._vault.name, target, destination, paths, chosen)
        return (names.job_path(job.number),)

    async def _verify(self, target: str, findings: int, options: Mapping[str, object]) -> tuple[Any, ...]:
        job = await self._engine.verify(self._vault.name, target, findings, _verify_options(options))
        return (names.job_path(job.number),)

    async def _mount(self, target: str, point: int, options: Mapping[str, object]) -> tuple[Any, ...]:
        _flags(options)
        job = await self._engine.mount(self._vault.name, target, point)
        return (names.job_path(job.number),)

    async def _unmount(self, options: Mapping[str, object]) -> tuple[Any, ...]:
        _flags(options)
        await self._engine.unmount(self._vault.name)
        return ()

    async def _restore_test(self, target: str, options: Mapping[str, object]) -> tuple[Any, ...]:
        job = await self._engine.restore_test(self._vault.name, target, Options(**_flags(options, "timed")))
        return (names.job_path(job.number),)

    async def _cancel(self, options: Mapping[str, object]) -> tuple[Any, ...]:
        _flags(options)
        await self._engine.cancel(self._vault.name)
        return ()

    async def _list_jobs(self, limit: int) -> tuple[Any, ...]:
        ids = self._vault.files.job_ids()
        return (ids[:limit] if limit else ids,)


class TargetExport(_Exported):
    """One target of a vault."""

    interface = names.TARGET

    def __init__(self, api: "Api", vault: KnownVault, target: DiskTarget | SshTarget) -> None:
        super().__init__(api)
        self._vault = vault
        self._target = target

    def properties(self) -> Mapping[str, object]:
        known = self._vault.targets.get(self._target.name, KnownTarget())
        return {
            "Name": self._target.name,
            "Vault": names.vault_path(self._vault.name),
            "Kind": self._target.kind,
            "Default": self._target is self._vault.config.default_target,
            "State": self._state(known),
            "Stage": self._vault.stage(self._target).value,
            "Seed": (self._target.seed or "") if isinstance(self._target, SshTarget) else "",
            "Sealed": known.life.sealed.ended if known.life.sealed else 0,
            "CommitJob": known.commit_job,
            "SnapshotDated": known.snapshot_dated,
            "Confirmed": known.confirmed,
            "HeldPlan": known.held.plan,
            "HeldDeleted": known.held.deleted_entries,
            "HeldDeletedBytes": known.held.deleted_bytes,
            "HeldChanged": known.held.changed_entries,
            "HeldChangedBytes": known.held.changed_bytes,
            "Verified": known.verified.ended if known.verified else 0,
            "Proven": known.proven.ended if known.proven else 0,
            "CheckReason": known.check_reason,
            "KeyFile": self._key_file(known),
            **_last(known.last),
            **self._standing(known),
            "FreeBytes": known.room[0],
            "SizeBytes": known.room[1],
        }

    def _key_file(self, known: KnownTarget) -> str:
        """Whether the passphrase of now opens the target's copy of the key file."""
        record = self._vault.files.key_record()
        if record is None or not known.key_file:
            return "unknown"
        return "current" if known.key_file == record.sha256 else "older"

    def _standing(self, known: KnownTarget) -> Mapping[str, object]:
        standing, name = Standing.of(self._vault), self._target.name
        return {"Stale": standing.stale(name, known), "StaleAfter": standing.stale_after(name), "Degraded": standing.degraded(name)}

    def _state(self, known: KnownTarget) -> str:
        """Of a disk udev knows; of a host we know what the last job found."""
        if isinstance(self._target, DiskTarget):
            return self._engine.disk_state(self._vault, self._target)
        if known.last is None:
            return "unknown"
        unreached = known.last.outcome is Outcome.FAILED and exit_status(Outcome.FAILED, parse_reason(known.last.reason)) is Exit.ABSENT
        return "absent" if unreached else "present" if known.last.outcome is Outcome.DONE else "unknown"


class JobExport(_Exported):
    """One running job."""

    interface = names.JOB

    def __init__(self, api: "Api", job: Job) -> None:
        super().__init__(api)
        self._job = job

    def properties(self) -> Mapping[str, object]:
        record, progress = self._job.record, self._job.progress
        return {
            "Id": record.job,
            "Kind": record.kind.value,
            "Vault": names.vault_path(record.vault),
            "Target": names.target_path(record.vault, record.target),
            "Unit": record.unit,
            "Requested": record.requested,
            "Phase": progress.phase.value,
            "BytesDone": progress.bytes_done,
            "BytesTotal": progress.bytes_total,
            "EntriesDone": progress.entries_done,
            "EntriesTotal": progress.entries_total,
        }

    def methods(self) -> Mapping[str, tuple[str, _Method]]:
        return {"Cancel": (names.ACTION_CANCEL, self._cancel)}

    async def _cancel(self, options: Mapping[str, object]) -> tuple[Any, ...]:
        _flags(options)
        if self._engine.jobs.find(self._job.number) is None:
            raise NoSuchJob(f"job {self._job.number} has ended")
        await self._engine.jobs.cancel(self._job)
        return ()


class Api:
    """The `Announcer` of the engine: keeps the objects on the bus as the engine's are, and signals what changes."""

    engine: Engine

    def __init__(self, bus: Bus, polkit: Polkit) -> None:
        self._bus = bus
        self.polkit = polkit
        self._exports: dict[str, VaultExport | TargetExport | JobExport] = {}

    def serve(self, engine: Engine) -> None:
        """Put the manager on the bus. Everything else comes as the engine announces it."""
        self.engine = engine
        self._bus.export(names.ROOT_PATH, [ManagerExport(self)])

    def vault_added(self, vault: KnownVault) -> None:
        self._export(names.vault_path(vault.name), VaultExport(self, vault))
        for target in vault.config.target:
            self._export(names.target_path(vault.name, target.name), TargetExport(self, vault, target))

    def vault_removed(self, vault: KnownVault) -> None:
        for target in vault.config.target:
            self._unexport(names.target_path(vault.name, target.name))
        self._unexport(names.vault_path(vault.name))

    def vault_changed(self, vault: KnownVault, *properties: str) -> None:
        self._changed(names.vault_path(vault.name), *properties)

    def target_changed(self, vault: KnownVault, target: str, *properties: str) -> None:
        self._changed(names.target_path(vault.name, target), *properties)

    def invalid_changed(self) -> None:
        self._bus.changed(names.ROOT_PATH, names.MANAGER, {"InvalidVaults": list(self.engine.invalid)})

    def job_added(self, job: Job) -> None:
        path = names.job_path(job.number)
        self._export(path, JobExport(self, job))
        self._bus.emit(names.ROOT_PATH, names.MANAGER, "JobNew", job.number, path, job.record.vault)

    def job_changed(self, job: Job) -> None:
        self._changed(names.job_path(job.number), *_PROGRESS)

    def job_removed(self, job: Job) -> None:
        path = names.job_path(job.number)
        self._unexport(path)
        outcome = job.record.outcome or Outcome.FAILED
        self._bus.emit(names.ROOT_PATH, names.MANAGER, "JobRemoved", job.number, path, job.record.vault, outcome.value)

    def _export(self, path: str, export: VaultExport | TargetExport | JobExport) -> None:
        self._exports[path] = export
        self._bus.export(path, [export])

    def _unexport(self, path: str) -> None:
        if self._exports.pop(path, None) is not None:
            self._bus.unexport(path)

    def _changed(self, path: str, *properties: str) -> None:
        export = self._exports.get(path)
        if export is not None:
            values = export.properties()
            self._bus.changed(path, export.interface, {name: values[name] for name in properties})


def _flags(options: Mapping[str, object], *known: str) -> dict[str, bool]:
    """Given options of which all known ones are of type b, return them. Raise InvalidArgs."""
    for key, value in options.items():
        if key not in known:
            raise InvalidArgs(f"there is no option {key[:255]!r} here")
        if not isinstance(value, bool):
            raise InvalidArgs(f"option {key} is of type b")
    return {key: bool(value) for key, value in options.items()}


def _verify_options(options: Mapping[str, object]) -> Options:
    """Given the options of a verification, return them. Raise InvalidArgs."""
    level, sample = options.get("level", ""), options.get("sample", 0)
    if not isinstance(level, str) or level not in {"", *Level}:
        raise InvalidArgs("option level is commit, metadata or data")
    if not isinstance(sample, int) or isinstance(sample, bool) or (sample and level != Level.DATA):
        raise InvalidArgs("option sample is of type u, and of level data")
    flags = _flags({key: value for key, value in options.items() if key not in {"level", "sample"}}, "repair", "timed")
    return Options(level=level, sample=sample, **flags)


def _last(record: JobRecord | None) -> dict[str, str]:
    outcome = record.outcome.value if record and record.outcome else ""
    return {"LastOutcome": outcome, "LastReason": record.reason if record else Reason.NONE.value}


def _unsent(standing: Standing) -> dict[str, object]:
    return {"Unsent": standing.unsent, "UnsentReason": standing.unsent_reason}


def _outcome(record: JobRecord) -> dict[str, object]:
    """The words and numbers of a record: no names, no paths."""
    numbers = ("requested", "started", "ended", "snapshot_dated")
    return {
        "kind": record.kind.value,
        "vault": record.vault,
        "target": record.target,
        "outcome": record.outcome.value if record.outcome else "",
        "reason": record.reason,
        "commit": record.commit,
        **{name: getattr(record, name) for name in numbers},
        **record.counts.model_dump(),
        "dry_run": record.options.dry_run,
        **{f"plan_{name}": value for name, value in (record.plan or Plan()).model_dump().items()},
        **{f"held_{name}": value for name, value in (record.held or Held()).model_dump().items()},
    }


def _memfd(content: bytes) -> int:
    """A read-only descriptor of these bytes."""
    writable = os.memfd_create("offsited-record", os.MFD_CLOEXEC)
    try:
        with open(writable, "wb", closefd=False) as file:
            file.write(content)
        return os.open(f"/proc/self/fd/{writable}", os.O_RDONLY | os.O_CLOEXEC)
    finally:
        os.close(writable)
