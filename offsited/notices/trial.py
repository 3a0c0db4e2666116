# SPDX-License-Identifier: GPL-3.0-or-later
"""notify-test: each way is tried once, in the unit in which notices are sent, and what happened is printed as JSON, one object per way."""

import json
import time
from collections.abc import Callable, Iterator
from typing import Final

from offsited.core.config import Notify
from offsited.core.event import UNSENT, Event
from offsited.core.letter import Letter, message
from offsited.core.notice import Notice, Ping
from offsited.errors import Exit
from offsited.notices import judging, ways
from offsited.notices.ways import NotSent

_VAULT: Final = "test"


def run(notify: Notify, say: Callable[[str], None]) -> int:
    """Try each way that is set; return Exit.FAILED if one does not work."""
    failed = False
    for way, attempt in _attempts(notify):
        told: dict[str, object] = {"way": way, "sent": True, "error": "", "message": "", "hint": ""}
        try:
            attempt()
        except NotSent as failure:
            failed = True
            told |= {"sent": False, "error": failure.word.value, "message": failure.complaint, "hint": UNSENT[failure.word][1]}
        say(json.dumps(told))
    return Exit.FAILED if failed else Exit.DONE


def _attempts(notify: Notify) -> Iterator[tuple[str, Callable[[], None]]]:
    host = judging.host()
    letter = Letter(
        f"[{host}] offsited: a test", f"This is a test of offsited on {host}, asked for by offsitectl notify-test.\n\nNotices arrive.\n"
    )
    notice = Notice(serial=0, event=Event.SUCCESS, vault=_VAULT, time=time.time_ns() // 1000)
    if notify.mail:
        yield f"mail to {', '.join(notify.mail)}", lambda: ways.mail(message(letter, notice, notify.mail, ways.domain()), notify.mail)
    if notify.ping:
        address = notify.ping
        for kind in (Ping.START, Ping.SUCCESS):
            yield f"ping {kind}", lambda kind=kind: ways.ping(address, _VAULT, kind, letter.body)  # type: ignore[misc]
    for address in notify.apprise:
        yield f"apprise {address.partition(':')[0]}", lambda address=address: ways.apprise(address, letter.subject, letter.body)  # type: ignore[misc]
