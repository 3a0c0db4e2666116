# SPDX-License-Identifier: GPL-3.0-or-later
"""polkit's agent on this terminal, so that an administrator who is not root can authenticate: as systemctl does, pkttyagent(1)."""

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from typing import Final

_PROGRAM: Final = "pkttyagent"
_END_TIMEOUT: Final = 5.0


@contextlib.contextmanager
def on_terminal() -> Iterator[None]:
    """Within this, polkit may ask on the terminal. Nothing happens for root, without a terminal, or without the program."""
    agent = _start() if os.geteuid() != 0 and sys.stdin.isatty() else None
    try:
        yield
    finally:
        if agent is not None:
            _end(agent)


def _start() -> subprocess.Popen[bytes] | None:
    """Start the agent and wait until it is registered: it closes its end of the pipe then, or when it ends."""
    ready, ours = os.pipe()
    try:
        agent = subprocess.Popen([_PROGRAM, "--notify-fd", str(ours), "--fallback"], pass_fds=(ours,))
    except OSError:
        agent = None
    finally:
        os.close(ours)
    if agent is not None:
        os.read(ready, 1)
    os.close(ready)
    return agent


def _end(agent: subprocess.Popen[bytes]) -> None:
    agent.terminate()
    try:
        agent.wait(_END_TIMEOUT)
    except subprocess.TimeoutExpired:
        agent.kill()
        agent.wait()
