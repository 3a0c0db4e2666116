# SPDX-License-Identifier: GPL-3.0-or-later
"""A bus of our own, as the system bus is by default in everything that matters here: limits, kinds of messages, who may do what."""

import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Self

import pytest

from .peer import Peer
from .service import Service

CONFIG = """<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig>
  <type>system</type>
  <listen>unix:path={socket}</listen>
  <auth>EXTERNAL</auth>
  <policy context="default">
    <allow user="*"/>
    <allow own="*"/>
    <allow send_type="signal"/>
    <allow send_type="method_call"/>
    <allow send_requested_reply="true" send_type="method_return"/>
    <allow send_requested_reply="true" send_type="error"/>
    <allow receive_type="method_call"/>
    <allow receive_type="method_return"/>
    <allow receive_type="error"/>
    <allow receive_type="signal"/>
  </policy>
  {limits}
</busconfig>
"""


class Daemon:
    """A running dbus-daemon. Its socket can be reached by every user, unlike pytest's own directories."""

    def __init__(self, limits: Mapping[str, int] = MappingProxyType({})) -> None:
        self._directory = tempfile.TemporaryDirectory(prefix="offsited-bus-")
        directory = Path(self._directory.name)
        directory.chmod(0o755)
        lines = [f'<limit name="{name}">{value}</limit>' for name, value in limits.items()]
        config = directory / "bus.conf"
        config.write_text(CONFIG.format(socket=directory / "socket", limits="".join(lines)))
        command = ["dbus-daemon", f"--config-file={config}", "--nofork", "--nopidfile", "--nosyslog", "--print-address=1"]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        assert self.process.stdout is not None
        self.address = self.process.stdout.readline().strip()
        assert self.address, "dbus-daemon did not start"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
        assert self.process.stdout is not None
        self.process.stdout.close()
        self._directory.cleanup()

    def kill(self) -> None:
        """End it as a crash does."""
        self.process.kill()
        self.process.wait()


@pytest.fixture
def daemon() -> Iterator[Daemon]:
    """A bus for one test."""
    with Daemon() as daemon:
        yield daemon


@pytest.fixture
def service(daemon: Daemon) -> Iterator[Service]:
    """The Bus under test, serving."""
    with Service(daemon.address) as service:
        yield service


@pytest.fixture
def peer(daemon: Daemon) -> Iterator[Peer]:
    """Another connection."""
    with Peer(daemon.address) as peer:
        yield peer
