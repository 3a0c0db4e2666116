# SPDX-License-Identifier: GPL-3.0-or-later
"""A target on another machine. Everything there is done by rsync alone, so that a forced rrsync command will do for the account."""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from offsited import names
from offsited.core import rsync, ssh
from offsited.core.config import SshTarget
from offsited.core.outcome import Reason
from offsited.core.rsync import Place
from offsited.core.rsync_output import parse_listing
from offsited.errors import JobFailed
from offsited.worker.job import Job
from offsited.worker.target import Found
from offsited.worker.transfer import TransferFailed, Transfers, patiently

_TIMEOUT: Final = 300
"""Seconds without a message after which rsync gives up, on either side: a remote rsync that has lost us does not linger, and one that is
frozen is noticed. Shorter, it would end syncs of directories of thousands of long names, which gocryptfs shows at its leisure. Lines that
fail are noticed earlier, by worker.line."""


@dataclass(frozen=True)
class Remote:
    """An ssh target. The transfers of a job share one connection."""

    place: Place
    asking: tuple[str, ...] = ()
    """The command that has the host's rsync tell its version; () = it cannot be asked."""

    async def look(self, transfers: Transfers, files: Sequence[str]) -> Found:
        """One round trip for a target with an owner marker, two for one without."""
        into = transfers.runtime / "found"
        shutil.rmtree(into, ignore_errors=True)
        into.mkdir(mode=0o700)
        listed = [f"{names.CURRENT_DIR}/{path}" for path in files]
        await self._get(transfers, [names.OWNER_FILE, names.CURRENT_DIR, names.PARTIAL_DIR, *listed], into)
        owner = _content(into / names.OWNER_FILE)
        return Found(
            owner=owner,
            files={path: content for path in files if (content := _content(into / names.CURRENT_DIR / path)) is not None},
            complete=(into / names.CURRENT_DIR).is_dir() and (into / names.PARTIAL_DIR).is_dir(),
            empty=owner is None and await self._is_empty(transfers),
        )

    async def check(self, transfers: Transfers) -> None:
        """Raise JobFailed for an rsync that is known to be too old. One that does not tell passes: maybe no other command runs there."""
        if not self.asking:
            return
        lines: list[bytes] = []
        try:
            await patiently(lambda: transfers.run([*self.asking], on_line=lines.append))
        except TransferFailed as failure:
            if failure.meaning.transient or failure.meaning.reason is Reason.TARGET_REFUSED:
                raise
        version = rsync.parse_version(b"\n".join(lines).decode(errors="replace"))
        if version and version < rsync.MINIMUM:
            raise JobFailed(Reason.RSYNC_TOO_OLD, f"rsync {'.'.join(map(str, version))}")

    async def gather(self, key_file: bytes) -> None:
        """rsync cannot move what lies there."""

    async def make_directory(self) -> None:
        """rsync makes it, if its parent is there."""

    async def flush(self) -> None:
        """Nothing is left to do: each transfer that writes ran with --fsync."""

    async def _get(self, transfers: Transfers, paths: Sequence[str], into: Path) -> None:
        listed = transfers.list_file(path.encode() for path in paths)
        try:
            await transfers.run(rsync.get_small(transfers.tools.rsync, self.place, listed, into))
        except TransferFailed as failure:
            if not rsync.says_absent(failure.complaints):
                raise

    async def _is_empty(self, transfers: Transfers) -> bool:
        lines: list[bytes] = []
        try:
            await transfers.run(rsync.list_top(transfers.tools.rsync, self.place), on_line=lines.append)
        except TransferFailed as failure:
            if not rsync.says_absent(failure.complaints):
                raise
        return not parse_listing(lines)


def reach(job: Job, target: SshTarget) -> Remote:
    """Say how the target is reached; the first transfer shows whether it can be."""
    command = ssh.command(job.tools.ssh, target, job.known_hosts, job.runtime / ssh.CONTROL)
    shell = ssh.remote_shell(command)
    bandwidth = (f"--bwlimit={target.bandwidth}",) if target.bandwidth else ()
    options = (f"--rsh={shell}", f"--timeout={_TIMEOUT}", *bandwidth, *target.rsync_options)
    location = f"{target.host}:{target.shown_directory}"
    writing, times = ("--fsync",), rsync.TOLD_EXACT_TIMES
    user, at, _ = target.host.rpartition("@")
    place = Place(
        location,
        target.shown_directory,
        options,
        writing=writing,
        exact_times=times,
        unhindered=not at or user == "root" or rsync.FAKE_SUPER in target.rsync_options,
        narrow=target.rrsync is not None,
    )
    asking = (*command, "--", ssh.login(target), f"{rsync.remote_tool(target.rsync_options)} --version")
    return Remote(place, () if target.rrsync else asking)


def _content(path: Path) -> bytes | None:
    return path.read_bytes() if path.is_file() else None
