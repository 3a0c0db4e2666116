# SPDX-License-Identifier: GPL-3.0-or-later
"""The ways in which a notice leaves this machine. Each returns when it was taken over, or raises NotSent in bounded time."""

import contextlib
import http.client
import os
import re
import signal
import subprocess
import tempfile
import urllib.error
import urllib.request
from email.message import EmailMessage
from pathlib import Path
from typing import IO, Final
from urllib.parse import urlsplit, urlunsplit

from offsited import __version__, names
from offsited.core import letter
from offsited.core.config import Notify
from offsited.core.event import Unsent
from offsited.core.letter import Letter
from offsited.core.notice import Ping
from offsited.spool import Item, Way

SENDMAIL_SECONDS: Final = 60.0
PING_SECONDS: Final = 15.0
_BODY_MAX: Final = 10_000
"""Bytes of a ping's body: what healthchecks keeps by default."""
_COMPLAINT_MAX: Final = 500
_MAILNAME: Final = Path("/etc/mailname")
_DOMAIN: Final = re.compile(r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*")
_PATHS: Final = {Ping.START: "/start", Ping.SUCCESS: "", Ping.FAIL: "/fail"}


class NotSent(Exception):
    """It was not taken over. `complaint` says why; it is for the journal, and holds no address."""

    def __init__(self, word: Unsent, complaint: str) -> None:
        super().__init__(word, complaint)
        self.word = word
        self.complaint = complaint[-_COMPLAINT_MAX:]


def send(item: Item, notify: Notify) -> None:
    """Send an item the way the settings say now. Raise NotSent; where the settings know this way no longer, it is done."""
    match item.way:
        case Way.MAIL if notify.mail:
            mail(letter.message(Letter(item.subject, item.body), item.notice, notify.mail, domain()), notify.mail)
        case Way.PING if notify.ping and item.ping:
            ping(notify.ping, item.notice.vault, item.ping, f"{item.subject}\n\n{item.body}")
        case Way.APPRISE if item.which < len(notify.apprise):
            apprise(notify.apprise[item.which], item.subject, item.body)


def domain() -> str:
    """What mails of this machine come from: mailname(5), else its host name; the first one that an address can have."""
    found = [os.uname().nodename, "localhost"]
    with contextlib.suppress(OSError, UnicodeDecodeError):
        found = [*_MAILNAME.read_text("ascii").split()[:1], *found]
    return next(name for name in found if _DOMAIN.fullmatch(name))


def mail(message: EmailMessage, to: tuple[str, ...], *, program: Path = names.SENDMAIL, seconds: float = SENDMAIL_SECONDS) -> None:
    """Hand a mail to the mail transfer agent, as sendmail(8) of any of them takes it. Raise NotSent."""
    with tempfile.TemporaryFile() as content, tempfile.TemporaryFile() as complaints:
        content.write(message.as_bytes())
        content.seek(0)
        held = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})  # until it is known whom to end along with us
        try:
            started = _start([str(program), "-i", *to], content, complaints, held)
        except OSError as error:
            signal.pthread_sigmask(signal.SIG_SETMASK, held)
            raise NotSent(Unsent.MAIL_ABSENT, f"{program}: {error.strerror}") from None
        try:
            signal.pthread_sigmask(signal.SIG_SETMASK, held)
            status = started.wait(seconds)
        except subprocess.TimeoutExpired:
            raise NotSent(Unsent.MAIL_TIMED_OUT, f"{program} did not end within {seconds:g} seconds") from None
        finally:
            if started.returncode is None:  # the unit being stopped ends us here too, by an exception, and no process may be left
                os.killpg(started.pid, signal.SIGKILL)
                started.wait()
        if status:
            raise NotSent(Unsent.MAIL_FAILED, f"{program} ended with status {status}: {_last_line(complaints)}")


def _start(command: list[str], content: IO[bytes], complaints: IO[bytes], mask: set[int | signal.Signals]) -> subprocess.Popen[bytes]:
    """A session of its own, so that all of it can be ended. No pipes: an agent that goes on in the background would keep them open."""
    return subprocess.Popen(
        command,
        stdin=content,
        stdout=complaints,
        stderr=complaints,
        start_new_session=True,
        preexec_fn=lambda: signal.pthread_sigmask(signal.SIG_SETMASK, mask),  # noqa: PLW1509 - there are no threads here
    )


def _last_line(complaints: IO[bytes]) -> str:
    complaints.seek(0)
    lines = complaints.read(65536).decode(errors="replace").split("\n")
    return next((line for line in reversed(lines) if line.strip()), "")


def ping(url: str, vault: str, kind: Ping, body: str, *, seconds: float = PING_SECONDS) -> None:
    """Tell a monitor, as healthchecks.io and those that follow it expect: POST to URL, URL/start or URL/fail. Raise NotSent."""
    content = body.encode()[-_BODY_MAX:]
    headers = {"User-Agent": f"offsited/{__version__}", "Content-Type": "text/plain; charset=utf-8"}
    request = urllib.request.Request(ping_url(url, vault, kind), data=content, headers=headers, method="POST")  # noqa: S310 - config has checked it
    try:
        with urllib.request.urlopen(request, timeout=seconds):  # noqa: S310
            return
    except urllib.error.HTTPError as error:
        error.close()
        raise NotSent(Unsent.PING_REFUSED, f"the monitor answered {error.code}") from None
    except (OSError, http.client.HTTPException, ValueError) as error:
        cause = error.reason if isinstance(error, urllib.error.URLError) else error
        raise NotSent(Unsent.PING_FAILED, f"the monitor cannot be reached: {type(cause).__name__}") from None


def ping_url(url: str, vault: str, kind: Ping) -> str:
    """The address of one kind of ping; `{vault}` in it stands for the vault's name, and a query stays at the end."""
    parts = urlsplit(url.replace("{vault}", vault))
    return urlunsplit(parts._replace(path=parts.path.rstrip("/") + _PATHS[kind]))


def apprise(url: str, subject: str, body: str) -> None:
    """Send through one of Apprise's services, if its library is installed. Raise NotSent."""
    try:
        from apprise import Apprise  # noqa: PLC0415 - optional, and slow to import
    except ImportError:
        raise NotSent(Unsent.APPRISE_ABSENT, "apprise is not installed") from None
    service = Apprise()
    scheme = url.partition(":")[0]
    if not service.add(url):
        raise NotSent(Unsent.APPRISE_FAILED, f"Apprise does not understand the {scheme} address")
    if not service.notify(title=subject, body=body):
        raise NotSent(Unsent.APPRISE_FAILED, f"Apprise could not deliver by {scheme}")
