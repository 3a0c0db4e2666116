# SPDX-License-Identifier: GPL-3.0-or-later
"""What disk and ssh targets have in common: whose they are, and what of ours is there."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from offsited import names
from offsited.core import rsync
from offsited.core.commit import OwnerMarker, encode, parse_owner
from offsited.core.outcome import Reason
from offsited.core.rsync import Place
from offsited.errors import JobFailed
from offsited.worker.transfer import Transfers

SMALL: Final = 1 << 20
"""Bytes of a file that is fetched by a look at most."""


@dataclass(frozen=True)
class Found:
    """What a look at a target's directory found."""

    owner: bytes | None
    """Content of the owner marker; None = there is none."""
    files: Mapping[str, bytes]
    """Content of those files below `current/` that were asked for and are there, by path, encrypted as they lie there."""
    complete: bool
    """Whether `current/` and `partial/` are there."""
    empty: bool
    """Whether the directory has no entries, or is not there. Said of one without an owner marker alone."""


class Target(Protocol):
    """An open target."""

    @property
    def place(self) -> Place:
        """How rsync reaches its directory."""

    async def look(self, transfers: Transfers, files: Sequence[str]) -> Found:
        """See what is there, with the content of small files below `current/`. Changes nothing. Raise JobFailed."""

    async def check(self, transfers: Transfers) -> None:
        """Raise JobFailed if what is there is not fit to write to it."""

    async def gather(self, key_file: bytes) -> None:
        """Move a bare mirror with this key file, that lies at the top of the directory, to where a mirror belongs, as far as can be."""

    async def make_directory(self) -> None:
        """Make the target's directory if it is missing, as far as rsync does not."""

    async def flush(self) -> None:
        """Bring all that was sent to stable storage, as far as that is left to do."""


async def inspect(transfers: Transfers, target: Target, vault_id: str, files: Sequence[str]) -> Found:
    """Look at a target that is this vault's or may become so.

    Raise JobFailed for a directory that is another vault's, or nobody's and not empty.
    """
    found = await target.look(transfers, files)
    if found.owner is not None:
        _check_owner(found.owner, vault_id)
    elif not found.empty:
        raise JobFailed(Reason.TARGET_UNOWNED)
    return found


async def adopt(transfers: Transfers, target: Target, vault_id: str, files: Sequence[str], key_file: bytes) -> Found:
    """As `inspect`; a directory that is nobody's may also hold a bare mirror whose key file is the vault's."""
    await target.gather(key_file)
    found = await target.look(transfers, [*files, names.TARGET_KEY_FILE])
    if found.owner is not None:
        _check_owner(found.owner, vault_id)
    elif not found.empty and found.files.get(names.TARGET_KEY_FILE) != key_file:
        raise JobFailed(Reason.TARGET_UNOWNED, "it holds no mirror with the vault's key file in current/")
    return found


async def prepare(transfers: Transfers, target: Target, vault_id: str, found: Found) -> None:
    """Take an inspected target that is nobody's yet, and make what is missing of its directories. Raise JobFailed."""
    await target.check(transfers)
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
