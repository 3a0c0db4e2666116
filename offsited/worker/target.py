# SPDX-License-Identifier: GPL-3.0-or-later
"""What disk and ssh targets have in common: whose they are, and what of ours is there."""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from offsited import names
from offsited.core import rsync
from offsited.core.commit import OwnerMarker, encode, parse_owner
from offsited.core.config import DiskTarget
from offsited.core.outcome import Reason
from offsited.core.rsync import Place
from offsited.core.rsync_output import parse_listing
from offsited.errors import JobFailed
from offsited.worker import disk, ssh
from offsited.worker.job import Job
from offsited.worker.transfer import TransferFailed, Transfers


class Target(Protocol):
    """An open target."""

    @property
    def place(self) -> Place:
        """How rsync reaches its directory."""

    async def make_directory(self) -> None:
        """Make the target's directory if it is missing, as far as rsync does not."""

    async def flush(self) -> None:
        """Bring all that was sent to stable storage, as far as that is left to do."""


@dataclass(frozen=True)
class Found:
    """What a look at a target's directory found."""

    owner: bytes | None
    """Content of the owner marker; None = there is none."""
    commit: bytes | None
    """The commit file as it lies there, encrypted; None = not there, or its name was not given."""
    complete: bool
    """Whether `current/` and `partial/` are there."""


async def reach(job: Job, *, writing: bool) -> Target:
    """Open the job's target. Raise JobFailed; ssh says at the first transfer what is wrong."""
    if isinstance(job.target, DiskTarget):
        return await disk.reach(job, job.target, writing=writing)
    return ssh.reach(job, job.target)


async def look(transfers: Transfers, place: Place, commit: str) -> Found:
    """Fetch the owner marker, and the commit file by its encrypted path below `current/` ("" = not known), in one round trip."""
    into = transfers.runtime / "found"
    shutil.rmtree(into, ignore_errors=True)
    into.mkdir(mode=0o700)
    wanted = [names.OWNER_FILE, names.CURRENT_DIR, names.PARTIAL_DIR, *([f"{names.CURRENT_DIR}/{commit}"] if commit else [])]
    paths = transfers.list_file(path.encode() for path in wanted)
    try:
        await transfers.run(rsync.get_small(transfers.tools.rsync, place, paths, into))
    except TransferFailed as failure:
        if not rsync.says_absent(failure.complaints):
            raise
    complete = (into / names.CURRENT_DIR).is_dir() and (into / names.PARTIAL_DIR).is_dir()
    return Found(_content(into / names.OWNER_FILE), _content(into / names.CURRENT_DIR / commit) if commit else None, complete)


async def inspect(transfers: Transfers, place: Place, vault_id: str, commit: str) -> Found:
    """As `look`, for a target that is this vault's or may become so. Changes nothing there.

    Raise JobFailed for a directory that is another vault's, or nobody's and not empty.
    """
    found = await look(transfers, place, commit)
    if found.owner is not None:
        _check_owner(found.owner, vault_id)
    elif not await _is_empty(transfers, place):
        raise JobFailed(Reason.TARGET_UNOWNED)
    return found


async def prepare(transfers: Transfers, target: Target, vault_id: str, found: Found) -> None:
    """Take an inspected target that is nobody's yet, and make what is missing of its directories."""
    if found.owner is None:
        await target.make_directory()
        await _mark(transfers, target.place, vault_id)
    if not found.complete:
        await _make_directories(transfers, target.place)


def _check_owner(marker: bytes, vault_id: str) -> None:
    """Raise JobFailed unless the owner marker is this vault's."""
    owner = parse_owner(marker)
    if owner is None:
        raise JobFailed(Reason.TARGET_DAMAGED, f"{names.OWNER_FILE} at the target cannot be read")
    if owner.vault != vault_id:
        raise JobFailed(Reason.TARGET_FOREIGN, f"it belongs to the vault with id {owner.vault}, this one is {vault_id}")


async def _is_empty(transfers: Transfers, place: Place) -> bool:
    """Whether the target's directory has no entries, or is not there."""
    lines: list[bytes] = []
    try:
        await transfers.run(rsync.list_top(transfers.tools.rsync, place), on_line=lines.append)
    except TransferFailed as failure:
        if not rsync.says_absent(failure.complaints):
            raise
    return not parse_listing(lines)


async def _mark(transfers: Transfers, place: Place, vault_id: str) -> None:
    """The marker goes first and alone: an interruption leaves a directory that is known as ours."""
    marker = transfers.runtime / names.OWNER_FILE
    marker.write_bytes(encode(OwnerMarker(vault=vault_id)))
    await transfers.run(rsync.put(transfers.tools.rsync, [marker], place), capabilities=place.capabilities)


async def _make_directories(transfers: Transfers, place: Place) -> None:
    directories = [transfers.runtime / "new" / name for name in (names.CURRENT_DIR, names.PARTIAL_DIR)]
    for directory in directories:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    await transfers.run(rsync.put(transfers.tools.rsync, directories, place), capabilities=place.capabilities)


def _content(path: Path) -> bytes | None:
    return path.read_bytes() if path.is_file() else None
