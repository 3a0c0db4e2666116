# SPDX-License-Identifier: GPL-3.0-or-later
"""The vocabulary of notices: what can be told, why, why it could not be sent, and a sentence and a hint for each."""

from collections.abc import Mapping
from enum import StrEnum
from typing import Final

from offsited import names
from offsited.core.outcome import ADVICE, Outcome, parse_reason


class Event(StrEnum):
    """What a notice is about."""

    FAILED = "failed"
    HELD = "held"
    LOCKED = "locked"
    STALE = "stale"
    DEGRADED = "degraded"
    SKIPPED = "skipped"
    TRANSIT = "transit"
    RECOVERED = "recovered"
    SUCCESS = "success"


MESSAGE_IDS: Final[Mapping[Event, str]] = {
    Event.FAILED: names.MESSAGE_FAILED,
    Event.HELD: names.MESSAGE_HELD,
    Event.LOCKED: names.MESSAGE_LOCKED,
    Event.STALE: names.MESSAGE_STALE,
    Event.DEGRADED: names.MESSAGE_DEGRADED,
    Event.SKIPPED: names.MESSAGE_SKIPPED,
    Event.TRANSIT: names.MESSAGE_TRANSIT,
    Event.RECOVERED: names.MESSAGE_RECOVERED,
    Event.SUCCESS: names.MESSAGE_DONE,
}
"""What the journal's catalog says of it."""


class Why(StrEnum):
    """Reasons of troubles that no job has."""

    NEVER_SYNCED = "never-synced"
    UNCONFIRMED = "unconfirmed"
    SNAPSHOT_OLD = "snapshot-old"
    COMMIT_MISSING = "commit-missing"
    STILL_RUNNING = "still-running"
    IN_TRANSIT = "in-transit"
    UNANSWERED = "unanswered"
    ARRAY_DEGRADED = "array-degraded"


_WHY: Final[Mapping[str, tuple[str, str]]] = {
    Why.NEVER_SYNCED: ("the target has never held a snapshot", "Sync it: offsitectl sync {vault} --target {target}"),
    Why.UNCONFIRMED: (
        "the target was not confirmed to hold a snapshot for too long",
        "See why no sync was done: offsitectl status {vault}. Does its timer run? systemctl status offsited-sync@{vault}.timer",
    ),
    Why.SNAPSHOT_OLD: (
        "the newest snapshot at the target is too old, although syncs are done",
        "Does your snapshot tool still make snapshots, and does [source] in the vault file name the newest one?",
    ),
    Why.COMMIT_MISSING: (
        "this machine's own record of what the target holds is missing or damaged",
        "Compare everything with the target: offsitectl sync {vault} --target {target} --reconcile",
    ),
    Why.STILL_RUNNING: (
        "a timed sync was skipped, because the one before it still runs",
        "See how far it is: offsitectl status {vault}. Nothing is lost: the next sync brings the newest snapshot",
    ),
    Why.ARRAY_DEGRADED: (
        "an array that the target lies on lacks a disk",
        "See which: cat /proc/mdstat. How to put in another one: man offsited-prepare",
    ),
    Why.UNANSWERED: (
        "the machine was booted, and nobody has entered the passphrase since",
        "Enter it once: sudo offsitectl unlock {vault}. Until then nothing is synced",
    ),
    Why.IN_TRANSIT: (
        "the seed was sealed and has not been adopted yet; nothing is synced meanwhile",
        "Has it arrived? How it is adopted: offsitectl status {vault}",
    ),
}
_SENTENCES: Final[Mapping[Outcome, str]] = {
    Outcome.PARTIAL: "something could be neither sent nor kept",
    Outcome.HELD: "a limit holds deletions or changes back until you approve them",
    Outcome.FAILED: "the job failed",
}


def explain(event: Event, reason: str, vault: str, target: str, job: int) -> tuple[str, str]:
    """Given what a trouble is, return a sentence on what happened and one on what to do; neither names a user's file."""
    if reason in _WHY:
        sentence, hint = _WHY[reason]
    elif event is Event.HELD and not reason:
        sentence, hint = _SENTENCES[Outcome.HELD], "See what waits: offsitectl status {vault}"
    else:
        advice = ADVICE[parse_reason(reason)]
        sentence = advice.sentence or _SENTENCES[Outcome.PARTIAL if event is Event.DEGRADED else Outcome.FAILED]
        hint = advice.hint or "See: offsitectl status {vault}"
    return sentence, hint.format(vault=vault, target=target, job=job)


class Unsent(StrEnum):
    """Why a notice could not be sent; open for more."""

    MAIL_ABSENT = "mail-absent"
    MAIL_FAILED = "mail-failed"
    MAIL_TIMED_OUT = "mail-timed-out"
    PING_FAILED = "ping-failed"
    PING_REFUSED = "ping-refused"
    APPRISE_ABSENT = "apprise-absent"
    APPRISE_FAILED = "apprise-failed"


UNSENT: Final[Mapping[str, tuple[str, str]]] = {
    Unsent.MAIL_ABSENT: ("there is no /usr/sbin/sendmail", "Install a mail transfer agent, or take mail out of offsited.toml"),
    Unsent.MAIL_FAILED: ("sendmail refused the mail", "See what it said: journalctl -t offsited-notify"),
    Unsent.MAIL_TIMED_OUT: ("sendmail did not end in time", "See whether the mail transfer agent is well"),
    Unsent.PING_FAILED: ("the monitor cannot be reached", "Check network and ping in offsited.toml"),
    Unsent.PING_REFUSED: ("the monitor refused the ping", "Check ping in offsited.toml"),
    Unsent.APPRISE_ABSENT: ("Apprise is not installed", "apt install apprise, or take apprise out of offsited.toml"),
    Unsent.APPRISE_FAILED: ("Apprise could not deliver it", "Check apprise in offsited.toml"),
}
"""A sentence, and what to do."""
