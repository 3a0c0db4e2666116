# SPDX-License-Identifier: GPL-3.0-or-later
"""gocryptfs as a supervised child: a mount that lives as long as a `with` block, and whose death ends what is done in it."""

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Sequence
from pathlib import Path
from typing import Any, Final, TypeVar

from offsited.core import gocryptfs
from offsited.core.outcome import Reason
from offsited.errors import JobFailed
from offsited.worker import mounts, process
from offsited.worker.process import Child, Ended

_Result = TypeVar("_Result")

_READY_WITHIN: Final = 120.0
"""Seconds; deriving the key takes most of them where memory is short."""
_ENDS_WITHIN: Final = 5.0
_LOOK_EVERY: Final = 2.0
_ANSWER_WITHIN: Final = 60.0
"""Seconds for one look through a mount. A hung one must not hang the job for ever."""


async def require(tool: str) -> None:
    """Raise JobFailed unless gocryptfs can be run and is new enough."""
    lines: list[bytes] = []
    try:
        await process.run(gocryptfs.version_command(tool), on_line=lines.append)
    except OSError as error:
        raise JobFailed(Reason.GOCRYPTFS_MISSING, f"{tool}: {error.strerror}") from None
    version = gocryptfs.parse_version(b"\n".join(lines).decode("utf-8", "replace"))
    if version is None:
        raise JobFailed(Reason.GOCRYPTFS_MISSING, f"{tool} does not say its version")
    if version < gocryptfs.MINIMUM:
        raise JobFailed(Reason.GOCRYPTFS_TOO_OLD, f"{tool} is {'.'.join(map(str, version))}")


class View:
    """A live gocryptfs mount. `mounted` makes one."""

    def __init__(self, command: Sequence[str], point: Path, file_system: str, key: int) -> None:
        """`command` runs gocryptfs in the foreground, with the passphrase from descriptor `key`."""
        self.point = point
        self._command = command
        self._file_system = file_system
        self._key = key
        self._running: tuple[Child, asyncio.Task[Ended]] | None = None
        self._died: asyncio.Future[Ended] = asyncio.get_running_loop().create_future()

    async def guard(self, work: Coroutine[Any, Any, _Result]) -> _Result:
        """Return what `work` returns. If gocryptfs dies first, end `work` and raise JobFailed: what it saw is not to be trusted."""
        task = asyncio.create_task(work)
        awaited: set[asyncio.Future[Any]] = {task, self._died}
        try:
            await asyncio.wait(awaited, return_when=asyncio.FIRST_COMPLETED)
        finally:
            if not task.done():
                await _cancel(task)
        if task.cancelled() or task.exception() is not None:
            await asyncio.wait({self._died}, timeout=1)  # rsync may fail for gocryptfs's death before we hear of that
        if self._died.done():
            raise JobFailed(Reason.VIEW_DIED, f"gocryptfs ended with status {self._died.result().status}")
        return task.result()

    async def look(self, looking: Callable[[], _Result]) -> _Result:
        """Run a function that touches the mount in a thread, and not for ever. Raise OSError, or JobFailed if there is no answer."""
        try:
            return await asyncio.wait_for(asyncio.to_thread(looking), _ANSWER_WITHIN)
        except TimeoutError:
            raise JobFailed(Reason.VIEW_WRONG, "gocryptfs does not answer") from None

    async def renew(self) -> None:
        """Mount it anew, as `renewal` wants it. Nobody may have anything open there meanwhile. Raise JobFailed."""
        await self.end()
        await self.begin()

    async def begin(self) -> None:
        """Mount it. Raise JobFailed if it does not get that far."""
        with _ready_signal() as heard:
            try:
                environment = gocryptfs.environment(_memory())
                child = await Child.start(self._command, on_line=process.relay, stdin=self._key, group=False, environment=environment)
            except OSError as error:
                raise JobFailed(Reason.GOCRYPTFS_MISSING, f"{self._command[0]}: {error.strerror}") from None
            death = asyncio.create_task(child.wait())
            self._running = child, death
            await _await_mount(heard, death, self.point, self._file_system)
            death.add_done_callback(self._note)

    async def end(self) -> None:
        """End gocryptfs in order, if it runs. If this is cancelled, it is to be asked for again."""
        if self._running is not None:
            child, death = self._running
            death.remove_done_callback(self._note)
            await _end(child, self.point)
            await _cancel(death)
            self._running = None

    def _note(self, death: asyncio.Task[Ended]) -> None:
        if not death.cancelled():
            self._died.set_result(death.result())


@contextlib.asynccontextmanager
async def mounted(command: Sequence[str], point: Path, file_system: str, *, key: int) -> AsyncIterator[View]:
    """Run a mounting gocryptfs with the passphrase from descriptor `key`, and yield its mount at `point` once it is ready.

    Raise JobFailed if it does not get that far. Afterwards gocryptfs is ended in order.
    """
    await asyncio.to_thread(point.mkdir, mode=0o700)
    view = View(command, point, file_system, key)
    try:
        await view.begin()
        yield view
    finally:
        await view.end()


async def _end(child: Child, point: Path) -> None:
    """End gocryptfs, in order if it lets us.

    One that is told to end before it listens for that dies at once, and leaves its mount; while it still asks its own mount whether the
    kernel polls (go-fuse 2.4.2) it even waits for its own answer, and cannot be killed (both seen).
    """
    ending = asyncio.create_task(child.end())
    await asyncio.wait({ending}, timeout=_ENDS_WITHIN)
    await asyncio.to_thread(mounts.abort, point)
    await ending


async def _await_mount(heard: asyncio.Event, death: asyncio.Task[Ended], point: Path, file_system: str) -> None:
    mounting = asyncio.create_task(_until_it_answers(heard, point))
    awaited: set[asyncio.Future[Any]] = {mounting, death}
    try:
        await asyncio.wait(awaited, timeout=_READY_WITHIN, return_when=asyncio.FIRST_COMPLETED)
        found = mounting.result() if mounting.done() and mounting.exception() is None else ""
    finally:
        await _cancel(mounting)
    if death.done():
        ended = death.result()
        raise JobFailed(gocryptfs.exit_reason(ended.status), f"gocryptfs ended with status {ended.status}: {ended.complaints}")
    if found != file_system:
        what = f"{found} was mounted" if found else f"nothing that answers was mounted within {_READY_WITHIN:.0f} seconds"
        raise JobFailed(Reason.GOCRYPTFS_FAILED, f"{what}, not {file_system}")


async def _until_it_answers(heard: asyncio.Event, point: Path) -> str:
    """Return which file system is mounted, once it is and answers, signal or not: gocryptfs was seen to serve one, under load, and never
    say so."""
    while True:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(heard.wait(), _LOOK_EVERY)
        heard.clear()
        mount = mounts.find(point)
        if mount is not None:
            await asyncio.to_thread(os.lstat, point)
            return mount.file_system


_listening: Final[set[asyncio.Event]] = set()


@contextlib.contextmanager
def _ready_signal() -> Iterator[asyncio.Event]:
    """gocryptfs's -notifypid sends SIGUSR1 once a mount is there: whose, each that waits for one must look. It may come late, too."""
    heard = asyncio.Event()
    _listening.add(heard)
    asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, _tell)
    try:
        yield heard
    finally:
        _listening.discard(heard)


def _tell() -> None:
    for heard in _listening:
        heard.set()


async def _cancel(task: asyncio.Task[Any]) -> None:
    task.cancel()
    await asyncio.wait({task})


def _memory() -> int:
    """Bytes of this machine."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
