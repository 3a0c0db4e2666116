# SPDX-License-Identifier: GPL-3.0-or-later
"""Following a job to its end, across a restart of the daemon: the job lives in systemd, the daemon finds it again."""

import json
import time
from typing import Final, Protocol

from offsited import names
from offsited.core.outcome import ADVICE, Outcome, exit_status, parse_reason
from offsited.ctl.client import Client, Event, NoAnswer, NoSuchObject, Presence, Request, Signal
from offsited.ctl.objects import Job, JobEnd
from offsited.errors import ConfigInvalid, Different, Exit, Failed, Held, Internal, Locked, OffsitedError, TargetAbsent

QUIET: Final = 5.0
"""Seconds without a signal after which we look for ourselves."""
PATIENCE: Final = 60.0
"""Seconds that the daemon may be away."""

_ERRORS: Final[dict[Exit, type[OffsitedError]]] = {
    Exit.LOCKED: Locked,
    Exit.HELD: Held,
    Exit.ABSENT: TargetAbsent,
    Exit.CONFIG: ConfigInvalid,
    Exit.DIFFERENT: Different,
}


class Meter(Protocol):
    """Who shows progress."""

    def update(self, job: Job) -> None:
        """The job as it is now."""

    def pause(self) -> None:
        """The daemon is away."""

    def close(self) -> None:
        """Nothing more comes."""


def follow(client: Client, job: int, meter: Meter) -> JobEnd:
    """Wait for a job to end and return how. `client` is subscribed since before the job was asked for.

    Raise NoAnswer if the daemon stays away; the job goes on all the same.
    """
    try:
        return _Following(client, job, meter).to_end()
    finally:
        meter.close()


def outcome_of(client: Client, job: int) -> JobEnd:
    """Return how a job ended, or that it runs. Raise NoSuchJob."""
    reply = client.call(Request(names.ROOT_PATH, names.MANAGER, "GetOutcome", "u", (job,)))
    return JobEnd.of(job, reply.body[0])


def detail_of(client: Client, job: int) -> str:
    """Return what a job's record says beside the reason, or "" if we may not read it: polkit is not made to ask for this."""
    try:
        reply = client.call(Request(names.ROOT_PATH, names.MANAGER, "OpenRecord", "ua{sv}", (job, {})))
        with open(reply.fds[0], encoding="utf-8") as record:
            return str(json.load(record).get("detail", ""))
    except (OffsitedError, IndexError, OSError, ValueError):
        return ""


def verdict(end: JobEnd, detail: str = "") -> OffsitedError | None:
    """Given how a job ended, return the error to show and to exit with, or None if it was done."""
    reason = parse_reason(end.reason)
    advice = ADVICE[reason]
    try:
        status = exit_status(Outcome(end.outcome), reason)
    except ValueError:
        return Internal(
            f"the job ended in a way that this version does not know: {end.outcome}", hint="Is offsitectl of the daemon's version?"
        )
    if status is Exit.DONE:
        return None
    sentence = advice.sentence or _SENTENCES.get(end.outcome, f"the job ended as {end.outcome}")
    message = f"{sentence}: {detail}" if detail else sentence
    return _ERRORS.get(status, Failed)(message, hint=advice.hint.format(vault=end.vault, target=end.target, job=end.job))


_SENTENCES: Final[dict[str, str]] = {
    Outcome.PARTIAL: "something could not be sent",
    Outcome.HELD: "a limit held deletions or changes back",
    Outcome.FAILED: "the job failed",
}


class _Following:
    """One job, as far as we know it."""

    def __init__(self, client: Client, job: int, meter: Meter) -> None:
        self._client = client
        self._meter = meter
        self._path = names.job_path(job)
        self._job = Job(job)
        self._away_since = 0.0

    def to_end(self) -> JobEnd:
        end = self._look()
        while end is None:
            end = self._heed(self._client.next_event(QUIET))
        return end

    def _heed(self, event: Event | None) -> JobEnd | None:
        match event:
            case Presence(present=False):
                self._meter.pause()
                return None
            case Signal(interface=names.MANAGER, member="JobRemoved", body=(self._job.job, *_)):
                return self._look()
            case Signal(path=self._path, member="PropertiesChanged", body=(names.JOB, changed, *_)):
                self._show(self._job.changed(changed))
                return None
            case Presence() | None:
                return self._look()
        return None

    def _show(self, job: Job) -> None:
        self._job = job
        self._meter.update(job)

    def _look(self) -> JobEnd | None:
        """Ask how the job is; None if it runs, or if nobody can tell just now."""
        try:
            end = self._ask()
        except NoAnswer as error:
            self._be_patient(error)
            return None
        self._away_since = 0.0
        return end

    def _ask(self) -> JobEnd | None:
        try:
            self._show(Job.of(self._client.get(self._path, names.JOB)))
        except NoSuchObject:
            return self._ended()
        return None

    def _ended(self) -> JobEnd | None:
        """The object is gone: the job has ended, or the daemon has not yet taken it over."""
        end = outcome_of(self._client, self._job.job)
        return end if end.outcome else None

    def _be_patient(self, error: NoAnswer) -> None:
        now = time.monotonic()
        self._away_since = self._away_since or now
        if now - self._away_since > PATIENCE:
            raise error
