# SPDX-License-Identifier: GPL-3.0-or-later
"""The verbs of the daemon. Whoever calls one is authorised already."""

import asyncio
import logging
import os
import stat
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from offsited import names
from offsited.core import unit
from offsited.core.config import DiskTarget, SshTarget
from offsited.core.outcome import ADVICE, Outcome, Reason
from offsited.core.record import WRITING, JobRecord, Kind, Options
from offsited.engine.arrivals import Arrivals
from offsited.engine.awake import Awake
from offsited.engine.clearing import Clearing
from offsited.engine.jobs import Job, Jobs, now
from offsited.engine.known import KnownVault
from offsited.engine.outside import Announcer, Disks, Keys, Sleep, Units
from offsited.engine.passphrases import Passphrases, closing
from offsited.engine.teller import Teller
from offsited.errors import (
    Busy,
    ConfigInvalid,
    Exit,
    Failed,
    Held,
    InvalidArgs,
    Locked,
    NoSuchJob,
    NoSuchTarget,
    NoSuchVault,
    OffsitedError,
    TargetAbsent,
)
from offsited.store import Store

_log = logging.getLogger(__name__)

_NOTHING: Final[Mapping[str, int]] = {}
_CHECKED: Final = ("State", "Verified", "Proven", "CheckReason")
_SYNCED: Final = (
    "State", "CommitJob", "SnapshotDated", "Confirmed", "KeyFile", "LastOutcome", "LastReason", "FreeBytes", "SizeBytes",
    "HeldPlan", "HeldDeleted", "HeldDeletedBytes", "HeldChanged", "HeldChangedBytes", "Verified", "Stage", "Sealed",
)  # fmt: skip
"""Properties of a target that the end of a job may change."""
PATHS_MAX: Final = 64 << 20
"""Bytes of a list of paths to restore."""


class Engine:
    """All vaults, their keys and their jobs."""

    def __init__(
        self,
        store: Store,
        units: Units,
        keys: Keys,
        disks: Disks,
        announcer: Announcer,
        *,
        sleep: Sleep,
        show_locked: Callable[[Sequence[str]], None] = lambda _vaults: None,
    ) -> None:
        """`show_locked` is told which vaults are locked, whenever that has changed."""
        self._store = store
        self._units = units
        self._passphrases = Passphrases(keys, units, self._unlocked)
        self._disks = disks
        self._announcer = announcer
        self._vaults: dict[str, KnownVault] = {}
        self._invalid: tuple[str, ...] = ()
        self._starting: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._numbering = asyncio.Lock()
        self._begun = False
        self._show_locked = show_locked
        self._tasks: set[asyncio.Task[None]] = set()
        self._teller = Teller(store, units)
        self.jobs = Jobs(units, announcer, Awake(sleep), self._job_ended)
        self._arrivals = Arrivals(disks, self.jobs, self.sync)
        self._clearing = Clearing(disks, units, self.jobs)

    # --- what is known ---------------------------------------------------------------------------------------------

    @property
    def invalid(self) -> tuple[str, ...]:
        """Names of vault files that cannot be used."""
        return self._invalid

    def vault(self, name: str) -> KnownVault:
        """Return a vault. Raise NoSuchVault, or ConfigInvalid for one whose file is invalid."""
        if name in self._vaults:
            return self._vaults[name]
        if name in self._invalid:
            raise ConfigInvalid(f"the configuration of vault {name} is invalid", hint="See what is wrong: offsitectl check-config")
        raise NoSuchVault(f"there is no vault {name!r}", hint="See the vaults: offsitectl list")

    def vaults(self) -> tuple[KnownVault, ...]:
        """All vaults, by name."""
        return tuple(self._vaults[name] for name in sorted(self._vaults))

    def locked(self, vault: str) -> bool:
        """Whether a passphrase must be entered before a job can run."""
        return vault not in self._passphrases.vaults()

    def disk_state(self, vault: KnownVault, target: DiskTarget) -> str:
        """How a disk target stands: absent, cloned, busy (a job has it), foreign (it was found to be another vault's) or present."""
        if not self._disks.present(target):
            return "absent"
        if self._disks.cloned(target):
            return "cloned"
        if any((job.record.vault, job.record.target) == (vault.name, target.name) for job in self.jobs.running()):
            return "busy"
        last = vault.targets[target.name].last
        seen = last is not None and last.ended > self._arrivals.since(vault.name, target.name)
        return "foreign" if last and seen and last.reason == Reason.TARGET_FOREIGN else "present"

    async def record(self, number: int) -> JobRecord:
        """Return a job's record. Raise NoSuchJob."""
        for name in self._known_names():
            record = await asyncio.to_thread(self._store.vault_files(name).read_record, number)
            if record is not None:
                return record
        raise NoSuchJob(f"no job {number} is on record")

    def _known_names(self) -> list[str]:
        return sorted({*self._vaults, *self._invalid})

    # --- configuration ---------------------------------------------------------------------------------------------

    async def begin(self) -> None:
        """Read the configuration and the records, and take up the jobs that an earlier daemon left."""
        await self.reload()
        for name in self._known_names():
            files = self._store.vault_files(name)
            for record in await asyncio.to_thread(lambda: [found for found in files.records() if found.outcome is None]):  # noqa: B023
                await self.jobs.adopt(record, files)
        self._begun = True
        self.disks_changed()

    async def reload(self) -> None:
        """Read the configuration again. A vault that is as it was stays; a running job keeps what it started with."""
        found, invalid = await asyncio.to_thread(self._read)
        for vault in self.vaults():
            if found.get(vault.name) is None or found[vault.name].config != vault.config or found[vault.name].id != vault.id:
                del self._vaults[vault.name]
                self._announcer.vault_removed(vault)
                if vault.name not in found:
                    self._arrivals.forget(vault.name)
        for name in sorted(found.keys() - self._vaults.keys()):
            self._vaults[name] = found[name]
            self._announcer.vault_added(found[name])
        if invalid != self._invalid:
            self._invalid = invalid
            self._announcer.invalid_changed()
        for name in self._passphrases.vaults().difference(found, invalid):
            self._passphrases.drop(name)  # nobody could lock a vault that is no more
        self._tell_locked()
        if self._begun:
            self._look_at_disks(heed=False)

    def _read(self) -> tuple[dict[str, KnownVault], tuple[str, ...]]:
        found: dict[str, KnownVault] = {}
        invalid = []
        for name in self._store.vault_names():
            try:
                found[name] = KnownVault.learn(self._store.read_vault(name), self._store.vault_files(name))
            except (ConfigInvalid, NoSuchVault) as error:
                invalid.append(name)
                _log.error("%s", error.message, extra={names.FIELD_VAULT: name})
        return found, tuple(invalid)

    # --- passphrases -----------------------------------------------------------------------------------------------

    async def unlock(self, vault: str, descriptor: int) -> None:
        """Prove a passphrase and keep it. Raise InvalidArgs, WrongPassphrase, ConfigInvalid, Busy or Failed."""
        self.vault(vault)
        await self._passphrases.enter(vault, descriptor)

    def lock(self, vault: str) -> None:
        """Forget a vault's passphrase. A job that runs has its own."""
        self.vault(vault)
        self._passphrases.drop(vault)
        _log.info("vault %s is locked", vault, extra={names.FIELD_VAULT: vault})
        self._announcer.vault_changed(self._vaults[vault], "Locked")
        self._tell_locked()

    async def fetch_passphrase(self, vault: str) -> None:
        """Unlock a vault as its file says, without a person. Raise Locked if that does not help, or if it says no way."""
        await self._passphrases.fetch(self.vault(vault))

    def _tell_locked(self) -> None:
        self._show_locked([vault.name for vault in self.vaults() if self.locked(vault.name)])

    def _unlocked(self, name: str) -> None:
        _log.info("vault %s is unlocked", name, extra={names.FIELD_VAULT: name})
        vault = self._vaults.get(name)
        if vault is not None:
            self._announcer.vault_changed(vault, "Locked", "PassphraseChanged")  # what was handed over may be a new one
            for target in vault.config.target:
                self._announcer.target_changed(vault, target.name, "KeyFile")
            self._arrivals.again(vault)
        self._tell_locked()

    # --- jobs ------------------------------------------------------------------------------------------------------

    async def sync(self, name: str, target: str, options: Options, extra: Mapping[str, int] = _NOTHING) -> Job:
        """Start a sync, which `extra` descriptors are handed to by name.

        Raise Locked, Busy, NoSuchTarget, TargetAbsent (a seed stands in the way), ConfigInvalid or Failed.
        """
        async with self._starting[name]:
            vault = self.vault(name)
            wanted = asked = _find_target(vault, target)
            seed = vault.awaited(wanted)
            if seed is not None and options.timed:
                wanted, seed = seed, None
            running = self.jobs.writing(name)
            if running is not None and _is_predecessor(running.record, wanted.name, options):
                self._teller.skipped(vault, running.number)
                return running
            self._check_free(name)
            if seed is not None and not (options.adopt or options.dry_run):
                raise _refusal(vault, wanted.name, Reason.SEED_AWAITED)
            if options.timed and not options.arrived and vault.life(wanted.name).sealed:
                raise await self._refused(vault, asked.name, options, Reason.SEED_IN_TRANSIT)
            return await self._write(vault, wanted, Kind.SYNC, options, extra)

    async def seal(self, name: str, target: str) -> Job:
        """Start the last sync of a disk before it travels. Raise InvalidArgs for a target that is no disk, and as sync."""
        async with self._starting[name]:
            vault = self.vault(name)
            wanted = _find_target(vault, target)
            if not isinstance(wanted, DiskTarget):
                raise InvalidArgs(f"target {wanted.name} is no disk: there is nothing to seal")
            self._check_free(name)
            return await self._write(vault, wanted, Kind.SEAL, Options(), _NOTHING)

    async def adopt(self, name: str, target: str, seed: str, findings: int) -> Job:
        """Start to compare what lies at an ssh target with what a seed held, and take it over if it is that. Sends nothing.

        `findings`: a file of the caller's, for what differs. Raise Locked, Busy, NoSuchTarget, InvalidArgs, ConfigInvalid or Failed.
        """
        if not stat.S_ISREG(os.fstat(findings).st_mode):
            raise InvalidArgs("what is found can be told to a regular file or memfd alone")
        async with self._starting[name]:
            vault = self.vault(name)
            wanted, filled = _find_target(vault, target), _find_target(vault, seed)
            if not isinstance(wanted, SshTarget) or not isinstance(filled, DiskTarget):
                raise InvalidArgs(f"a seed is a disk and is adopted at an ssh target: not {filled.name} at {wanted.name}")
            self._check_free(name)
            return await self._write(vault, wanted, Kind.ADOPT, Options(seed=filled.name), {names.FINDINGS_FD: findings})

    def _check_free(self, name: str) -> None:
        """Raise Busy if a job writes to a vault."""
        running = self.jobs.writing(name)
        if running is not None:
            raise Busy(f"job {running.number} writes to vault {name}", hint=f"Follow it: offsitectl monitor {name}")

    async def _write(
        self, vault: KnownVault, target: DiskTarget | SshTarget, kind: Kind, options: Options, extra: Mapping[str, int]
    ) -> Job:
        """Start the vault's one job that may write."""
        if not options.dry_run and isinstance(target, DiskTarget) and self._disks.cloned(target):
            raise await self._refused(vault, target.name, options, Reason.TARGET_CLONED)
        try:
            job = await self._start(vault, target, kind, options, extra)
        except Locked as error:
            await self._refused(vault, target.name, options, Reason.LOCKED, error.message)
            raise
        if not options.dry_run:
            self._teller.started(vault, job.number)
        self._announcer.vault_changed(vault, "Job")
        return job

    async def _refused(self, vault: KnownVault, target: str, options: Options, reason: Reason, detail: str = "") -> OffsitedError:
        """Return the error of a sync that cannot begin. Nobody is there to read that of a timed one: it goes on record like any other."""
        if options.timed:
            async with self._numbering:
                number = await asyncio.to_thread(self._store.next_job)
            record = self._record(number, Kind.SYNC, vault, target, options)
            outcome = Outcome.IN_TRANSIT if reason is Reason.SEED_IN_TRANSIT else Outcome.FAILED
            end = {"ended": now(), "outcome": outcome, "reason": reason.value, "detail": detail}
            await self.jobs.record_failure(record.model_copy(update=end), vault.files)
        return _refusal(vault, target, reason)

    async def diff(self, name: str, target: str, output: int) -> Job:
        """Start a dry run of a sync that writes its plan, names in clear, into an open file. Raise Busy, NoSuchTarget, InvalidArgs."""
        if not stat.S_ISREG(os.fstat(output).st_mode):
            raise InvalidArgs("the plan goes into a regular file or memfd")
        return await self.sync(name, target, Options(dry_run=True), {names.DIFF_FD: output})

    async def approve(self, name: str, target: str, plan: str) -> Job:
        """Release what a limit holds back at a target, if it is still what was shown under this id, and sync. Raise Held, and as sync."""
        vault = self.vault(name)
        wanted = _find_target(vault, target)
        held = vault.targets[wanted.name].held.plan
        if not held:
            raise Held(f"nothing waits for an approval at target {wanted.name} of vault {name}", hint=f"See: offsitectl status {name}")
        if plan != held:
            raise Held(
                f"what is held at target {wanted.name} of vault {name} is {held} by now, and not what was to be approved",
                hint=f"Look again: offsitectl diff {name} --target {wanted.name}",
            )
        return await self.sync(name, wanted.name, Options(approved=plan))

    async def restore(self, name: str, target: str, destination: int, paths: int, options: Options) -> Job:
        """Start a restore into an open directory. Raise Locked, NoSuchTarget, InvalidArgs, ConfigInvalid or Failed."""
        vault = self.vault(name)
        wanted = _find_target(vault, target)
        if not stat.S_ISDIR(os.fstat(destination).st_mode):
            raise InvalidArgs("the destination is not a directory")
        listed = os.fstat(paths)
        if not stat.S_ISREG(listed.st_mode) or listed.st_size > PATHS_MAX:
            raise InvalidArgs(f"the paths must come in a regular file or memfd of at most {PATHS_MAX} bytes")
        return await self._start(vault, wanted, Kind.RESTORE, options, {names.DESTINATION_FD: destination, names.PATHS_FD: paths})

    async def verify(self, name: str, target: str, findings: int | None, options: Options) -> Job:
        """Start a verification. `findings`: a file of the caller's, for what is found.

        Raise Locked, Busy, NoSuchTarget, InvalidArgs, ConfigInvalid or Failed.
        """
        if findings is not None and not stat.S_ISREG(os.fstat(findings).st_mode):
            raise InvalidArgs("what is found can be told to a regular file or memfd alone")
        return await self._start_reader(name, target, Kind.VERIFY, options, {} if findings is None else {names.FINDINGS_FD: findings})

    async def restore_test(self, name: str, target: str, options: Options) -> Job:
        """Start a restore for proof. Raise Locked, Busy, NoSuchTarget, ConfigInvalid or Failed."""
        return await self._start_reader(name, target, Kind.RESTORE_TEST, options, {})

    async def mount(self, name: str, target: str, point: int) -> Job:
        """Show what a target holds at an open directory. Raise Locked, NoSuchTarget, InvalidArgs, ConfigInvalid or Failed."""
        vault = self.vault(name)
        wanted = _find_target(vault, target)
        if not stat.S_ISDIR(os.fstat(point).st_mode):
            raise InvalidArgs("the mount point is not a directory")
        return await self._start(vault, wanted, Kind.MOUNT, Options(), {names.MOUNT_POINT_FD: point})

    async def unmount(self, name: str) -> None:
        """End all mounts of a vault. Raise NoSuchJob if there is none."""
        mounts = [job for job in self.jobs.running() if (job.record.vault, job.record.kind) == (self.vault(name).name, Kind.MOUNT)]
        if not mounts:
            raise NoSuchJob(f"nothing of vault {name} is mounted")
        for job in mounts:
            await self.jobs.cancel(job)

    async def _start_reader(self, name: str, target: str, kind: Kind, options: Options, extra: Mapping[str, int]) -> Job:
        """Start a job that reads a target, of which there is one of a kind at a time: it has a place for what it notes."""
        async with self._starting[f"{kind} {name}"]:
            vault = self.vault(name)
            wanted = asked = _find_target(vault, target)
            if options.timed:
                wanted = vault.awaited(wanted) or wanted
                if vault.life(wanted.name).sealed:
                    raise _refusal(vault, asked.name, Reason.SEED_IN_TRANSIT)
            running = self.jobs.reading(name, wanted.name, kind)
            if running is not None:
                raise Busy(f"job {running.number} does that to target {wanted.name} already", hint=f"Follow it: offsitectl monitor {name}")
            return await self._start(vault, wanted, kind, options, extra)

    async def cancel(self, name: str) -> None:
        """End the job that writes to a vault. Raise NoSuchJob if none runs."""
        job = self.jobs.writing(self.vault(name).name)
        if job is None:
            raise NoSuchJob(f"no job writes to vault {name}")
        await self.jobs.cancel(job)

    async def _start(
        self, vault: KnownVault, target: DiskTarget | SshTarget, kind: Kind, options: Options, extra: Mapping[str, int]
    ) -> Job:
        with closing(None if options.dry_run else await self._passphrases.of(vault)) as key:
            async with self._numbering:
                number = await asyncio.to_thread(self._store.next_job)
            record = self._record(number, kind, vault, target.name, options)
            spec = unit.job_unit(record, vault.config, target, str(vault.files.directory))
            job = await self.jobs.start(record, vault.files, spec, key, extra)
            self._announcer.target_changed(vault, target.name, "State")
            return job

    def _record(self, number: int, kind: Kind, vault: KnownVault, target: str, options: Options) -> JobRecord:
        """The record of a job that is asked for now."""
        return JobRecord(
            job=number,
            kind=kind,
            vault=vault.name,
            target=target,
            options=options,
            unit=names.job_unit(vault.name) if kind in WRITING else names.reader_unit(kind, vault.name, number),
            requested=now(),
        )

    def _job_ended(self, job: Job, record: JobRecord) -> None:
        """Learn from a job's end. The vault may have gone from the configuration meanwhile."""
        vault = self._vaults.get(record.vault)
        if vault is None:
            return
        if not record.options.dry_run:
            self._teller.ended(vault, record.job)
        vault.take(record)
        vault.files.prune_records(vault.kept)
        target = vault.config.find_target(record.target)
        if isinstance(target, DiskTarget):
            self._clearing.look(vault.name, target)
        if not job.writes:
            self._announcer.target_changed(vault, record.target, *_CHECKED)
            return
        self._announcer.vault_changed(vault, "Job", "LastJob", "LastOutcome", "LastReason")
        self._announcer.target_changed(vault, record.target, *_SYNCED)
        for kin in vault.config.target:  # a seed and its heirs live one life
            if kin.name != record.target:
                self._announcer.target_changed(vault, kin.name, "Stage")
        self._arrivals.again(vault)
        if record.kind is Kind.SYNC and record.newer and record.outcome in {Outcome.DONE, Outcome.PARTIAL}:
            self._again(record)

    def _again(self, record: JobRecord) -> None:
        """While a job ran, its source has named another snapshot: sync that one too."""
        options = Options(timed=record.options.timed)
        task = asyncio.get_running_loop().create_task(self._sync_quietly(record.vault, record.target, options))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _sync_quietly(self, vault: str, target: str, options: Options) -> None:
        try:
            await self.sync(vault, target, options)
        except OffsitedError as error:
            _log.warning("vault %s: the newer snapshot is not synced now: %s", vault, error.message, extra={names.FIELD_VAULT: vault})

    def disks_changed(self) -> None:
        """Block devices have come or gone."""
        if self._begun:
            self._look_at_disks(heed=True)

    def _look_at_disks(self, *, heed: bool) -> None:
        for vault in self.vaults():
            for target in vault.config.target:
                if isinstance(target, DiskTarget):
                    if self._arrivals.look(vault, target, heed=heed):
                        self._announcer.target_changed(vault, target.name, "State")
                    self._clearing.look(vault.name, target)


def _refusal(vault: KnownVault, target: str, reason: Reason) -> OffsitedError:
    """What a person is told of a sync that cannot begin."""
    advice = ADVICE[reason]
    error = TargetAbsent if advice.exit_status is Exit.ABSENT else Failed
    return error(f"target {target}: {advice.sentence}", hint=advice.hint.format(vault=vault.name, target=target, job=0))


def _is_predecessor(running: JobRecord, target: str, options: Options) -> bool:
    """Whether a timed sync meets the timed sync before it: there is nothing to do that this one does not do."""
    return running.kind is Kind.SYNC and running.options.timed and options.timed and running.target == target


def _find_target(vault: KnownVault, name: str) -> DiskTarget | SshTarget:
    target = vault.config.find_target(name)
    if target is None:
        raise NoSuchTarget(f"vault {vault.name} has no target {name!r}", hint=f"See the targets: offsitectl status {vault.name}")
    return target
