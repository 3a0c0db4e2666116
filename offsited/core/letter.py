# SPDX-License-Identifier: GPL-3.0-or-later
"""The text of a notice, for mail, ping and Apprise alike: a subject, and plain text that says what happened and what to do next. Pure.

No user's file is named unless `names` says so: sentences come from tables, and what a job left as detail is kept out.
"""

import re
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import tzinfo
from email.headerregistry import Address
from email.message import EmailMessage
from email.utils import format_datetime
from typing import Final

from offsited.core import words
from offsited.core.event import Event, explain
from offsited.core.notice import Facts, Notice, TargetFacts, Trouble
from offsited.core.outcome import Outcome
from offsited.core.record import Counts, Held, JobRecord

WIDTH: Final = 78
"""RFC 5322, 2.1.1: lines should not be longer."""
_LABEL: Final = 16
_DETAIL_LINES: Final = 12
_GLUE: Final = "\0"

_COMMAND: Final = re.compile(r"(?:offsitectl|systemctl|journalctl) [^.;,]*")
_HEADLINES: Final = {
    Event.FAILED: "FAILED",
    Event.HELD: "waits for your approval",
    Event.LOCKED: "LOCKED: the passphrase is needed",
    Event.STALE: "TOO OLD",
    Event.DEGRADED: "incomplete",
    Event.SKIPPED: "a run was skipped",
    Event.TRANSIT: "the seed is in transit",
    Event.RECOVERED: "all is well again",
    Event.SUCCESS: "done",
}
_ENDINGS: Final = {
    True: "This lasts; you are reminded once a day, and told when it is over.",
    False: "You will be reminded once a day while this lasts, and told when it is over.",
}


@dataclass(frozen=True)
class Letter:
    """What is sent."""

    subject: str
    body: str


@dataclass(frozen=True)
class Circumstances:
    """What a letter may speak of beside its notice."""

    host: str
    facts: Facts
    record: JobRecord | None = None
    """Of the notice's job."""
    names: bool = False
    """Whether the user's files may be named."""
    zone: tzinfo | None = None
    """None = this machine's."""


def write(notice: Notice, around: Circumstances) -> Letter:
    """Return the text of a notice."""
    around = replace(around, host=words.printable(around.host))
    return Letter(_subject(notice, around), "\n".join(_body(notice, around)).rstrip() + "\n")


def message(letter: Letter, notice: Notice, to: Sequence[str], domain: str, zone: tzinfo | None = None) -> EmailMessage:
    """Return the letter as a mail. Sent twice, it has the same Message-ID."""
    mail = EmailMessage()
    mail["Subject"] = letter.subject
    mail["From"] = Address("offsited", "root", domain)
    mail["To"] = ", ".join(to)
    mail["Date"] = format_datetime(words.local(notice.time, zone))
    mail["Message-ID"] = f"<offsited.{notice.vault}.{notice.serial}.{notice.time}@{domain}>"
    mail["Auto-Submitted"] = "auto-generated"
    mail["X-Offsited-Vault"] = notice.vault
    mail["X-Offsited-Event"] = notice.event.value
    mail.set_content(letter.body)
    return mail


def _subject(notice: Notice, around: Circumstances) -> str:
    parts = [f"{notice.vault}: {_course(notice, around.record)}{_HEADLINES[notice.event]}"]
    if notice.troubles and notice.event in {Event.FAILED, Event.STALE, Event.DEGRADED}:
        parts.append(_explained(notice, notice.troubles[0])[0])
    more = len(notice.troubles) - 1 if notice.reminder else 0
    text = ": ".join(parts) + (f" (and {more} more)" if more > 0 else "")
    return f"[{around.host}] {'still: ' if notice.reminder else ''}{words.printable(text)}"


def _course(notice: Notice, record: JobRecord | None) -> str:
    """'sync to vps ', or what else it is about."""
    if record is not None and notice.event in {Event.FAILED, Event.HELD, Event.DEGRADED, Event.SUCCESS}:
        return f"{_doing(record)} "
    return f"target {notice.target}: " if notice.target and notice.event is not Event.LOCKED else ""


def _doing(record: JobRecord) -> str:
    return f"{record.kind} {words.PREPOSITIONS.get(record.kind, 'of')} {record.target}"


def _body(notice: Notice, around: Circumstances) -> Iterator[str]:
    yield f"Vault {notice.vault} on {around.host}: {_course(notice, around.record)}{_HEADLINES[notice.event].lower()}."
    yield ""
    for trouble in notice.troubles:
        yield from _trouble(notice, trouble, around)
    if around.record is not None and notice.event not in {Event.STALE, Event.SKIPPED}:
        yield from _job(around.record, around.zone)
    for target in around.facts.targets:
        yield from _target(target, notice.time, around.zone)
    if around.names and around.record is not None and around.record.detail:
        yield from ("", "The job's last words:")
        yield from (f"    {words.printable(line)}" for line in around.record.detail.splitlines()[-_DETAIL_LINES:])
    yield ""
    yield f"More: offsitectl status {notice.vault}"
    if notice.job:
        yield f"      journalctl OFFSITED_VAULT={notice.vault} OFFSITED_JOB={notice.job}"
    if notice.troubles and notice.event not in {Event.RECOVERED, Event.SKIPPED}:
        yield from ("", _ending(notice))


def _ending(notice: Notice) -> str:
    if notice.event is Event.TRANSIT:
        return "You are reminded once a week until it is adopted."
    return _ENDINGS[notice.reminder]


def _explained(notice: Notice, trouble: Trouble) -> tuple[str, str]:
    return explain(trouble.event, trouble.reason, notice.vault, trouble.target, trouble.job)


def _trouble(notice: Notice, trouble: Trouble, around: Circumstances) -> Iterator[str]:
    sentence, hint = _explained(notice, trouble)
    if notice.event is Event.RECOVERED:
        since = f"{words.moment(trouble.since, around.zone)} ({words.span((notice.time - trouble.since) / 1e6)})"
        yield from _line("Over", f"{sentence}, since {since}")
        return
    yield from _line("What happened", (f"{trouble.target}: " if trouble.target else "") + sentence)
    if notice.reminder:
        yield from _line("Since", f"{words.moment(trouble.since, around.zone)} ({words.ago(trouble.since, notice.time)})")
    yield from _line("What to do", hint)


def _job(record: JobRecord, zone: tzinfo | None) -> Iterator[str]:
    asked = "disk that arrived" if record.options.arrived else "timer" if record.options.timed else "person"
    took = f", took {words.duration((record.ended - record.started) / 1e6)}" if record.started and record.ended else ""
    yield from _line("Job", f"{record.job}, {_doing(record)}, asked for by a {asked} at {words.moment(record.requested, zone)}{took}")
    if record.outcome is None or not record.started:
        return
    counts = record.counts
    if counts.entries or counts.deleted_entries:
        yield from _figures(counts)
    if record.held and record.held.plan:
        yield from _line("Held", _held(record.held))
    if record.snapshot_dated and record.outcome is Outcome.DONE:
        yield from _line("Snapshot", f"of {words.moment(record.snapshot_dated, zone)}")
    if record.capacity:
        yield from _line("Free there", f"{words.size(record.free)} of {words.size(record.capacity)}")


def _held(held: Held) -> str:
    """What waits, and under which id."""
    counts = words.deletions_and_changes(held.deleted_entries, held.deleted_bytes, held.changed_entries, held.changed_bytes)
    return f"{counts}, as plan {held.plan}"


def _figures(counts: Counts) -> Iterator[str]:
    sent = f"{words.number(counts.sent_entries)} of {words.number(counts.entries, 'entry')}, {words.size(counts.sent_bytes)}"
    yield from _line("Sent", f"{sent} ({words.size(counts.wire_bytes)} on the wire)")
    yield from _line("Deleted", words.number(counts.deleted_entries, "entry"))


def _target(target: TargetFacts, now: int, zone: tzinfo | None) -> Iterator[str]:
    if not target.done:
        yield from _line(target.name, "holds no snapshot yet")
        return
    dated, confirmed = target.snapshot_dated, target.confirmed
    held = f"holds the snapshot of {words.moment(dated, zone)} ({words.age(dated, now)})"
    yield from _line(target.name, f"{held}, confirmed {words.moment(confirmed, zone)} ({words.ago(confirmed, now)})")


def _line(label: str, text: str) -> Iterator[str]:
    """A label, and text beside it; commands stay in one piece."""
    whole = _COMMAND.sub(lambda command: command[0].replace(" ", _GLUE), words.printable(text))
    wrapped = textwrap.wrap(whole, WIDTH - _LABEL - 2, break_long_words=False, break_on_hyphens=False) or [""]
    for index, part in enumerate(wrapped):
        yield f"  {'' if index else label:<{_LABEL}}{part.replace(_GLUE, ' ')}"
