# SPDX-License-Identifier: GPL-3.0-or-later
"""From a configured target to an open one."""

from offsited.core.config import DiskTarget
from offsited.worker import disk, ssh
from offsited.worker.job import Job
from offsited.worker.target import Target


async def reach(job: Job, *, writing: bool) -> Target:
    """Open the job's target. Raise JobFailed; ssh says at the first transfer what is wrong."""
    if isinstance(job.target, DiskTarget):
        return await disk.reach(job, job.target, writing=writing)
    return ssh.reach(job, job.target)
