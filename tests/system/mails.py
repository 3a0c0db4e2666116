# SPDX-License-Identifier: GPL-3.0-or-later
"""Mails as they arrive, and a monitor that is pinged. The mail transfer agent is Debian's, with local delivery."""

import contextlib
import ctypes
import email.parser
import email.policy
import http.server
import mailbox
import os
import queue
import select
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from email.message import EmailMessage
from pathlib import Path
from typing import Any, Self

from .machine import PATIENCE, must, write

SETTINGS = Path("/etc/offsited/offsited.toml")
SENDMAIL = Path("/usr/sbin/sendmail")
WATCH = "offsited-watch.service"
UNANSWERED = "offsited-unanswered.service"
_BOXES = Path("/var/mail")
_QUEUE = Path("/var/spool/exim4/input")
_LIBC = ctypes.CDLL(None, use_errno=True)
_CHANGES = 0x2 | 0x8 | 0x40 | 0x80 | 0x100 | 0x200  # inotify(7): IN_MODIFY, CLOSE_WRITE, MOVED_FROM, MOVED_TO, CREATE, DELETE


def until(wanted: Callable[[], bool], *places: Path) -> None:
    """Wait until something holds that can change when files in these directories do."""
    descriptor = _LIBC.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb") as changes:
        for place in places:
            assert _LIBC.inotify_add_watch(descriptor, os.fsencode(place), _CHANGES) >= 0, os.strerror(ctypes.get_errno())
        while not wanted():
            assert select.select([changes], [], [], PATIENCE)[0], f"it does not come about: {wanted}"
            changes.read()


class Box:
    """What a user has got by mail since this was made."""

    def __init__(self, user: str, vault: str) -> None:
        self._path = _BOXES / user
        self._vault = vault
        self._read = len(self._all())

    def _all(self) -> list[EmailMessage]:
        if not self._path.exists():
            return []
        parser = email.parser.BytesParser(EmailMessage, policy=email.policy.default)
        with contextlib.closing(mailbox.mbox(self._path)) as box:
            mails = [parser.parsebytes(mail.as_bytes()) for mail in box]
        return [mail for mail in mails if mail["X-Offsited-Vault"] == self._vault]

    def next(self) -> EmailMessage:
        """The next mail about the vault; waits for it."""
        until(lambda: len(self._all()) > self._read, _BOXES)
        self._read += 1
        return self._all()[self._read - 1]

    def nothing_more(self) -> None:
        """Whatever is due was sent and delivered, and there was no further mail."""
        settle()
        assert [str(mail["Subject"]) for mail in self._all()[self._read :]] == []


def settle() -> None:
    """All that is due is judged, sent and delivered."""
    must("systemctl", "start", WATCH)
    until(lambda: must("exim4", "-bpc").strip() == "0", _QUEUE, _BOXES)


def notify(text: str, *, stale_after: str = "5000w") -> None:
    """Set [notify]. The snapshots of tests are old, and that is no concern of most."""
    write(SETTINGS, f'[notify]\nstale_after = "{stale_after}"\n{text}\n')


@contextlib.contextmanager
def agent(script: str | None) -> Iterator[None]:
    """In place of the mail transfer agent: this script, or nothing."""
    kept = SENDMAIL.with_name("sendmail.kept")
    SENDMAIL.rename(kept)
    if script is not None:
        write(SENDMAIL, f"#!/bin/sh\n{script}\n", 0o755)
    try:
        yield
    finally:
        SENDMAIL.unlink(missing_ok=True)
        kept.rename(SENDMAIL)


@dataclass(frozen=True)
class Request:
    """What a monitor was told."""

    path: str
    body: str


class Monitor:
    """A web server that takes what it is sent and answers as it is told to."""

    def __init__(self) -> None:
        self.requests: queue.Queue[Request] = queue.Queue()
        self.status = 200
        monitor = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0))).decode()
                monitor.requests.put(Request(self.path, body))  # first: whoever has its answer may send the next one
                self.send_response(monitor.status)
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                return

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever)

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self._server.server_address[1]}"

    def next(self) -> Request:
        return self.requests.get(timeout=PATIENCE)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
