# SPDX-License-Identifier: GPL-3.0-or-later
"""Judging a vault: what was told, what is on record, and a moment in; notices, and what is told now, out. Pure.

A *trouble* is a state that lasts. It is told once when it begins, once a day while it lasts, and once when it is over. Whoever calls
`judge` may do so as often, as seldom and from as many places as it likes: nothing is told twice, as long as what it returned is kept.

Ages do not trust the clock. Each target has a clock of its own here that never goes back, and goes on at least as fast as the machine's
uptime; only a newer sync that proved the target sets it to the time of day again. So no jump of the time of day turns red into green.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from offsited.core.event import Event, Why
from offsited.core.notice import Facts, Mark, Moment, Notice, Ping, Remembered, TargetFacts, Trouble
from offsited.core.outcome import ADVICE, Outcome, Reason, parse_reason
from offsited.core.record import WRITING, JobRecord, Kind
from offsited.errors import Exit

DAY: Final = 86_400_000_000
"""Microseconds between two reminders."""
WEEK: Final = 7 * DAY
"""The same while a seed is in transit: that was meant, and takes its time."""
LOCK: Final = "lock"
"""The trouble of a boot that nobody answered."""


@dataclass(frozen=True)
class Judgment:
    """What to tell, and what to remember. `ping` is None if there is no sign of life to give."""

    notices: tuple[Notice, ...]
    remembered: Remembered
    ping: Ping | None = None


def judge(before: Remembered | None, facts: Facts, moment: Moment, *, on_success: bool = False) -> Judgment:
    """Given what was told of a vault before (None = it is new here), and what is on record, say what is to be told at this moment."""
    judging = _Judging(before or _beginning(facts, moment), facts, moment, on_success=on_success)
    judging.take_jobs()
    judging.take_lock()
    judging.take_configuration()
    judging.take_transit()
    judging.take_ages()
    judging.take_skipped()
    judging.remind()
    return judging.result()


def staleness(target: TargetFacts, mark: Mark) -> str:
    """Given a target and its clock as it is now, return why it is stale, or ""."""
    if not target.limit:
        return ""
    if target.done is None:
        return Why.NEVER_SYNCED if mark.reading - mark.begun > target.limit else ""
    if mark.reading - target.confirmed > target.limit:
        return Why.UNCONFIRMED
    return Why.SNAPSHOT_OLD if mark.reading - target.snapshot_dated > target.limit else ""


def advanced(mark: Mark | None, target: TargetFacts, moment: Moment) -> Mark:
    """A target's clock at a moment. A sync that is newer than the one that set it, and confirmed the target, sets it anew."""
    done, now = target.done.job if target.done else 0, max(moment.now, target.confirmed)
    if mark is None:
        return Mark.start(moment, now, done=done, limit=target.limit)
    if done > mark.done:
        return Mark.start(moment, now, done=done, begun=mark.begun, limit=target.limit)
    return mark.at(moment).model_copy(update={"limit": target.limit})


def ended(records: Iterable[JobRecord]) -> list[JobRecord]:
    """Those of jobs that have ended, oldest first."""
    return sorted((record for record in records if record.outcome is not None), key=lambda record: record.job)


def event_of(record: JobRecord) -> Event | None:
    """What the end of a job means for its target: an event, SUCCESS, or None for an end that says nothing (a person ended it)."""
    match record.outcome:
        case Outcome.DONE:
            return Event.SUCCESS
        case Outcome.PARTIAL:
            return Event.DEGRADED
        case Outcome.HELD:
            return Event.HELD
        case Outcome.FAILED:
            reason = parse_reason(record.reason)
            if reason in {Reason.LOCKED, Reason.WRONG_PASSPHRASE}:
                return Event.LOCKED
            return Event.DEGRADED if ADVICE[reason].exit_status is Exit.DIFFERENT else Event.FAILED
        case _:
            return None


def _beginning(facts: Facts, moment: Moment) -> Remembered:
    """Of jobs from before this was kept, each target's last sync alone is worth telling."""
    last = {record.target: record.job for record in ended(facts.records) if record.kind in WRITING}
    judged = tuple(sorted(record.job for record in facts.records if record.outcome is not None and record.job not in last.values()))
    return Remembered(clock=Mark.start(moment, moment.now), judged=judged)


class _Judging:
    """One judgment in the making."""

    def __init__(self, before: Remembered, facts: Facts, moment: Moment, *, on_success: bool) -> None:
        self._before = before
        self._facts = facts
        self._moment = moment
        self._on_success = on_success
        self._clock = before.clock.at(moment)
        self._targets = dict(before.targets)
        self._troubles = dict(before.troubles)
        self._notices: list[Notice] = []
        self._last_sync: Event | None = None
        self._judged = set(before.judged)
        self._skipped = before.skipped

    def take_jobs(self) -> None:
        """Each job that has ended since, in order."""
        for record in ended(self._facts.records):
            if record.job not in self._judged:
                self._judged.add(record.job)
                self._take_job(record)

    def _take_job(self, record: JobRecord) -> None:
        event = event_of(record)
        if event is None or record.kind in {Kind.RESTORE, Kind.MOUNT}:  # a person asked for it, and was told
            return
        if record.kind in {Kind.SEAL, Kind.ADOPT} and event is not Event.SUCCESS:  # likewise
            return
        if record.kind in WRITING:
            self._last_sync = event
        key = f"{Kind.SYNC if record.kind in WRITING else record.kind}:{record.target}"
        if record.reason == Reason.LOCKED and (known := self._locked()):  # told already; for this job it lasts until one is done
            self._troubles.pop(LOCK, None)
            self._troubles[key] = known.model_copy(update={"target": record.target, "reason": record.reason, "job": record.job})
        elif event is not Event.SUCCESS:
            self._begin(key, self._trouble(event, record.target, record.reason, record.job, record.ended))
        elif key in self._troubles:
            self._over(key, record.job)
        elif self._on_success:
            self._tell(event, record.target, record.job)

    def take_lock(self) -> None:
        """A boot that nobody answered. A job that found the vault locked, and was told, has said it all."""
        if self._facts.locked is False or (self._facts.locked and not self._locked()):
            self._let(LOCK, Event.LOCKED, "", Why.UNANSWERED if self._facts.locked else "")

    def _locked(self) -> Trouble | None:
        """That the vault is locked, if it was told: one passphrase ends it for every target and every kind of job."""
        lasting = self._troubles.values()
        return next((found for found in lasting if found.event is Event.LOCKED and found.reason in {Reason.LOCKED, Why.UNANSWERED}), None)

    def take_configuration(self) -> None:
        """A vault file that cannot be used, state of ours that is damaged, and arrays that lack disks."""
        self._let("config", Event.FAILED, "", self._facts.invalid)
        for target in self._facts.targets:
            self._let(f"state:{target.name}", Event.DEGRADED, target.name, "" if target.intact else Why.COMMIT_MISSING)
            if target.lacking is not None:
                self._let(f"array:{target.name}", Event.DEGRADED, target.name, Why.ARRAY_DEGRADED if target.lacking else "")

    def take_transit(self) -> None:
        """Seeds on their way are no news: whoever sealed one knows. They are a matter of reminders alone, and of their targets' age nothing
        is told meanwhile."""
        over = [
            key for key, trouble in self._troubles.items() if trouble.event is Event.TRANSIT and trouble.target not in self._facts.transit
        ]
        for key in over:
            del self._troubles[key]
        for target in self._facts.transit:
            self._troubles.pop(f"stale:{target}", None)
        told = {since: target for target, since in self._facts.transit.items()}  # of a seed and its heirs one is enough
        for since, target in told.items():
            self._troubles.setdefault(f"transit:{target}", self._trouble(Event.TRANSIT, target, Why.IN_TRANSIT, 0, since))

    def take_ages(self) -> None:
        """Too old or not. A target that is configured no longer is forgotten without a word."""
        names = {target.name for target in self._facts.targets}
        self._targets = {name: mark for name, mark in self._targets.items() if name in names}
        self._troubles = {key: trouble for key, trouble in self._troubles.items() if trouble.target in {"", *names}}
        for target in self._facts.targets:
            mark = self._targets[target.name] = advanced(self._targets.get(target.name), target, self._moment)
            job = target.done.job if target.done else 0
            if target.name in self._facts.transit:
                continue
            self._let(f"stale:{target.name}", Event.STALE, target.name, staleness(target, mark), job)

    def take_skipped(self) -> None:
        """A timed run that met its own predecessor: told once for each of these."""
        job = self._facts.skipped
        if job > self._skipped:
            self._skipped = job
            target = next((record.target for record in self._facts.records if record.job == job), "")
            self._tell(Event.SKIPPED, target, job, (self._trouble(Event.SKIPPED, target, Why.STILL_RUNNING, job),))

    def remind(self) -> None:
        """Once a day, of everything that lasts, in one notice; of seeds in transit alone once a week."""
        lasting = tuple(sorted(self._troubles.values(), key=lambda trouble: trouble.event is Event.TRANSIT))
        if any(self._clock.reading - trouble.told >= (WEEK if trouble.event is Event.TRANSIT else DAY) for trouble in lasting):
            told = {"told": self._clock.reading}
            self._troubles = {key: trouble.model_copy(update=told) for key, trouble in self._troubles.items()}
            first = lasting[0]
            self._tell(first.event, first.target, first.job, lasting, reminder=True)

    def result(self) -> Judgment:
        remembered = Remembered(
            clock=self._clock,
            targets=self._targets,
            troubles=self._troubles,
            judged=tuple(record.job for record in ended(self._facts.records)),
            serial=self._before.serial + len(self._notices),
            skipped=self._skipped,
        )
        return Judgment(tuple(self._notices), remembered, self._ping())

    def _ping(self) -> Ping | None:
        """Success only while nothing at all is wrong with the vault; failure as soon as something is. A seed in transit is neither."""
        wrong = any(trouble.event is not Event.TRANSIT for trouble in self._troubles.values())
        if any(notice.event not in {Event.SKIPPED, Event.TRANSIT} for notice in self._notices if notice.troubles) and wrong:
            return Ping.FAIL
        if self._last_sync is None:
            return None
        return Ping.FAIL if wrong else Ping.SUCCESS

    def _let(self, key: str, event: Event, target: str, reason: str, job: int = 0) -> None:
        """A trouble is there for a reason, or for none is not."""
        if reason:
            self._begin(key, self._trouble(event, target, reason, job))
        elif key in self._troubles:
            self._over(key, job)

    def _begin(self, key: str, trouble: Trouble) -> None:
        known = self._troubles.get(key)
        if known and known.what == trouble.what:
            self._troubles[key] = known.model_copy(update={"reason": trouble.reason, "job": trouble.job})
        else:
            self._troubles[key] = trouble
            self._tell(trouble.event, trouble.target, trouble.job, (trouble,))

    def _trouble(self, event: Event, target: str, reason: str, job: int, since: int | None = None) -> Trouble:
        now = self._moment.now
        return Trouble(event=event, target=target, reason=reason, job=job, since=since or now, told=self._clock.reading)

    def _over(self, key: str, job: int) -> None:
        """One notice for all that one sync put right."""
        trouble = self._troubles.pop(key)
        if self._notices and self._notices[-1].event in {Event.RECOVERED, Event.SUCCESS} and self._notices[-1].target == trouble.target:
            last = self._notices[-1]
            self._notices[-1] = last.model_copy(update={"event": Event.RECOVERED, "troubles": (*last.troubles, trouble)})
        else:
            self._tell(Event.RECOVERED, trouble.target, job, (trouble,))

    def _tell(self, event: Event, target: str, job: int, troubles: tuple[Trouble, ...] = (), *, reminder: bool = False) -> None:
        serial = self._before.serial + len(self._notices) + 1
        self._notices.append(
            Notice(
                serial=serial,
                event=event,
                vault=self._facts.vault,
                target=target,
                job=job,
                time=self._moment.now,
                reminder=reminder,
                troubles=troubles,
            )
        )
