# SPDX-License-Identifier: GPL-3.0-or-later
"""What is told goes to the journal too, with a MESSAGE_ID that the catalog explains."""

import os
import sys
from typing import Final

from systemd import journal

from offsited import names
from offsited.core.event import MESSAGE_IDS, Event, explain
from offsited.core.notice import Notice
from offsited.spool import Item

_OF_JOBS: Final = frozenset({Event.FAILED, Event.HELD, Event.LOCKED, Event.DEGRADED, Event.SUCCESS})
_ERROR, _WARNING, _NOTICE = "3", "4", "5"


def told(notice: Notice) -> None:
    """One line. How a job ended, the daemon says itself."""
    if notice.job and notice.event in _OF_JOBS and not notice.reminder:
        return
    sentences = [explain(trouble.event, trouble.reason, notice.vault, trouble.target, trouble.job)[0] for trouble in notice.troubles]
    text = (
        f"vault {notice.vault}{f', target {notice.target}' if notice.target else ''}: {'still ' if notice.reminder else ''}{notice.event}"
    )
    fields = {
        names.FIELD_TARGET: notice.target,
        names.FIELD_JOB: str(notice.job or ""),
        names.FIELD_REASON: notice.troubles[0].reason if notice.troubles else "",
    }
    priority = _NOTICE if notice.event in {Event.RECOVERED, Event.SKIPPED, Event.TRANSIT} else _ERROR
    _send("; ".join([text, *sentences]), notice.vault, priority, MESSAGE_IDS[notice.event], **fields)


def unsent(item: Item, complaint: str) -> None:
    """A try has failed. `complaint` holds neither letter nor address."""
    text = f"vault {item.notice.vault}: a notice could not be sent ({item.error}): {complaint}"
    _send(text, item.notice.vault, _WARNING, names.MESSAGE_UNSENT, **{names.FIELD_REASON: item.error})


def problem(vault: str, text: str) -> None:
    """Something of ours does not work."""
    _send(text, vault, _ERROR, "")


def _send(text: str, vault: str, priority: str, message_id: str, **fields: str) -> None:
    if not os.environ.get("JOURNAL_STREAM"):
        print(text, file=sys.stderr)
        return
    more = {names.FIELD_VAULT: vault, names.FIELD_MESSAGE_ID: message_id, **fields}
    known = {name: value for name, value in more.items() if value}
    journal.send(text, PRIORITY=priority, SYSLOG_IDENTIFIER=names.NOTIFY_IDENTIFIER, **known)
