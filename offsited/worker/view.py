# SPDX-License-Identifier: GPL-3.0-or-later
"""gocryptfs as a supervised child: a mount that lives as long as a `with` block, and whose death ends what is done in it."""

import asyncio
import contextlib
import json
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
    """A live gocryptfs mount."""

    def __init__(self, point: Path, child: Child, death: asyncio.Task[Ended]) -> None:
        self.point = point
        self._child = child
        self._death = death

    async def guard(self, work: Coroutine[Any, Any, _Result]) -> _Result:
        """Return what `work` returns. If gocryptfs dies first, end `work` and raise JobFailed: what it saw is not to be trusted."""
        task = asyncio.create_task(work)
        try:
            await asyncio.wait({task, self._death}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            if not task.done():
                await _cancel(task)
        if await self._died(task):
            raise JobFailed(Reason.VIEW_DIED, f"gocryptfs ended with status {self._death.result().status}")
        return task.result()

    async def _died(self, task: asyncio.Task[_Result]) -> bool:
        """rsync may fail for gocryptfs's death before we hear of that: give it a moment."""
        if task.cancelled() or task.exception() is not None:
            await asyncio.wait({self._death}, timeout=1)
        return self._death.done()

    async def look(self, looking: Callable[[], _Result]) -> _Result:
        """Run a function that touches the mount in a thread, and not for ever. Raise OSError, or JobFailed if there is no answer."""
        try:
            return await asyncio.wait_for(asyncio.to_thread(looking), _ANSWER_WITHIN)
        except TimeoutError:
            raise JobFailed(Reason.VIEW_WRONG, "gocryptfs does not answer") from None


@contextlib.asynccontextmanager
async def mounted(command: Sequence[str], point: Path, file_system: str, *, key: int) -> AsyncIterator[View]:
    """Run a mounting gocryptfs with the passphrase from descriptor `key`, and yield its mount at `point` once it is ready.

    Raise JobFailed if it does not get that far. Afterwards gocryptfs is ended in order.
    """
    await asyncio.to_thread(point.mkdir, mode=0o700)
    with _ready_signal() as ready:
        try:
            child = await Child.start(command, on_line=process.relay, stdin=key, group=False, environment=gocryptfs.environment(_memory()))
        except OSError as error:
            raise JobFailed(Reason.GOCRYPTFS_MISSING, f"{command[0]}: {error.strerror}") from None
        death = asyncio.create_task(child.wait())
        try:
            await _await_mount(ready, death, point, file_system)
            yield View(point, child, death)
        finally:
            await _end(child, point)
            await _cancel(death)


async def _end(child: Child, point: Path) -> None:
    """End gocryptfs, in order if it lets us.

    One that is told to end before it listens for that dies at once, and leaves its mount; while it still asks its own mount whether the
    kernel polls (go-fuse 2.4.2) it even waits for its own answer, and cannot be killed (both seen).
    """
    ending = asyncio.create_task(child.end())
    await asyncio.wait({ending}, timeout=_ENDS_WITHIN)
    await asyncio.to_thread(mounts.abort, point)
    await ending


async def _await_mount(ready: asyncio.Event, death: asyncio.Task[Ended], point: Path, file_system: str) -> None:
    waiting, looking = asyncio.create_task(ready.wait()), asyncio.create_task(_until_it_answers(point, file_system))
    try:
        await asyncio.wait({waiting, looking, death}, timeout=_READY_WITHIN, return_when=asyncio.FIRST_COMPLETED)
        answers = looking.done() and looking.exception() is None
    finally:
        for task in (waiting, looking):
            task.cancel()
        await asyncio.wait({waiting, looking})
    if death.done():
        ended = death.result()
        raise JobFailed(gocryptfs.exit_reason(ended.status), f"gocryptfs ended with status {ended.status}: {ended.complaints}")
    mount = mounts.find(point)
    if not (ready.is_set() or answers) or mount is None or mount.file_system != file_system:
        raise JobFailed(Reason.GOCRYPTFS_FAILED, f"no {file_system} was mounted within {_READY_WITHIN:.0f} seconds")


async def _until_it_answers(point: Path, file_system: str) -> None:
    """Return when the mount is there and answers, signal or not: gocryptfs was seen to serve one, under load, and never say so."""
    while True:
        await asyncio.sleep(_LOOK_EVERY)
        mount = mounts.find(point)
        if mount is not None and mount.file_system == file_system:
            await asyncio.to_thread(os.lstat, point)
            return


@contextlib.contextmanager
def _ready_signal() -> Iterator[asyncio.Event]:
    """gocryptfs's -notifypid sends SIGUSR1 once the mount is there."""
    ready = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGUSR1, ready.set)
    try:
        yield ready
    finally:
        loop.remove_signal_handler(signal.SIGUSR1)


async def encrypt_path(control: Path, path: str) -> str:
    """Given gocryptfs's control socket and a path below `plain/` in UTF-8, return its path in the view. Touches neither tree."""
    try:
        async with asyncio.timeout(_ANSWER_WITHIN):
            answer = json.loads(await _ask(control, json.dumps({"EncryptPath": path}).encode()))
    except (OSError, ValueError, asyncio.IncompleteReadError) as error:
        raise JobFailed(Reason.GOCRYPTFS_FAILED, f"control socket: {error!r}") from error
    match answer:
        case {"ErrNo": 0, "Result": str(result)} if result:
            return result
        case _:
            raise JobFailed(Reason.GOCRYPTFS_FAILED, f"control socket: {answer}")


async def _ask(control: Path, question: bytes) -> bytes:
    reader, writer = await asyncio.open_unix_connection(control)
    try:
        writer.write(question)
        return await reader.readuntil(b"\n")
    finally:
        writer.close()


async def _cancel(task: asyncio.Task[Any]) -> None:
    task.cancel()
    await asyncio.wait({task})


def _memory() -> int:
    """Bytes of this machine."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
