# SPDX-License-Identifier: GPL-3.0-or-later
"""Writing a tree anew from the rows of a manifest: directories first, then their entries by parts, attributes of directories last."""

import asyncio
import itertools
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Final, TypeVar

from offsited.core.manifest import TOP, Row, parent, parents
from offsited.core.outcome import Reason
from offsited.core.progress import Phase, Progress
from offsited.errors import JobFailed
from offsited.worker.destination import SCRATCH, Destination
from offsited.worker.fetching import Clear, parts
from offsited.worker.job import Job
from offsited.worker.ledger import Ledger
from offsited.worker.renewal import Renewal
from offsited.worker.tasks import to_its_end
from offsited.worker.writing import Writer

PART_ENTRIES: Final = 5000
PART_BYTES: Final = 1 << 30
"""Of a part: what is fetched at once lies encrypted in the destination meanwhile. A single file may be larger."""
PART_BYTES_HERE: Final = 4 << 30
"""Of a part where nothing is fetched."""
WRITERS: Final = 4
"""Threads: each waits for gocryptfs most of the time."""
_LARGE: Final = 16 << 20
"""Bytes of a file that is given to whoever is free, the largest first: else all would wait for who has them."""
_TELL_EVERY: Final = 0.5

_SCRATCH: Final = SCRATCH.encode()
_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_Thing = TypeVar("_Thing")


class Rebuilding:
    """One restore."""

    def __init__(self, job: Job, ledger: Ledger, destination: Destination, clear: Clear, selected: Sequence[Row]) -> None:
        self._job = job
        self._ledger = ledger
        self._destination = destination
        self._clear = clear
        self._selected = selected
        self._stop = threading.Event()
        self._flagged: list[Row] = []
        self._told = 0
        """Bytes as the commit counts them: a file once for each of its names."""
        self.entries = self.bytes = 0

    @property
    def top(self) -> Row | None:
        """The row of the snapshot's top, if everything was asked for."""
        return self._selected[0] if self._selected[0].path == TOP else None

    async def run(self) -> None:
        """Do it. What does not come out as it should is noted at the destination. Raise JobFailed."""
        try:
            await self._run()
        except OSError as error:
            raise JobFailed(Reason.DESTINATION_UNUSABLE, f"something there is not as it was made: {error.strerror}") from error

    async def _run(self) -> None:
        with ExitStack() as stack:
            top = os.open(self._destination.point, _DIRECTORY)
            stack.callback(os.close, top)
            differences = self._destination.differences
            if any(row.path == TOP or _is_scratch(row) for row in self._selected) and self._ledger.row(_SCRATCH):
                differences.note(_SCRATCH, "a restore needs this name itself, and leaves it out")
            writer = Writer(top, await self._open_source(), lambda one: differences.note(one.path, one.what), self._stop)
            stack.callback(writer.close)
            pool = stack.enter_context(ThreadPoolExecutor(WRITERS, "writer"))
            stack.callback(self._stop.set)
            await to_its_end(lambda: self._make_directories(writer), self._stop)
            await self._write_all(writer, pool)
            for row in self._flagged:
                writer.finish_linked(row)
            await to_its_end(lambda: self._finish_directories(writer), self._stop)

    async def _open_source(self) -> int:
        """Open the top of the snapshot in clear. Raise JobFailed."""
        try:
            return await self._clear.view.look(lambda: os.open(self._clear.top, _DIRECTORY))
        except OSError as error:
            raise JobFailed(Reason.TARGET_DAMAGED, f"the top of the snapshot: {error.strerror}") from error

    async def _write_all(self, writer: Writer, pool: ThreadPoolExecutor) -> None:
        """Write part by part, and now and then through a new mount."""
        renewal = Renewal(lambda: self._renew(writer))
        limit = PART_BYTES if self._clear.fetcher else PART_BYTES_HERE
        for part in parts(self._rows(), PART_ENTRIES, lambda: limit):
            async with renewal.showing(len(part)):
                await self._clear.view.guard(self._write(writer, pool, part))

    async def _renew(self, writer: Writer) -> None:
        writer.close()
        await self._clear.view.renew()
        writer.source = await self._open_source()

    # --- which rows ------------------------------------------------------------------------------------------------

    def _above(self) -> list[Row]:
        """Directories that hold what was asked for, each after the one that holds it."""
        paths = {path for row in self._selected for path in parents(row.path)}
        return [row for path in sorted(paths) if path != TOP and (row := self._ledger.row(path))]

    def _directories(self, *, deepest_first: bool = False) -> Iterator[Row]:
        """Directories that were asked for, each after the one that holds it, or before."""
        for row in self._selected:
            if row.kind == "d":
                found = self._ledger.directories_below(row.path, deepest_first=deepest_first)
                yield from (directory for directory in found if not _is_scratch(directory))

    def _rows(self) -> Iterator[Row]:
        """Everything else that was asked for, directory by directory."""
        for row in self._selected:
            found = self._ledger.entries_below(row.path) if row.kind == "d" else iter([row])
            yield from (entry for entry in found if not _is_scratch(entry))

    # --- writing ---------------------------------------------------------------------------------------------------

    def _make_directories(self, writer: Writer) -> None:
        made = self._destination.all_made()
        for row in self._above():
            if row.path in made:
                writer.unfinish_directory(row)
            elif _make(writer, row):
                self._destination.made(row.path)
        for row in self._directories():
            if self._stop.is_set():
                return
            if row.path != TOP:
                if not _make(writer, row):
                    writer.unfinish_directory(row)
                self.entries += 1

    async def _write(self, writer: Writer, pool: ThreadPoolExecutor, part: Sequence[Row]) -> None:
        """Fetch what the files of a part need, write its entries, then the further names of hard-link groups."""
        firsts, links = self._split(part)
        files = [row for row in firsts if row.kind == "f" and row.size]
        await self._clear.fetch([row.path for row in files], sum(row.size for row in files))
        await self._write_side_by_side(writer, pool, firsts)
        await asyncio.get_running_loop().run_in_executor(pool, self._link_each, writer, links)
        await self._clear.forget()
        self.entries += len(part)
        self.bytes += sum(row.size for row in firsts)
        self._told += sum(row.size for row in part)
        self._tell()

    async def _write_side_by_side(self, writer: Writer, pool: ThreadPoolExecutor, firsts: Sequence[Row]) -> None:
        large = iter(sorted((row for row in firsts if row.size >= _LARGE), key=lambda row: row.size, reverse=True))
        small = [row for row in firsts if row.size < _LARGE]
        written: list[int] = []
        loop = asyncio.get_running_loop()
        shares = [itertools.chain(large, small[start::WRITERS]) for start in range(WRITERS)]
        writing = asyncio.gather(*(loop.run_in_executor(pool, self._write_each, writer, share, written) for share in shares))
        try:
            while not writing.done():
                await asyncio.wait({writing}, timeout=_TELL_EVERY)
                self._tell(sum(written), len(written))
            writing.result()
        finally:
            writing.cancel()

    def _tell(self, size: int = 0, entries: int = 0) -> None:
        """How far it is: with so much of a part that is not complete."""
        total = self._job.report.record.counts if self.top else None
        progress = Progress(
            Phase.WRITING, self._told + size, total.bytes if total else 0, self.entries + entries, total.entries if total else 0
        )
        self._job.report.progress(progress)

    def _split(self, part: Sequence[Row]) -> tuple[list[Row], list[tuple[bytes, Row]]]:
        """Those that are written themselves, and those that become another name of one that was."""
        firsts: list[Row] = []
        links: list[tuple[bytes, Row]] = []
        for row in part:
            first = self._ledger.first_of_link(row.link, row.path) if row.link else row.path
            if first == row.path:
                firsts.append(row)
                if row.link and row.flags:
                    self._flagged.append(row)
            else:
                links.append((first, row))
        return firsts, links

    def _write_each(self, writer: Writer, rows: Iterable[Row], written: list[int]) -> None:
        def write(above: int, row: Row) -> None:
            writer.write(above, row)
            written.append(row.size)

        _by_directory(writer, rows, lambda row: row, write, self._stop)

    def _link_each(self, writer: Writer, links: Sequence[tuple[bytes, Row]]) -> None:
        _by_directory(writer, links, lambda link: link[1], lambda above, link: writer.link(link[0], above, link[1]), self._stop)

    def _finish_directories(self, writer: Writer) -> None:
        """The deepest first: giving one its time must come after everything in it. What was there before stays as it was."""
        for row in self._directories(deepest_first=True):
            if self._stop.is_set():
                return
            writer.finish_directory(row)
        made = self._destination.all_made()
        for row in reversed(self._above()):
            if row.path in made:
                writer.finish_directory(row)


def _is_scratch(row: Row) -> bool:
    return row.path == _SCRATCH or row.path.startswith(_SCRATCH + b"/")


def _make(writer: Writer, row: Row) -> bool:
    """Make a directory; whether it was not there."""
    above = writer.open_directory(parent(row.path))
    try:
        return writer.make_directory(above, row)
    finally:
        os.close(above)


def _by_directory(
    writer: Writer, things: Iterable[_Thing], row_of: Callable[[_Thing], Row], work: Callable[[int, _Thing], None], stop: threading.Event
) -> None:
    """Do `work` with each thing and its open directory, which is opened once for those that follow each other in it."""
    opened: tuple[bytes, int] | None = None
    try:
        for thing in things:
            if stop.is_set():
                return
            directory = parent(row_of(thing).path)
            if opened is None or opened[0] != directory:
                if opened is not None:
                    os.close(opened[1])
                opened = None
                opened = directory, writer.open_directory(directory)
            work(opened[1], thing)
    finally:
        if opened is not None:
            os.close(opened[1])
