# SPDX-License-Identifier: GPL-3.0-or-later
"""Watching connections from outside: which are a job's own, what waits in them, and their end."""

import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from offsited.worker.line import Line

TALKER = """
import os, socket, sys
line = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
line.settimeout(0)
try:
    while int(sys.argv[2]):
        os.write(line.fileno(), bytes(65536))
except BlockingIOError:
    pass
print("ready", flush=True)
sys.stdin.read()
"""
"""Connects, writes as much as the kernel takes if it is told to, and waits. (What goes by send(2) is not counted; ssh calls write(2).)"""


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    """Takes connections, and reads nothing."""
    with socket.create_server(("127.0.0.1", 0)) as made:
        yield made


def talker(listener: socket.socket, control: Path, *, sending: bool) -> subprocess.Popen[bytes]:
    """A process that names a control socket in its command line, as ssh does, and has a connection."""
    command = [sys.executable, "-c", TALKER, str(listener.getsockname()[1]), str(int(sending)), f"-oControlPath={control}"]
    started = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert started.stdout is not None
    assert started.stdout.readline() == b"ready\n"
    return started


def test_what_waits_is_seen_of_ones_own_connections_alone(listener: socket.socket, tmp_path: Path) -> None:
    ours, theirs = Line(tmp_path / "ours"), Line(tmp_path / "theirs")
    with (
        talker(listener, ours.control, sending=True) as full,
        talker(listener, ours.control, sending=False) as idle,
        talker(listener, theirs.control, sending=False) as other,
    ):
        found = dict(ours._samples())
        assert {pid: sample.waiting for pid, sample in found.items()} == {full.pid: True, idle.pid: False}
        assert found[full.pid].taken > 65536 > found[idle.pid].taken
        ours.control.touch()
        ours.drop()
        assert (full.wait(), idle.wait(), other.poll()) == (-15, -15, None)
        assert not ours.control.exists()
        assert dict(ours._samples()) == {}
        other.kill()
