# SPDX-License-Identifier: GPL-3.0-or-later
"""The text of notices: as a person reads it, as a mail, and without the names of files."""

import email.parser
import email.policy
from datetime import UTC
from email.message import EmailMessage

import pytest
from hypothesis import given
from hypothesis import strategies as st

from offsited.core import letter
from offsited.core.event import Event, Why
from offsited.core.letter import Circumstances, message
from offsited.core.notice import Facts, Notice, TargetFacts, Trouble
from offsited.core.outcome import Outcome, Reason
from offsited.core.record import Counts, Held, JobRecord, Kind, Options

NOON = 1_795_608_000_000_000
"""2026-11-25 12:00 UTC."""
HOUR = 3_600_000_000
RECORD = JobRecord(
    job=42,
    kind=Kind.SYNC,
    vault="home",
    target="vps",
    unit="u",
    options=Options(timed=True),
    requested=NOON - HOUR,
    started=NOON - HOUR,
    ended=NOON,
    outcome=Outcome.FAILED,
    reason=Reason.TARGET_FULL.value,
    detail="rsync: write failed on /srv/secret-plan",
    counts=Counts(entries=3400, sent_entries=12, sent_bytes=1_500_000, wire_bytes=900, deleted_entries=1),
    snapshot_dated=NOON - 12 * HOUR,
    free=1 << 30,
    capacity=1 << 40,
)
DONE = RECORD.model_copy(
    update={"job": 41, "outcome": Outcome.DONE, "reason": "", "ended": NOON - 24 * HOUR, "snapshot_dated": NOON - 36 * HOUR}
)
FACTS = Facts("home", (TargetFacts("vps", 36 * HOUR, DONE), TargetFacts("seed")), (DONE, RECORD))


def trouble(event: Event = Event.FAILED, reason: str = "target-full", target: str = "vps") -> Trouble:
    return Trouble(event=event, target=target, reason=reason, job=42, since=NOON - 3 * HOUR, told=0)


def notice(event: Event = Event.FAILED, *troubles: Trouble, reminder: bool = False, job: int = 42) -> Notice:
    return Notice(serial=7, event=event, vault="home", target="vps", job=job, time=NOON, troubles=troubles, reminder=reminder)


def written(told: Notice, record: JobRecord | None = RECORD, *, names: bool = False) -> letter.Letter:
    return letter.write(told, Circumstances("nas", FACTS, record, names=names, zone=UTC))


def test_a_failure() -> None:
    assert (
        written(notice(Event.FAILED, trouble())).subject == "[nas] home: sync to vps FAILED: the target is full; nothing was deleted there"
    )
    assert (
        written(notice(Event.FAILED, trouble())).body
        == """\
Vault home on nas: sync to vps failed.

  What happened   vps: the target is full; nothing was deleted there
  What to do      Make room on target vps, then: offsitectl sync home
  Job             42, sync to vps, asked for by a timer at 2026-11-25 11:00,
                  took 1 h 00 min
  Sent            12 of 3,400 entries, 1.4 MiB (900 B on the wire)
  Deleted         1 entry
  Free there      1.0 GiB of 1.0 TiB
  vps             holds the snapshot of 2026-11-24 00:00 (36 h old), confirmed
                  2026-11-24 12:00 (24 h ago)
  seed            holds no snapshot yet

More: offsitectl status home
      journalctl OFFSITED_VAULT=home OFFSITED_JOB=42

You will be reminded once a day while this lasts, and told when it is over.
"""
    )


@pytest.mark.parametrize(
    ("told", "subject"),
    [
        (notice(Event.SUCCESS), "[nas] home: sync to vps done"),
        (notice(Event.LOCKED, trouble(Event.LOCKED, "locked")), "[nas] home: LOCKED: the passphrase is needed"),
        (
            notice(Event.STALE, trouble(Event.STALE, Why.SNAPSHOT_OLD)),
            "[nas] home: target vps: TOO OLD: the newest snapshot at the target is too old, although syncs are done",
        ),
        (notice(Event.HELD, trouble(Event.HELD, "")), "[nas] home: sync to vps waits for your approval"),
        (notice(Event.RECOVERED, trouble()), "[nas] home: target vps: all is well again"),
        (
            notice(Event.FAILED, trouble(), trouble(Event.STALE, Why.UNCONFIRMED), reminder=True),
            "[nas] still: home: sync to vps FAILED: the target is full; nothing was deleted there (and 1 more)",
        ),
    ],
)
def test_subjects(told: Notice, subject: str) -> None:
    assert written(told).subject == subject


def test_a_recovery_says_what_is_over_and_since_when() -> None:
    body = written(notice(Event.RECOVERED, trouble()), DONE).body
    assert "Over            the target is full; nothing was deleted there, since" in body
    assert "2026-11-25 09:00 (3 h)" in body
    assert "reminded" not in body


def test_a_reminder_tells_all_that_lasts() -> None:
    body = written(notice(Event.FAILED, trouble(), trouble(Event.STALE, Why.UNCONFIRMED), reminder=True)).body
    assert body.count("What happened") == 2
    assert body.count("Since           2026-11-25 09:00 (3 h ago)") == 2
    assert "systemctl status offsited-sync@home.timer" in body


@pytest.mark.parametrize("event", Event)
def test_files_are_named_only_if_asked_for(event: Event) -> None:
    told = notice(event, trouble(event))
    assert "secret-plan" not in written(told).body + written(told).subject
    assert "secret-plan" in written(told, names=True).body


@given(st.sampled_from(Event), st.sampled_from([*Why, *Reason]), st.booleans(), st.text(max_size=60), st.text(max_size=20))
def test_what_is_written_is_a_mail_that_reads_back(event: Event, reason: str, reminder: bool, detail: str, host: str) -> None:  # noqa: FBT001
    record = RECORD.model_copy(update={"detail": detail})
    told = notice(event, trouble(event, str(reason)), reminder=reminder)
    text = letter.write(told, Circumstances(host, FACTS, record, names=True, zone=UTC))
    mail = message(text, told, ["root", "you@example.org"], "nas.example.org", UTC)
    read = email.parser.BytesParser(EmailMessage, policy=email.policy.default).parsebytes(mail.as_bytes())
    assert read["Subject"] == " ".join(text.subject.split(" "))
    assert read["To"] == "root, you@example.org"
    assert read["Message-ID"] == f"<offsited.home.7.{NOON}@nas.example.org>"
    assert read["Date"] == "Wed, 25 Nov 2026 12:00:00 +0000"
    assert read.get_content() == text.body
    assert all(char == "\n" or char.isprintable() for char in text.body)
    assert read.defects == []


@pytest.mark.parametrize("event", Event)
@pytest.mark.parametrize("reason", [*Why, *Reason])
def test_lines_are_short_and_commands_in_one_piece(event: Event, reason: str) -> None:
    body = written(notice(event, trouble(event, str(reason)))).body
    for line in body.splitlines():
        assert len(line) <= letter.WIDTH or "journalctl" in line or "offsitectl" in line, line
        assert not line.rstrip().endswith(("offsitectl", "systemctl", "journalctl")), line


def test_what_is_held_is_counted() -> None:
    held = Held(plan="0123456789ab", deleted_entries=31, deleted_bytes=2 << 20, changed_entries=1, changed_bytes=5)
    record = RECORD.model_copy(update={"outcome": Outcome.HELD, "reason": Reason.LIMIT_EXCEEDED.value, "held": held})
    text = " ".join(written(notice(Event.HELD, trouble(Event.HELD, "limit-exceeded")), record).body.split())
    assert "Held 31 deletions (2.0 MiB) and 1 change (5 B), as plan 0123456789ab" in text
    assert "offsitectl diff home --target vps" in text
