# SPDX-License-Identifier: GPL-3.0-or-later
"""The one door through which a worker runs other programs, with real ones."""

import asyncio
import io
import os
import signal
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from offsited.worker import process

from .conftest import run


def sh(script: str) -> list[str]:
    return ["/bin/sh", "-c", script]


def lines_of(script: str) -> list[bytes]:
    lines: list[bytes] = []
    run(process.run(sh(script), on_line=lines.append))
    return lines


@pytest.mark.parametrize(("script", "status"), [("exit 0", 0), ("exit 1", 1), ("exit 255", 255), ("kill -9 $$", -9), ("kill -15 $$", -15)])
def test_how_a_child_ended(script: str, status: int) -> None:
    assert run(process.run(sh(script))).status == status


def test_lines_end_with_a_newline_or_a_carriage_return() -> None:
    assert lines_of(r"printf 'a\nb\rc\r\n\nd'") == [b"a", b"b", b"c", b"d"]


def test_output_is_read_whole() -> None:
    lines = lines_of("seq 1 100000")
    assert (len(lines), lines[-1]) == (100_000, b"100000")


def test_a_program_that_flushes_every_line_is_read_whole_and_seldom(monkeypatch: pytest.MonkeyPatch) -> None:
    """rsync does so: thousands of lines a second would be as many wake-ups."""
    reads: list[int] = []
    take = process._Lines.take

    def counted(lines: process._Lines, data: bytes) -> None:
        reads.append(len(data))
        take(lines, data)

    monkeypatch.setattr(process._Lines, "take", counted)
    lines: list[bytes] = []
    chatter = "for number in range(20_000): print(number, flush=True)"
    assert run(process.run(["/usr/bin/python3", "-c", chatter], on_line=lines.append)).status == 0
    assert lines == [b"%d" % number for number in range(20_000)]
    assert len(reads) < 2_000


def test_a_line_without_end_does_not_fill_the_memory() -> None:
    pieces = lines_of("head -c 1000000 /dev/zero")
    assert sum(map(len, pieces)) == 1_000_000
    assert max(map(len, pieces)) <= process._LINE_MAX


def test_complaints_are_kept_and_go_to_the_journal(capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    ended = run(process.run(sh("echo first >&2; printf '\\377\\n' >&2; exit 3")))
    assert (ended.status, ended.complaints) == (3, "first\n\udcff")
    assert capfdbinary.readouterr().err == b"first\n\xff\n"


def test_of_many_complaints_the_first_and_the_last_are_kept() -> None:
    kept = run(process.run(sh("seq 1 5000 >&2"))).complaints.splitlines()
    assert (kept[0], kept[99], kept[100], kept[-1], len(kept)) == ("1", "100", "4901", "5000", 200)


def test_a_child_gets_a_clean_environment_and_no_descriptor() -> None:
    held = os.open("/etc/passwd", os.O_RDONLY)
    os.set_inheritable(held, True)  # noqa: FBT003 - as the os module has it
    try:
        lines = lines_of("env; pwd; ls -l /proc/self/fd; read x || echo no input")
    finally:
        os.close(held)
    text = b"\n".join(lines).decode()
    assert {"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C", "HOME=/", "/", "no input"} <= set(text.splitlines())
    assert "passwd" not in text
    assert {line.partition("=")[0] for line in text.splitlines() if "=" in line} <= {
        "PATH",
        "LC_ALL",
        "HOME",
        "PWD",
        "SHLVL",
        "_",
        "OLDPWD",
    }


def test_a_program_that_is_not_there() -> None:
    with pytest.raises(FileNotFoundError):
        run(process.run(["/nowhere/x"]))


def test_a_cancelled_caller_ends_the_child_with_its_group(tmp_path: Path) -> None:
    """A fifo is open as long as anybody of the group lives: its end is the event to wait for."""
    fifo = tmp_path / "alive"
    os.mkfifo(fifo)

    async def work() -> None:
        started = asyncio.Event()
        script = f"exec 3>{fifo}; sleep 1000 & echo started; wait"
        task = asyncio.create_task(process.run(sh(script), on_line=lambda _line: started.set()))
        reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
        await started.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        ended = asyncio.Event()
        asyncio.get_running_loop().add_reader(reader, ended.set)
        await asyncio.wait_for(ended.wait(), 20)
        asyncio.get_running_loop().remove_reader(reader)
        assert os.read(reader, 1) == b""
        os.close(reader)

    run(work())


def test_a_child_that_ignores_sigterm_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "GRACE", 0.2)

    async def work() -> int:
        ready = asyncio.Event()
        child = await process.Child.start(sh("trap '' TERM; echo ready; while :; do sleep 1000; done"), on_line=lambda _line: ready.set())
        await ready.wait()
        await child.end()
        assert not child.running
        return (await child.wait()).status

    assert run(work()) == -signal.SIGKILL


def test_a_descendant_that_keeps_the_pipes_does_not_keep_us(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """gocryptfs -nosyslog once kept its standard error open in a child."""
    monkeypatch.setattr(process, "GRACE", 0.2)
    pid_file = tmp_path / "pid"
    ended = run(process.run(sh(f"setsid sleep 1000 & echo $! > {pid_file}; echo said >&2; exit 4")))
    try:
        assert (ended.status, ended.complaints) == (4, "said")
    finally:
        os.kill(int(pid_file.read_text()), signal.SIGKILL)


def test_a_listener_that_fails_neither_hangs_the_child_nor_goes_unseen() -> None:
    def fails(line: bytes) -> None:
        raise ValueError(line)

    with pytest.raises(ValueError, match="1"):
        run(process.run(sh("seq 1 100000"), on_line=fails))


def test_a_journal_that_is_gone_hides_no_complaint(monkeypatch: pytest.MonkeyPatch) -> None:
    """Standard error is a socket to journald; when that is gone, writing fails with EPIPE."""
    reader, writer = os.pipe()
    os.close(reader)
    monkeypatch.setattr("sys.stderr", io.TextIOWrapper(io.FileIO(writer, "w")))
    ended = run(process.run(sh("seq 1 100000 >&2; exit 5")))
    monkeypatch.undo()
    assert ended.status == 5
    assert ended.complaints.splitlines()[-1] == "100000"


@given(st.lists(st.binary(min_size=1, max_size=20).filter(lambda line: not {10, 13} & set(line)), max_size=20), st.integers(1, 7))
def test_lines_are_the_same_however_they_arrive(lines: list[bytes], size: int) -> None:
    found: list[bytes] = []
    cutter = process._Lines(found.append)
    whole = b"".join(line + b"\n" for line in lines)
    for start in range(0, len(whole), size):
        cutter.take(whole[start : start + size])
    assert found == lines
