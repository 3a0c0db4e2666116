# SPDX-License-Identifier: GPL-3.0-or-later
"""Each way out, against programs and a web server that behave and misbehave."""

import http.server
import os
import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from email.message import EmailMessage
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from offsited.core.event import UNSENT, Unsent
from offsited.core.notice import Ping
from offsited.notices import ways
from offsited.notices.ways import NotSent


@pytest.fixture
def mail() -> EmailMessage:
    message = EmailMessage()
    message["Subject"] = "a test"
    message.set_content("héllo\n")
    return message


def program(directory: Path, script: str) -> Path:
    path = directory / "sendmail"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return path


def refusal(attempt: object) -> NotSent:
    assert callable(attempt)
    with pytest.raises(NotSent) as caught:
        attempt()
    return caught.value


def test_sendmail_gets_the_mail_and_whom_it_is_for(tmp_path: Path, mail: EmailMessage) -> None:
    agent = program(tmp_path, f'printf "%s\\n" "$@" >{tmp_path}/arguments; cat >{tmp_path}/mail')
    ways.mail(mail, ("root", "you@example.org"), program=agent)
    assert (tmp_path / "arguments").read_text().split() == ["-i", "root", "you@example.org"]
    assert (tmp_path / "mail").read_bytes() == mail.as_bytes()


def test_sendmail_that_reads_nothing_is_no_trouble(tmp_path: Path, mail: EmailMessage) -> None:
    mail.set_content("x" * 1_000_000)
    ways.mail(mail, ("root",), program=program(tmp_path, "exit 0"))


def test_sendmail_that_fails_is_quoted(tmp_path: Path, mail: EmailMessage) -> None:
    failure = refusal(lambda: ways.mail(mail, ("root",), program=program(tmp_path, "echo first; echo no such user >&2; exit 67")))
    assert failure.word is Unsent.MAIL_FAILED
    assert "status 67: no such user" in failure.complaint


def test_no_sendmail(tmp_path: Path, mail: EmailMessage) -> None:
    assert refusal(lambda: ways.mail(mail, ("root",), program=tmp_path / "none")).word is Unsent.MAIL_ABSENT


def test_sendmail_that_hangs_is_ended_with_all_that_it_started(tmp_path: Path, mail: EmailMessage) -> None:
    agent = program(tmp_path, f"sleep 1000 & echo $! >{tmp_path}/child; wait")
    assert refusal(lambda: ways.mail(mail, ("root",), program=agent, seconds=0.5)).word is Unsent.MAIL_TIMED_OUT
    assert ended(int((tmp_path / "child").read_text()))


def test_being_stopped_right_after_sendmail_has_started_leaves_none_behind(
    tmp_path: Path, mail: EmailMessage, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[subprocess.Popen[bytes]] = []

    def start(*arguments: Any, **options: Any) -> subprocess.Popen[bytes]:
        started.append(popen(*arguments, **options))
        signal.raise_signal(signal.SIGTERM)
        return started[-1]

    popen = subprocess.Popen
    monkeypatch.setattr(subprocess, "Popen", start)
    before = signal.signal(signal.SIGTERM, lambda number, _frame: sys.exit(128 + number))
    try:
        with pytest.raises(SystemExit):
            ways.mail(mail, ("root",), program=program(tmp_path, "exec sleep 1000"))
    finally:
        signal.signal(signal.SIGTERM, before)
    assert started[0].returncode == -signal.SIGKILL
    assert signal.SIGTERM not in signal.pthread_sigmask(signal.SIG_BLOCK, set())


def ended(pid: int) -> bool:
    """Whether a process that is not our child ends, or has."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    with os.fdopen(descriptor) as process:
        return bool(select.select([process], [], [], 20)[0])


def test_sendmail_that_goes_on_in_the_background_is_not_waited_for(tmp_path: Path, mail: EmailMessage) -> None:
    agent = program(tmp_path, f"sleep 1000 & echo $! >{tmp_path}/child")
    ways.mail(mail, ("root",), program=agent, seconds=20)
    os.kill(int((tmp_path / "child").read_text()), 9)


@pytest.mark.parametrize(
    ("content", "domain"),
    [
        (b"nas.example.org\n", "nas.example.org"),
        (b"nas.example.org\n# and more\n", "nas.example.org"),
        (b"nas.example.org, other", "host"),
        (b"\n", "host"),
        (b"\xff\n", "host"),
        (None, "host"),
    ],
)
def test_mails_come_from_a_domain_whatever_mailname_holds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes | None, domain: str
) -> None:
    """What no address can have would keep every mail from being written."""
    monkeypatch.setattr(ways, "_MAILNAME", tmp_path / "mailname")
    monkeypatch.setattr(os, "uname", lambda: SimpleNamespace(nodename="host"))
    if content is not None:
        (tmp_path / "mailname").write_bytes(content)
    assert ways.domain() == domain


# --- pings -----------------------------------------------------------------------------------------------------------


class Server(http.server.ThreadingHTTPServer):
    """Answers with `status`; what it was asked is in `seen`."""

    status = 200
    seen: list[tuple[str, str, bytes]]


class _Handler(http.server.BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        assert isinstance(self.server, Server)
        self.server.seen.append((self.command, self.path, self.rfile.read(int(self.headers["Content-Length"]))))
        self.send_response(self.server.status)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        return


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server(("127.0.0.1", 0), _Handler)
    made.seen = []
    thread = threading.Thread(target=made.serve_forever)
    thread.start()
    yield made
    made.shutdown()
    thread.join()
    made.server_close()


def address(server: Server) -> str:
    return f"http://127.0.0.1:{server.server_address[1]}"


@pytest.mark.parametrize(
    ("url", "kind", "path"),
    [
        ("https://hc-ping.com/0123", Ping.START, "https://hc-ping.com/0123/start"),
        ("https://hc-ping.com/0123", Ping.SUCCESS, "https://hc-ping.com/0123"),
        ("https://hc-ping.com/0123/", Ping.FAIL, "https://hc-ping.com/0123/fail"),
        ("https://hc-ping.com/key/offsited-{vault}?create=1", Ping.FAIL, "https://hc-ping.com/key/offsited-home/fail?create=1"),
        ("https://example.org", Ping.SUCCESS, "https://example.org"),
    ],
)
def test_addresses_of_pings(url: str, kind: Ping, path: str) -> None:
    assert ways.ping_url(url, "home", kind) == path


def test_a_ping_carries_the_end_of_what_there_is_to_say(server: Server) -> None:
    ways.ping(f"{address(server)}/x", "home", Ping.FAIL, "ü" * 10_000 + "the end")
    (method, path, body) = server.seen[0]
    assert (method, path) == ("POST", "/x/fail")
    assert len(body) == 10_000
    assert body.endswith(b"the end")


@pytest.mark.parametrize("status", [404, 500, 503])
def test_a_monitor_that_refuses(server: Server, status: int) -> None:
    server.status = status
    failure = refusal(lambda: ways.ping(f"{address(server)}/secret", "home", Ping.SUCCESS, ""))
    assert failure.word is Unsent.PING_REFUSED
    assert "secret" not in failure.complaint


def test_a_monitor_that_is_not_there() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and not listening
        failure = refusal(lambda: ways.ping(f"http://127.0.0.1:{taken.getsockname()[1]}/secret", "home", Ping.SUCCESS, ""))
    assert failure.word is Unsent.PING_FAILED
    assert "secret" not in failure.complaint


@pytest.mark.parametrize("answer", [b"", b"no http at all\r\n\r\n", b"HTTP/1.1 999999 x\r\n\r\n"])
def test_a_monitor_that_speaks_nonsense(answer: bytes) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def speak() -> None:
            connection, _ = listening.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(answer)

        thread = threading.Thread(target=speak)
        thread.start()
        failure = refusal(lambda: ways.ping(f"http://127.0.0.1:{listening.getsockname()[1]}/", "home", Ping.SUCCESS, ""))
        thread.join()
    assert failure.word is Unsent.PING_FAILED


def test_a_monitor_that_never_answers_is_given_up() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        url = f"http://127.0.0.1:{listening.getsockname()[1]}/"
        assert refusal(lambda: ways.ping(url, "home", Ping.SUCCESS, "", seconds=0.3)).word is Unsent.PING_FAILED


def test_every_reason_why_it_was_not_sent_has_its_advice() -> None:
    assert set(UNSENT) == set(Unsent)
    assert all(sentence and hint for sentence, hint in UNSENT.values())
