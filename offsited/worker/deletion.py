# SPDX-License-Identifier: GPL-3.0-or-later
"""What goes at a target: named path by path, those that the view has not, and those that it has or must not be asked about."""

import os
import stat
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from offsited.core import gocryptfs, rsync
from offsited.core.manifest import parent
from offsited.worker.outgoing import sealed_from
from offsited.worker.pending import Pending
from offsited.worker.sealed_paths import in_parts
from offsited.worker.tasks import abreast
from offsited.worker.there import There
from offsited.worker.view import View
from offsited.worker.way import Way, with_companions

_WORTHWHILE: Final = 100
"""Paths from which on a deletion is cut for another lane: each begins with 50 ms and the directories above."""

Status = Callable[[bytes], os.stat_result]
"""Of a path of the snapshot. Raises OSError."""


@dataclass(frozen=True)
class Doomed:
    """Encrypted paths of what goes, each with all below it."""

    absent: set[str]
    """The view has not."""
    shown: set[str]
    """The view has, because they are excluded, or it cannot be asked about them."""

    async def delete(self, way: Way, scratch: Path) -> None:
        """Delete it at the target. `scratch`: a directory that is not there yet."""
        share = max(_WORTHWHILE, -(-len(self.absent) // way.place.lanes))
        await abreast((self._delete(way, part) for part in in_parts(sorted(self.absent), share)), way.place.lanes)
        if self.shown:
            await _delete_by_example(way, list(with_companions(self.shown)), scratch)
            await way.send({path.rpartition("/")[0] for path in self.shown} - {""})

    async def _delete(self, way: Way, paths: Iterable[str]) -> None:
        """Whoever deletes in a directory gives it its time again, so that two may be at work in one."""
        listed = way.listed(with_companions(paths))
        await way.run(rsync.delete_listed(way.tool, way.point, way.place, listed))


async def part(way: Way, pending: Pending, scratch: Path) -> None:
    """Take away what is no file and must be another inode at the target than it is, before it is sent.

    rsync does not make a symbolic link or a node anew that is what it should be, not even with -I (3.5.0): its other names would get its
    attributes. `scratch`: a directory that is not there yet.
    """
    for items in in_parts(pending.nodes_again()):
        paths = await way.sealed.of([sealed_from(item.row.path) for item in items])
        await _delete_by_example(way, paths, scratch, force=False)


async def _delete_by_example(way: Way, paths: Sequence[str], example: Path, *, force: bool = True) -> None:
    """Delete what rsync must not look for in the view: it gets a tree that has the parents and nothing else as an example."""
    for path in paths:
        (example / path).parent.mkdir(parents=True, exist_ok=True)
    await way.run(rsync.delete_by_example(way.tool, example, way.place, way.transfers.list_file(map(os.fsencode, paths)), force=force))


async def planned(way: Way, pending: Pending, status: Status) -> Doomed:
    """The plan's deletions."""
    doomed = Doomed(set(), set())
    for items in in_parts(pending.deletions()):
        paths = await way.sealed.of([sealed_from(item.row.path) for item in items])
        for item, path in zip(items, paths, strict=True):
            if _is_there(status, item.row.path):
                doomed.shown.add(path)
            elif _is_there(status, parent(item.row.path), directory=True):  # else it went with all that was in it
                doomed.absent.add(path)
    return doomed


async def surplus(way: Way, view: View, there: There) -> Doomed:
    """What the target has beside what it should have."""
    showable = {path for path in there.doomed if gocryptfs.may_be_shown(path)}
    return Doomed(await view.look(lambda: _within_directories(way.point, showable)), there.doomed - showable)


def _is_there(status: Status, path: bytes, *, directory: bool = False) -> bool:
    try:
        found = status(path)
    except OSError:
        return False
    return stat.S_ISDIR(found.st_mode) or not directory


def _within_directories(view: Path, paths: set[str]) -> set[str]:
    """Those of the paths whose parent is a directory of the view: where it is none any more, it went with all that was in it."""
    parents = {path.rpartition("/")[0] for path in paths}
    standing = {parent for parent in parents if _is_directory(view / parent)}
    return {path for path in paths if path.rpartition("/")[0] in standing}


def _is_directory(path: Path) -> bool:
    try:
        return stat.S_ISDIR(os.lstat(path).st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return False
