# SPDX-License-Identifier: GPL-3.0-or-later
"""Jobs from request to recorded end. The unit is the job; here is only who watches it, and an end is what the record says."""

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from offsited import names
from offsited.core.event import MESSAGE_IDS, Event
from offsited.core.judgment import event_of
from offsited.core.outcome import ADVICE, Outcome, Reason, parse_reason
from offsited.core.progress import Progress, parse_status_text
from offsited.core.record import JobRecord, Kind
from offsited.core.unit import UnitEnd, UnitSpec, concluded, description
from offsited.engine.awake import Awake
from offsited.engine.outside import Announcer, Unit, Units
from offsited.errors import Failed, OffsitedError
from offsited.store import VaultFiles

_log = logging.getLogger(__name__)

_GONE = UnitEnd(known=False, result="gone", exit_status=-1, exited=False)


@dataclass
class Job:
    """A job that runs. `record` is as it was when the job was asked for; the worker owns the file until the unit has ended."""

    record: JobRecord
    files: VaultFiles
    progress: Progress = field(default_factory=Progress)

    @property
    def number(self) -> int:
        return self.record.job

    @property
    def writes(self) -> bool:
        """Whether it is the vault's one job that may write."""
        return self.record.unit == names.job_unit(self.record.vault)


class Jobs:
    """Those that run. `on_end` is given the job and its final record before anybody else hears of the end."""

    def __init__(self, units: Units, announcer: Announcer, awake: Awake, on_end: Callable[[Job, JobRecord], None]) -> None:
        self._units = units
        self._awake = awake
        self._announcer = announcer
        self._on_end = on_end
        self._running: dict[int, Job] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def find(self, number: int) -> Job | None:
        """The job of a number, if it runs."""
        return self._running.get(number)

    def writing(self, vault: str) -> Job | None:
        """The job that writes to a vault, if one runs."""
        return next((job for job in self._running.values() if job.writes and job.record.vault == vault), None)

    def reading(self, vault: str, target: str, kind: Kind) -> Job | None:
        """The job of a kind that reads a target, if one runs."""
        wanted = (vault, target, kind)
        return next((job for job in self._running.values() if (job.record.vault, job.record.target, job.record.kind) == wanted), None)

    def running(self) -> tuple[Job, ...]:
        """All of them."""
        return tuple(self._running.values())

    async def start(self, record: JobRecord, files: VaultFiles, spec: UnitSpec, key: int | None, extra: Mapping[str, int]) -> Job:
        """Put a job on record and start its unit. Raise Busy or Failed; then the record is gone, or says that the unit failed."""
        job = Job(record, files)
        await asyncio.to_thread(files.write_record, record)
        try:
            unit = await self._units.start(spec, lambda text: self._on_status(job, text), key, extra)
        except OffsitedError as error:
            await asyncio.to_thread(_not_started, job, error)
            raise
        self._follow(job, unit)
        return job

    async def record_failure(self, record: JobRecord, files: VaultFiles) -> None:
        """Put on record a job that never began, and tell of its end as of any other's."""
        job = Job(record, files)
        await asyncio.to_thread(files.write_record, record)
        self._on_end(job, record)
        self._announcer.job_removed(job)
        _summarize(record)

    async def adopt(self, record: JobRecord, files: VaultFiles) -> None:
        """Take up a job whose record has no end: watch its unit if that still runs, or record that it was interrupted."""
        job = Job(record, files)
        invocation, told = await self._units.identity(record.unit)
        ours = told == description(record) and record.invocation in {"", invocation}
        unit = await self._units.adopt(record.unit, lambda text: self._on_status(job, text)) if ours else None
        if unit is None:
            await self._conclude(job, _GONE)
        else:
            _tell(record, logging.INFO, f"job {record.job} of vault {record.vault} goes on; the daemon watches it again")
            self._follow(job, unit)

    async def cancel(self, job: Job) -> None:
        """Ask for a job's end."""
        await self._units.stop(job.record.unit)

    async def abandon(self) -> None:
        """Stop watching. The units go on; the next daemon adopts them."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _follow(self, job: Job, unit: Unit) -> None:
        self._running[job.number] = job
        self._announcer.job_added(job)
        task = asyncio.create_task(self._see_through(job, unit), name=f"job {job.number}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _see_through(self, job: Job, unit: Unit) -> None:
        self._awake.job_runs(job.record)
        try:
            end = await unit.ended()
        finally:
            self._awake.job_ended(job.number)
            self._units.forget(job.record.unit)
        await self._conclude(job, end)

    async def _conclude(self, job: Job, end: UnitEnd) -> None:
        record = await asyncio.to_thread(_final_record, job, end)
        self._running.pop(job.number, None)
        self._on_end(job, record)
        self._announcer.job_removed(replace(job, record=record))
        _summarize(record)

    def _on_status(self, job: Job, text: str) -> None:
        progress = parse_status_text(text)
        if progress is not None and progress != job.progress:
            job.progress = progress
            self._announcer.job_changed(job)


def now() -> int:
    """Microseconds since the epoch."""
    return time.time_ns() // 1000


def _not_started(job: Job, error: OffsitedError) -> None:
    """A job that found the vault busy never was; one that systemd refused is a failed one."""
    if isinstance(error, Failed):
        end = {"ended": now(), "outcome": Outcome.FAILED, "reason": Reason.UNIT_FAILED.value, "detail": error.message}
        job.files.write_record(job.record.model_copy(update=end))
    else:
        job.files.remove_record(job.number)


def _final_record(job: Job, end: UnitEnd) -> JobRecord:
    """The record as the worker left it, with an end if it has none."""
    found = job.files.read_record(job.number) or job.record
    final = concluded(found, end, now())
    if final is not found:
        try:
            job.files.write_record(final)
        except OSError as error:  # the vault was removed, say: the job has ended all the same
            _tell(final, logging.ERROR, f"the end of job {final.job} cannot be recorded: {error.strerror}")
    return final


def _summarize(record: JobRecord) -> None:
    """One line for the journal."""
    reason = parse_reason(record.reason)
    counts = record.counts
    words = [f"job {record.job}, {record.kind} of vault {record.vault}, target {record.target}: {record.outcome}"]
    if reason is not Reason.NONE:
        words.append(ADVICE[reason].sentence)
    if counts.differences:
        words.append(f"{counts.differences} differences")
    if record.kind in {Kind.VERIFY, Kind.RESTORE_TEST}:
        words.append(f"{counts.entries} entries met, {counts.bytes} bytes read")
    else:
        words.append(
            f"{counts.sent_entries} of {counts.entries} entries and {counts.sent_bytes} bytes sent, {counts.deleted_entries} deleted"
        )
    more = {
        names.FIELD_OUTCOME: str(record.outcome),
        names.FIELD_MESSAGE_ID: MESSAGE_IDS[event_of(record) or Event.FAILED],
        names.FIELD_REASON: record.reason,
    }
    _tell(record, logging.INFO if record.outcome is Outcome.DONE else logging.ERROR, "; ".join(words), **more)


def _tell(record: JobRecord, level: int, sentence: str, **more: str) -> None:
    fields = {names.FIELD_VAULT: record.vault, names.FIELD_TARGET: record.target, names.FIELD_JOB: str(record.job), **more}
    _log.log(level, "%s", sentence, extra=fields)
