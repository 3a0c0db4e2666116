# SPDX-License-Identifier: GPL-3.0-or-later
"""What a target holds, in clear: a disk's mirror as it lies there, or as much of a host's as was fetched into a scratch directory."""

import asyncio
import contextlib
import itertools
import os
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from offsited import names
from offsited.core import gocryptfs, rsync
from offsited.core.commit import Commit, parse_commit
from offsited.core.config import DiskTarget
from offsited.core.manifest import Row
from offsited.core.outcome import Reason
from offsited.core.progress import Phase, Progress
from offsited.errors import JobFailed
from offsited.worker.confirmed import COMMIT_FILE
from offsited.worker.job import Job
from offsited.worker.outgoing import sealed_from
from offsited.worker.sealed_paths import SealedPaths
from offsited.worker.target import Target
from offsited.worker.transfer import Transfers, patiently
from offsited.worker.view import View, mounted


class Clear:
    """The forward view of a target's mirror."""

    def __init__(self, view: View, fetcher: "Fetcher | None") -> None:
        """`fetcher`: None where everything is there already."""
        self.view = view
        self.fetcher = fetcher

    @property
    def top(self) -> Path:
        """The snapshot, in clear."""
        return self.view.point / names.BACKUP_DIR

    @property
    def own(self) -> Path:
        """What offsited keeps beside it."""
        return self.view.point / names.OFFSITED_DIR

    async def fetch_own(self, own: Sequence[str]) -> None:
        """Have files of ours at hand, those that the target has."""
        if self.fetcher:
            await self.fetcher.fetch([f"{names.OFFSITED_DIR}/{name}".encode() for name in own])

    async def read_own(self, name: str) -> bytes | None:
        """Return the content of a small file of ours, or None if the target has none. Raise JobFailed if it cannot be read."""
        await self.fetch_own([name])
        try:
            return await self.view.look((self.own / name).read_bytes)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise JobFailed(Reason.MANIFEST_DAMAGED, f"{name}: {error.strerror}") from error

    async def read_commit(self) -> tuple[bytes, Commit]:
        """Return the commit file that the target has, and what it says. Raise JobFailed if there is none, or none that can be read."""
        content = await self.read_own(COMMIT_FILE)
        if content is None:
            raise JobFailed(Reason.TARGET_EMPTY)
        commit = parse_commit(content)
        if commit is None:
            raise JobFailed(Reason.MANIFEST_DAMAGED, "the commit cannot be read")
        return content, commit

    async def fetch(self, paths: Iterable[bytes], size: int, *, exact: bool = False) -> None:
        """Have files of the snapshot at hand. `size`: their bytes; `exact`: with their attributes, and what is no file or directory too."""
        if self.fetcher:
            await self.fetcher.fetch([sealed_from(path) for path in paths], size=size, exact=exact)

    async def forget(self) -> None:
        """What was fetched is not needed any more."""
        if self.fetcher:
            await asyncio.to_thread(self.fetcher.forget)


@dataclass
class Fetcher:
    """Fetches parts of a host's mirror."""

    job: Job
    target: Target
    transfers: Transfers
    scratch: Path
    sealed: SealedPaths
    fetched: int = 0
    """Bytes so far."""
    _held: list[str] = field(default_factory=list)

    async def fetch(self, paths: Sequence[bytes], *, size: int = 0, exact: bool = False) -> None:
        """Fetch paths below `plain/`, with what gocryptfs needs to show them; what is not there is left out."""
        sealed = await self.sealed.of(paths)
        needed = sorted({one for path in sealed for one in (path, *gocryptfs.companions(path))})
        listed = self.transfers.list_file(f"{names.CURRENT_DIR}/{path}".encode() for path in needed)
        command = rsync.fetch_listed(self.job.tools.rsync, self.target.place, listed, f"{self.scratch}/", exact=exact)
        start = Progress(Phase.FETCHING, bytes_done=self.fetched)
        await patiently(lambda: self.transfers.fetched(command, start))
        self.fetched += size
        self._held += sealed

    def forget(self) -> None:
        """Remove the files that were fetched. Directories stay, and what is gocryptfs's own: it keeps them in mind."""
        for path in self._held:
            with contextlib.suppress(FileNotFoundError, IsADirectoryError):
                (self.scratch / names.CURRENT_DIR / path).unlink()
        self._held = []


@asynccontextmanager
async def shown_in_clear(job: Job, reached: Target, transfers: Transfers, scratch: Path) -> AsyncIterator[Clear]:
    """Within: the target's mirror in clear, read-only. Raise JobFailed."""
    if isinstance(job.target, DiskTarget):
        sealed = reached.place.current
    else:
        sealed = f"{scratch}/{names.CURRENT_DIR}"
        await asyncio.to_thread(lambda: Path(sealed).mkdir(mode=0o700, exist_ok=True))

    async with AsyncExitStack() as stack:
        fetcher = None
        if not isinstance(job.target, DiskTarget):
            fetcher = Fetcher(job, reached, transfers, scratch, await stack.enter_async_context(translated(job)))
            # Without the IV of its top directory gocryptfs does not mount.
            await fetcher.fetch([names.BACKUP_DIR.encode()])
            if not (Path(sealed) / names.DIRIV_FILE).exists():
                raise JobFailed(Reason.TARGET_EMPTY)
        point = _unused(job.runtime, "view")
        command = gocryptfs.forward_mount(job.tools.gocryptfs, sealed, point, key_file=job.files.key_file, notify=os.getpid())
        yield Clear(await stack.enter_async_context(mounted(command, point, gocryptfs.FORWARD_FILE_SYSTEM, key=job.key)), fetcher)


@asynccontextmanager
async def translated(job: Job) -> AsyncIterator[SealedPaths]:
    """Within: what translates paths, by the key alone. The view behind it is one of nothing."""
    nothing, point, control = (_unused(job.runtime, name) for name in ("nothing", "nothing-sealed", "control"))
    await asyncio.to_thread(nothing.mkdir, mode=0o700)
    command = gocryptfs.names_mount(job.tools.gocryptfs, nothing, point, key_file=job.files.key_file, notify=os.getpid(), control=control)
    async with mounted(command, point, gocryptfs.REVERSE_FILE_SYSTEM, key=job.key):
        yield SealedPaths(job, control)


def parts(rows: Iterable[Row], entries: int, size: Callable[[], int]) -> Iterator[list[Row]]:
    """Cut rows into parts to be fetched at once, of at most so many entries and, but for a single larger file, `size()` bytes."""
    part: list[Row] = []
    total = 0
    for row in rows:
        if part and (len(part) == entries or total + row.size > size()):
            yield part
            part, total = [], 0
        part.append(row)
        total += row.size
    if part:
        yield part


def _unused(directory: Path, name: str) -> Path:
    """A path that no earlier mount of this job had: gocryptfs may leave a dead one behind, and that one cannot even be looked at."""
    taken = os.listdir(directory)
    return directory / next(one for number in itertools.count() if (one := f"{name}-{number}" if number else name) not in taken)
