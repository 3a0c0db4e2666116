# SPDX-License-Identifier: GPL-3.0-or-later
"""monitor: what happens, as it happens, until Ctrl-C."""

import time
from collections.abc import Iterator

from offsited import names
from offsited.core import words
from offsited.core.outcome import ADVICE, parse_reason
from offsited.ctl import meter, objects
from offsited.ctl.client import Client, Event, Presence, Signal
from offsited.ctl.follow import outcome_of
from offsited.ctl.jobs import summary, vault_path
from offsited.ctl.objects import Job, leaf
from offsited.ctl.output import Output
from offsited.errors import OffsitedError

Happening = tuple[dict[str, object], str]
"""An object for --json, and a line for a person ("" = nothing worth a line)."""


def monitor(out: Output, client: Client, vault: str | None) -> int:
    """Print what happens to one vault, or to all. Ends by KeyboardInterrupt, or NoAnswer when the bus is gone."""
    client.subscribe()
    if vault is not None:
        vault_path(client, vault)
    watch = Watch(client, vault)
    for document, line in watch.begin():
        _tell(out, document, line)
    while True:
        event = client.next_event(None)
        if event is not None:
            for document, line in watch.heed(event):
                _tell(out, document, line)


class Watch:
    """Turns events of the daemon into what a person is told."""

    def __init__(self, client: Client, vault: str | None) -> None:
        self._client = client
        self._vault = vault
        self._jobs: dict[str, Job] = {}
        self._states: dict[str, object] = {}

    def begin(self) -> Iterator[Happening]:
        """The jobs that run already."""
        managed = self._client.managed_objects()
        self._states = {path: found[names.TARGET]["State"] for path, found in managed.items() if names.TARGET in found}
        for job in objects.jobs(managed):
            if self._wanted(job.vault):
                self._jobs[names.job_path(job.job)] = job
                yield _job("job-running", job), f"{_about(job)} runs: {meter.describe(job)}"

    def heed(self, event: Event) -> Iterator[Happening]:
        """What one event means; events of other vaults mean nothing."""
        match event:
            case Presence(present=present):
                yield {"event": "daemon", "present": present}, "the daemon is back" if present else "the daemon is gone; jobs go on"
            case Signal(interface=names.MANAGER, member="JobNew", body=(int(job), str(path), str(vault))) if self._wanted(vault):
                yield self._new(job, path, vault)
            case Signal(interface=names.MANAGER, member="JobRemoved", body=(int(job), str(path), str(vault), *_)) if self._wanted(vault):
                self._jobs.pop(path, None)
                yield self._removed(job)
            case Signal(path=path, member="PropertiesChanged", body=(str(interface), dict(changed), *_)):
                yield from self._changed(path, interface, changed)

    def _wanted(self, vault: str) -> bool:
        return self._vault in {None, vault}

    def _new(self, job: int, path: str, vault: str) -> Happening:
        try:
            self._jobs[path] = Job.of(self._client.get(path, names.JOB))
        except OffsitedError:  # it has ended already
            self._jobs[path] = Job(job, vault=vault)
        return _job("job-new", self._jobs[path]), f"{_about(self._jobs[path])} started"

    def _removed(self, job: int) -> Happening:
        end = outcome_of(self._client, job)
        sentence = ADVICE[parse_reason(end.reason)].sentence
        return {"event": "job-removed", **end.as_json()}, f"{summary(end)}{f'; {sentence}' if sentence else ''}"

    def _changed(self, path: str, interface: str, changed: dict[str, object]) -> Iterator[Happening]:
        vault = path.removeprefix(f"{names.ROOT_PATH}/vaults/").partition("/")[0]
        if interface == names.JOB and path in self._jobs:
            before, self._jobs[path] = self._jobs[path], self._jobs[path].changed(changed)
            job = self._jobs[path]
            yield _job("job-progress", job), f"{_about(job)}: {meter.phase(job.phase)}" if job.phase != before.phase else ""
        elif interface == names.VAULT and self._wanted(vault):
            line = f"{vault}: {'locked' if changed['Locked'] else 'unlocked'}" if "Locked" in changed else ""
            yield {"event": "vault-changed", "vault": vault, "changed": changed}, line
        elif interface == names.TARGET and self._wanted(vault):
            line = f"{vault}: target {leaf(path)} is {changed['State']}" if self._is_news(path, changed) else ""
            yield {"event": "target-changed", "vault": vault, "target": leaf(path), "changed": changed}, line

    def _is_news(self, path: str, changed: dict[str, object]) -> bool:
        """Whether a target's state is another one: block devices come and go that are not its own."""
        before = self._states.get(path)
        self._states[path] = changed.get("State", before)
        return self._states[path] != before


def _job(event: str, job: Job) -> dict[str, object]:
    return {"event": event, **job.as_json()}


def _about(job: Job) -> str:
    return f"{job.vault}: job {job.job}" + (f" ({job.kind}, target {job.target})" if job.kind else "")


def _tell(out: Output, document: dict[str, object], line: str) -> None:
    now = time.time_ns() // 1000
    out.put({"time": now, **document})
    if line:
        out.say(f"{words.clock(now)} {words.printable(line)}")
