# SPDX-License-Identifier: GPL-3.0-or-later
"""Sending what is in the spool: each item until it was sent, with growing pauses, and not for ever."""

import time
from typing import Final

from offsited.core.config import Notify
from offsited.core.notice import Ping
from offsited.notices import journal, ways
from offsited.notices.ways import NotSent
from offsited.spool import SENDING, Item, Spool, Way
from offsited.store import Store

_SECOND: Final = 1_000_000
PAUSES: Final = (60, 600, 1800, 3600, 3 * 3600, 6 * 3600)
"""Seconds after the first, second, ... failed try; the last one holds from there on. `offsited-watch.timer` sets the pace."""
KEPT: Final = {Way.MAIL: 7 * 86400, Way.APPRISE: 7 * 86400, Way.PING: 86400}
"""Seconds after which nobody wants to hear it any more."""
SUCCESS_KEPT: Final = 3600
"""A success that comes late would tell the monitor that all is well now."""


def send_due(store: Store, vault: str, notify: Notify) -> bool:
    """Send what is due of a vault's notices; whether nothing that was tried failed. Raise OSError."""
    spool = Spool(store.vault_files(vault).notices)
    if not spool.directory.is_dir():
        return True
    with spool.locked(SENDING):
        tried = [_try(spool, item, notify) for item in spool.items() if is_due(item, _now())]  # all of them, whatever becomes of one
    return all(tried)


def is_due(item: Item, now: int) -> bool:
    """Whether to try now. After the clock was set back, a time far ahead means nothing."""
    return item.due <= now or item.due - now > PAUSES[-1] * _SECOND


def is_outdated(item: Item, now: int) -> bool:
    """Whether it is too late to send it."""
    kept = SUCCESS_KEPT if item.ping is Ping.SUCCESS else KEPT[item.way]
    return now - item.notice.time > kept * _SECOND


def _try(spool: Spool, item: Item, notify: Notify) -> bool:
    if is_outdated(item, _now()):
        journal.problem(item.notice.vault, f"vault {item.notice.vault}: a notice is given up ({item.error or item.way})")
        spool.settle(item, None)
        return False
    try:
        ways.send(item, notify)
    except NotSent as failure:
        pause = PAUSES[min(item.tries, len(PAUSES) - 1)] * _SECOND
        later = item.model_copy(update={"tries": item.tries + 1, "due": _now() + pause, "error": failure.word.value})
        journal.unsent(later, failure.complaint)
        spool.settle(item, later)
        return False
    spool.settle(item, None)
    return True


def ping_start(store: Store, vault: str, job: int, notify: Notify) -> bool:
    """Tell the monitor that a job has started: once, since it is worth nothing later; and never after its end. Raise OSError."""
    files = store.vault_files(vault)
    if notify.ping is None or not files.state.is_dir():
        return True
    with Spool(files.notices).locked(SENDING):
        record = files.read_record(job)
        if record is None or record.outcome is not None:
            return True
        try:
            ways.ping(notify.ping, vault, Ping.START, "")
        except NotSent as failure:
            journal.problem(vault, f"vault {vault}: the monitor was not told that job {job} started: {failure.complaint}")
            return False
    return True


def _now() -> int:
    return time.time_ns() // 1000
