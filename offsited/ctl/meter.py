# SPDX-License-Identifier: GPL-3.0-or-later
"""Progress of a job as it is shown: a bar on a terminal, a line per phase elsewhere, nothing where nobody looks."""

import os
import sys
from typing import TYPE_CHECKING, Final

from offsited.core import words
from offsited.core.progress import Phase
from offsited.ctl.follow import Meter
from offsited.ctl.objects import Job
from offsited.ctl.output import Output

if TYPE_CHECKING:
    from rich.progress import Progress, Task, TaskID

_PHASES: Final[dict[str, str]] = {
    Phase.STARTING: "starting",
    Phase.WALKING: "reading the snapshot",
    Phase.HASHING: "reading what may have changed",
    Phase.VIEW: "opening the encrypted view",
    Phase.COMPARING: "comparing with the target",
    Phase.SENDING: "sending",
    Phase.CHECKING: "checking",
    Phase.DELETING: "deleting",
    Phase.COMMITTING: "committing",
    Phase.FETCHING: "fetching",
    Phase.WRITING: "writing",
    Phase.LISTING: "listing the target",
    Phase.READING: "reading the target",
    Phase.WAITING: "waiting for its turn, or for the target",
    Phase.MOUNTED: "mounted",
}


def choose(out: Output, *, quiet: bool) -> Meter:
    """The meter for where the output goes."""
    if quiet or out.json:
        return Silence()
    if sys.stdout.isatty() and os.environ.get("TERM", "dumb") != "dumb":
        return Bar()
    return Lines(out)


def phase(word: str) -> str:
    """A phase in a person's words; a word of a newer daemon as it is."""
    return _PHASES.get(word, words.printable(word))


def amount(job: Job) -> str:
    """How much of the phase is done: '1.2 GiB of 2.8 GiB', '3,400 entries', or ""."""
    if job.bytes_total or job.bytes_done:
        return _of(words.size(job.bytes_done), words.size(job.bytes_total) if job.bytes_total else "")
    if job.entries_total or job.entries_done:
        return _of(
            words.number(job.entries_done, "" if job.entries_total else "entry"),
            words.number(job.entries_total, "entry") if job.entries_total else "",
        )
    return ""


def describe(job: Job) -> str:
    """One line: phase, percent, amount."""
    percent = "" if job.fraction is None else f"{job.fraction:.0%}"
    done = amount(job)
    return " ".join(part for part in (phase(job.phase), percent, f"({done})" if done and percent else done) if part)


def _of(done: str, total: str) -> str:
    return f"{done} of {total}" if total else done


class Silence:
    """Shows nothing."""

    def update(self, job: Job) -> None:
        """Nothing."""

    def pause(self) -> None:
        """Nothing."""

    def close(self) -> None:
        """Nothing."""


class Lines:
    """One line when a phase begins: for logs and pipes."""

    def __init__(self, out: Output) -> None:
        self._out = out
        self._phase = ""

    def update(self, job: Job) -> None:
        if job.phase and job.phase != self._phase:
            self._phase = job.phase
            self._out.say(
                f"{words.printable(job.vault)} to {words.printable(job.target)}: {phase(job.phase)}"
                if job.kind == "sync"
                else phase(job.phase)
            )

    def pause(self) -> None:
        self._out.say("waiting for the daemon; the job goes on")

    def close(self) -> None:
        """Nothing is left open."""


class Bar:
    """A progress bar: phase, percent, amount, rate, time left. Each phase begins anew."""

    def __init__(self) -> None:
        self._progress = _rich_progress()
        self._task = self._begin(Phase.STARTING)
        self._phase = ""
        self._progress.start()

    def update(self, job: Job) -> None:
        if job.phase != self._phase:
            self._phase = job.phase
            self._progress.remove_task(self._task)  # a reset one keeps its total and what it has shown
            self._task = self._begin(job.phase)
        bytes_count = bool(job.bytes_total or job.bytes_done)
        done, total = (job.bytes_done, job.bytes_total) if bytes_count else (job.entries_done, job.entries_total)
        self._progress.update(self._task, completed=done, total=total or None, amount=amount(job), unit="bytes" if bytes_count else "")

    def _begin(self, word: str) -> "TaskID":
        return self._progress.add_task(phase(word), total=None, amount="", unit="")

    def pause(self) -> None:
        self._progress.update(self._task, description="waiting for the daemon", total=None)
        self._phase = ""

    def close(self) -> None:
        self._progress.update(self._task, visible=False)
        self._progress.stop()


def _rich_progress() -> "Progress":
    """The bar itself. rich takes a tenth of a second to import."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, ProgressColumn, TaskProgressColumn, TextColumn, TimeRemainingColumn
    from rich.text import Text

    class Rate(ProgressColumn):
        """Bytes or entries per second."""

        def render(self, task: "Task") -> Text:
            speed = task.finished_speed or task.speed
            return Text("" if not speed else rate(speed, in_bytes=task.fields["unit"] == "bytes"), style="progress.data.speed")

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=None),
        TaskProgressColumn(show_speed=False),
        TextColumn("{task.fields[amount]}", markup=False),
        Rate(),
        TimeRemainingColumn(compact=True),
    )
    return Progress(*columns, console=Console(highlight=False), transient=True, expand=True, refresh_per_second=4)


def rate(speed: float, *, in_bytes: bool) -> str:
    """Speed in units per second."""
    return f"{words.size(int(speed))}/s" if in_bytes else f"{words.number(int(speed))}/s"
