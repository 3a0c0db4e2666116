# SPDX-License-Identifier: GPL-3.0-or-later
"""The progress bar as a terminal shows it."""

import io
import re

import pytest
from rich.console import Console

from offsited.ctl import meter
from offsited.ctl.objects import Job


@pytest.fixture
def screen(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    """What is written to a terminal of 100 columns."""
    monkeypatch.setenv("TERM", "xterm")
    written = io.StringIO()
    console = Console(file=written, force_terminal=True, width=100, highlight=False)
    monkeypatch.setattr("rich.console.Console", lambda **_: console)
    return written


def frame(bar: meter.Bar, screen: io.StringIO, job: Job) -> str:
    """The line that is shown for a job."""
    bar.update(job)
    screen.seek(0)
    screen.truncate()
    bar._progress.refresh()
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", screen.getvalue()).strip()


def test_each_phase_begins_anew(screen: io.StringIO) -> None:
    bar = meter.Bar()
    try:
        sending = frame(bar, screen, Job(1, phase="sending", bytes_done=39 << 20, bytes_total=40 << 20))
        assert re.search(r"sending .* 98% 39.0 MiB of 40.0 MiB", sending)
        committing = frame(bar, screen, Job(1, phase="committing"))
        assert committing.startswith("committing")
        assert "MiB" not in committing, "that was the phase before"
        assert "%" not in committing
    finally:
        bar.close()
