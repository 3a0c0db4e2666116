# SPDX-License-Identifier: GPL-3.0-or-later
"""A private bus with a fake daemon, and offsitectl run against it: in this process, or as a process of its own where signals matter."""

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from offsited.ctl import cli

from .fake import TIMEOUT, FakeDaemon

CONFIG = """<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig>
  <type>system</type>
  <listen>unix:path={socket}</listen>
  <auth>EXTERNAL</auth>
  <policy context="default">
    <allow user="*"/>
    <allow own="*"/>
    <allow send_destination="*" eavesdrop="true"/>
    <allow receive_sender="*"/>
  </policy>
</busconfig>
"""


@dataclass(frozen=True)
class Ran:
    """What a command printed, and how it ended."""

    status: int
    stdout: str
    stderr: str


Run = Callable[..., Ran]


class Running:
    """offsitectl as a process of its own."""

    def __init__(self, *arguments: str) -> None:
        command = [sys.executable, "-m", "offsited.ctl", *arguments]
        self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def interrupt(self) -> None:
        """Ctrl-C."""
        self.process.send_signal(signal.SIGINT)

    def read_line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline()

    def finish(self) -> Ran:
        stdout, stderr = self.process.communicate(timeout=TIMEOUT)
        return Ran(self.process.returncode, stdout, stderr)


@pytest.fixture(scope="session")
def address() -> Iterator[str]:
    """A bus of our own for all tests here."""
    with tempfile.TemporaryDirectory(prefix="offsited-ctl-") as directory:
        config = Path(directory) / "bus.conf"
        config.write_text(CONFIG.format(socket=Path(directory) / "socket"))
        command = ["dbus-daemon", f"--config-file={config}", "--nofork", "--nopidfile", "--nosyslog", "--print-address=1"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            yield process.stdout.readline().strip()
            process.kill()


@pytest.fixture
def fake(address: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeDaemon]:
    """The daemon's place on the bus, and that bus as the system bus."""
    monkeypatch.setenv("DBUS_SYSTEM_BUS_ADDRESS", address)
    with FakeDaemon(address) as daemon:
        yield daemon


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run one command of offsitectl in this process."""
    monkeypatch.setenv("TZ", "UTC")

    def run_command(*arguments: str) -> Ran:
        capfd.readouterr()
        status = cli.main(list(arguments))
        printed = capfd.readouterr()
        return Ran(status, printed.out, printed.err)

    return run_command


@pytest.fixture
def start(fake: FakeDaemon, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Running]]:
    """Start offsitectl as a process of its own. What still runs at the end is a failure."""
    del fake
    monkeypatch.setenv("PYTHONPATH", str(Path(cli.__file__).parents[2]))
    running: list[Running] = []

    def start_command(*arguments: str) -> Running:
        running.append(Running(*arguments))
        return running[-1]

    yield start_command
    left = [one for one in running if one.process.poll() is None]
    for one in left:
        os.kill(one.process.pid, signal.SIGKILL)
        one.process.wait()
    assert not left, "offsitectl still ran"
