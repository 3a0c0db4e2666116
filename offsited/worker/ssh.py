# SPDX-License-Identifier: GPL-3.0-or-later
"""A target on another machine. Everything there is done by rsync alone, so that a forced rrsync command will do for the account."""

from dataclasses import dataclass

from offsited.core import ssh
from offsited.core.config import SshTarget
from offsited.core.rsync import Place
from offsited.worker.job import Job


@dataclass(frozen=True)
class Remote:
    """An ssh target. Each transfer makes a connection of its own."""

    place: Place

    async def make_directory(self) -> None:
        """rsync makes it, if its parent is there."""

    async def flush(self) -> None:
        """Nothing is left to do: each transfer that writes ran with --fsync."""


def reach(job: Job, target: SshTarget) -> Remote:
    """Say how the target is reached; the first transfer shows whether it can be."""
    shell = ssh.remote_shell(ssh.command(job.tools.ssh, target, job.known_hosts))
    bandwidth = (f"--bwlimit={target.bandwidth}",) if target.bandwidth else ()
    options = (f"--rsh={shell}", *bandwidth, *target.rsync_options)
    return Remote(Place(ssh.location(target), target.directory, options, writing=("--fsync",)))
