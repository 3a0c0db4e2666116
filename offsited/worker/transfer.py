# SPDX-License-Identifier: GPL-3.0-or-later
"""Running rsync: confined, its progress told, its end judged, and tried again where that can help."""

import asyncio
import os
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TypeVar

from offsited.core import config, rsync, ssh
from offsited.core.line import WINDOW
from offsited.core.outcome import Reason
from offsited.core.progress import Progress
from offsited.core.rsync_output import Item, Running, Tally, parse_line, parse_wire_bytes, says_skipped
from offsited.errors import JobFailed
from offsited.worker import process
from offsited.worker.gauge import Gauge
from offsited.worker.line import Line
from offsited.worker.process import Ended, Listener
from offsited.worker.report import Report

_Result = TypeVar("_Result")

PAUSES: Final = (5.0, 20.0)
"""Seconds before the second and the third try after a fault of the network."""
ENOUGH: Final = 30.0
"""Seconds of failing after which it is not tried once more: within two minutes a person knows that a host went away."""
LONG: Final = 300.0
"""Seconds that an attempt got somewhere; a first sync may take days, with a fault now and then."""
_DETAIL_LINES: Final = 20


class TransferFailed(JobFailed):
    """rsync did not exit 0."""

    def __init__(self, status: int, complaints: str) -> None:
        self.meaning = rsync.judge(status, complaints)
        self.status = status
        self.complaints = complaints
        last = "\n".join(complaints.splitlines()[-_DETAIL_LINES:])
        super().__init__(self.meaning.reason, f"rsync ended with status {status}\n{last}".strip())


@dataclass(frozen=True)
class Transfers:
    """All transfers of one job, with what they did in all."""

    tools: config.Tools
    runtime: Path
    report: Report
    tally: Tally = field(default_factory=Tally)

    async def run(self, command: list[str], *, capabilities: tuple[str, ...] = (), on_line: Listener | None = None) -> None:
        """Run an rsync command with these capabilities alone. Raise TransferFailed."""
        if not os.access(self.tools.rsync, os.X_OK):
            raise JobFailed(Reason.RSYNC_MISSING, self.tools.rsync)
        confined = rsync.confined(self.tools.setpriv, capabilities, command)
        try:
            ended = await self._watched(process.run(confined, on_line=on_line))
        except OSError as error:
            raise JobFailed(Reason.RSYNC_MISSING, f"{confined[0]}: {error.strerror}") from None
        if ended.status:
            failure = TransferFailed(ended.status, self._line.overheard() + ended.complaints)
            if failure.meaning.transient:
                await asyncio.to_thread(self._line.drop)
            raise failure

    async def _watched(self, work: Coroutine[Any, Any, Ended]) -> Ended:
        """Await rsync's end, but no longer than something moves on its line."""
        running, watching = asyncio.create_task(work), asyncio.create_task(self._line.until_stalled())
        try:
            await asyncio.wait({running, watching}, return_when=asyncio.FIRST_COMPLETED)
            if running.done():
                return running.result()
            watching.result()
            return Ended(rsync.TIMEOUT, f"nothing moved on the line for {WINDOW:.0f} seconds")
        finally:
            for task in (running, watching):
                task.cancel()
            await asyncio.wait({running, watching})

    @property
    def _line(self) -> Line:
        return Line(self.runtime / ssh.CONTROL)

    async def counted(
        self,
        command: list[str],
        gauge: Gauge,
        *,
        capabilities: tuple[str, ...],
        sealed: bool = True,
        above: str = "",
        on_item: Callable[[Item], None] | None = None,
    ) -> None:
        """As `run`, shown by a gauge while it runs, and added to the tally. `on_item` is given each item before its content is read.

        `sealed`: it is of the encrypted tree; `above`: its paths are told relative to this directory of it.
        """
        with gauge.transfer() as told:
            counter = _Counter(self.tally, told, on_item or _nobody, sealed=sealed, above=above.encode(), running=rsync.RUNNING in command)
            await self.run(command, capabilities=capabilities, on_line=counter)

    async def fetched(self, command: list[str], start: Progress, *, sealed: bool = True) -> None:
        """As `counted`, of an rsync that writes here. Raise JobFailed if it is this machine's place that does not take it."""
        try:
            await self.counted(command, Gauge(self.report, start), capabilities=rsync.WRITING_FILES, sealed=sealed)
        except TransferFailed as failure:
            if failure.meaning.reason in {Reason.TARGET_FULL, Reason.TARGET_READ_ONLY}:
                raise JobFailed(Reason.DESTINATION_UNUSABLE, failure.detail) from failure
            raise

    def wire(self, line: bytes) -> None:
        """Listens to a transfer of which nothing counts but the bytes on the wire."""
        self.tally.wire_bytes += parse_wire_bytes(line)

    def listed(self, paths: Iterable[bytes]) -> rsync.Listed:
        """Paths of the mirror: themselves if a command line has room for them, else a new file of them."""
        known = list(paths)
        return known if rsync.are_few(known) else self.list_file(map(rsync.in_target, known))

    def list_file(self, paths: Iterable[bytes]) -> Path:
        """Return a new file of these paths, each ended by NUL, for rsync's --files-from."""
        descriptor, name = tempfile.mkstemp(prefix="paths-", dir=self.runtime)
        with os.fdopen(descriptor, "wb") as file:
            file.writelines(path + b"\0" for path in paths)
        return Path(name)


class _Counter:
    """Listens to one rsync."""

    def __init__(
        self,
        tally: Tally,
        told: Callable[[int, int], None],
        on_item: Callable[[Item], None],
        *,
        sealed: bool,
        above: bytes,
        running: bool,
    ) -> None:
        """`running`: rsync tells how far it is; else that is counted by its items, each as soon as it is begun."""
        self._tally = tally
        self._told = told
        self._on_item = on_item
        self._sealed = sealed
        self._above = above
        self._running = running
        self._size = self._entries = 0

    def __call__(self, line: bytes) -> None:
        match parse_line(line):
            case Running(bytes_done, entries_done):
                self._entries = entries_done or self._entries  # lines without that number come while a long file travels
                self._told(bytes_done, self._entries)
            case Item() as item:
                if self._sealed:
                    item = Item(item.change, item.length, self._above + b"/" + item.path if self._above else rsync.in_mirror(item.path))
                self._tally.take(item, sealed=self._sealed)
                self._on_item(item)
                if not self._running:
                    self._size += item.length if item.is_content else 0
                    self._entries += 1
                    self._told(self._size, self._entries)
            case None:
                self._tally.wire_bytes += parse_wire_bytes(line)
                self._tally.skipped += says_skipped(line)


def _nobody(_item: Item) -> None:
    return


async def patiently(attempt: Callable[[], Awaitable[_Result]], pauses: Sequence[float] = PAUSES, enough: float = ENOUGH) -> _Result:
    """Await `attempt()`, again after each of `pauses` while it fails for what may pass. Raise the last TransferFailed.

    `enough`: seconds of failing after which no other try begins. An attempt that went on for LONG has earned all tries anew.
    """
    left, failing = list(pauses), 0.0
    while True:
        begun = time.monotonic()
        try:
            return await attempt()
        except TransferFailed as failure:
            ended = time.monotonic()
            if not failing or ended - begun >= LONG:
                left, failing = list(pauses), ended
            if not failure.meaning.transient or not left or ended - failing > enough:
                raise
            print(f"rsync ended with status {failure.status}; trying again in {left[0]:.0f} seconds", file=sys.stderr, flush=True)
            await asyncio.sleep(left.pop(0))
