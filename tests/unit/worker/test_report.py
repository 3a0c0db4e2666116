# SPDX-License-Identifier: GPL-3.0-or-later
"""What a job says to systemd, on a real notification socket, and leaves on record."""

import asyncio
import os
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from offsited.core.outcome import Outcome, Reason
from offsited.core.progress import Phase, Progress, parse_status_text
from offsited.core.record import JobRecord
from offsited.store import VaultFiles
from offsited.worker import report
from offsited.worker.report import Report

from .conftest import run


@pytest.fixture
def heard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(tmp_path / "notify"))
        listener.setblocking(False)  # noqa: FBT003 - as the socket module has it
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        monkeypatch.setenv("INVOCATION_ID", "ab" * 16)
        yield listener


def messages(listener: socket.socket) -> list[str]:
    found = []
    while True:
        try:
            found.append(listener.recv(5000).decode())
        except BlockingIOError:
            return found


def test_the_start_is_on_record_before_systemd_hears_of_it(heard: socket.socket, talk: Report, files: VaultFiles) -> None:
    told: list[tuple[str, JobRecord | None]] = []

    def listen() -> None:
        heard.setblocking(True)  # noqa: FBT003 - as the socket module has it
        told.append((heard.recv(5000).decode(), files.read_record(1)))

    listener = threading.Thread(target=listen)
    listener.start()
    talk.begin()
    listener.join()
    ((message, record),) = told
    assert message.splitlines()[0] == "READY=1"
    assert record is not None
    assert record == talk.record
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    assert (record.invocation, record.boot, record.outcome) == ("ab" * 16, boot, None)
    assert abs(record.started - time.time() * 1_000_000) < 60_000_000


def test_the_end_is_on_record(talk: Report, files: VaultFiles) -> None:
    talk.begin()
    talk.remark("one")
    talk.note(commit="abc")
    talk.remark("")
    talk.remark("two\udcff")
    talk.end(Outcome.FAILED, Reason.RSYNC_PARTIAL)
    record = files.read_record(1)
    assert record is not None
    assert (record.outcome, record.reason, record.detail, record.commit) == (Outcome.FAILED, "rsync-partial", "one\ntwo\\xff", "abc")
    assert record.ended >= record.started > 0


def test_until_its_end_a_record_has_no_outcome(talk: Report, files: VaultFiles) -> None:
    """So that a job whose unit is gone reads as interrupted, whatever it noted."""
    talk.begin()
    talk.note(commit="abc", outcome=Outcome.DONE)
    record = files.read_record(1)
    assert record is not None
    assert (record.outcome, record.ended) == (None, 0)


def test_a_detail_does_not_grow_for_ever(talk: Report) -> None:
    for number in range(1000):
        talk.remark(f"sentence {number}")
    assert len(talk.record.detail) <= 4000
    assert talk.record.detail.endswith("sentence 999")


def test_status_follows_progress_and_is_not_repeated(heard: socket.socket, talk: Report, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report, "STATUS_EVERY", 0.001)
    last = Progress(Phase.SENDING, 5, 9, 1, 2)

    async def work() -> None:
        async with talk.speaking():
            for number in range(5):
                talk.progress(Progress(Phase.SENDING, number, 9, 1, 2))
            talk.progress(last)
            while parse_status_text(await _next(heard)) != last:
                pass
            for _ in range(5):
                await asyncio.sleep(0.002)
            assert messages(heard) == []
            talk.phase(Phase.CHECKING)
            assert parse_status_text(await _next(heard)) == Progress(Phase.CHECKING)

    asyncio.run(asyncio.wait_for(work(), 30))


async def _next(listener: socket.socket) -> str:
    data = await asyncio.get_running_loop().sock_recv(listener, 5000)
    return data.decode().removeprefix("STATUS=")


def test_progress_may_be_told_from_a_thread(heard: socket.socket, talk: Report, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report, "STATUS_EVERY", 0.001)

    async def work() -> None:
        async with talk.speaking():
            await asyncio.to_thread(talk.progress, Progress(Phase.WALKING, entries_done=3))
            while parse_status_text(await _next(heard)) != Progress(Phase.WALKING, entries_done=3):
                pass

    asyncio.run(asyncio.wait_for(work(), 30))


def test_the_watchdog_is_fed_twice_within_its_interval(heard: socket.socket, talk: Report, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", "100000")
    monkeypatch.setattr(report, "STATUS_EVERY", 1000)

    async def work() -> float:
        async with talk.speaking():
            fed: list[float] = []
            while len(fed) < 4:
                if await _next(heard) == "WATCHDOG=1":
                    fed.append(time.monotonic())
            return (fed[-1] - fed[0]) / 3

    assert 0.03 < asyncio.run(asyncio.wait_for(work(), 30)) < 0.1


def test_without_a_watchdog_nothing_is_fed(heard: socket.socket, talk: Report, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WATCHDOG_USEC", raising=False)
    monkeypatch.setattr(report, "STATUS_EVERY", 0.001)

    async def work() -> None:
        async with talk.speaking():
            await _next(heard)

    asyncio.run(asyncio.wait_for(work(), 30))
    assert "WATCHDOG=1" not in messages(heard)


def test_no_socket_is_no_error(talk: Report) -> None:
    os.environ.pop("NOTIFY_SOCKET", None)
    talk.begin()
    run(_nothing())
    talk.end(Outcome.DONE, Reason.NONE)


async def _nothing() -> None:
    return
