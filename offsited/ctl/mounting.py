# SPDX-License-Identifier: GPL-3.0-or-later
"""mount and umount: browsing what a target holds."""

import os
from pathlib import Path
from typing import Final

from offsited import names
from offsited.core import words
from offsited.core.progress import Phase
from offsited.ctl import agent, jobs, objects
from offsited.ctl.client import Client, NoSuchObject, Request
from offsited.ctl.follow import detail_of, outcome_of
from offsited.ctl.objects import Job, JobEnd
from offsited.ctl.output import Output
from offsited.errors import Exit, Failed

_LOOK_EVERY: Final = 1.0


def mount(out: Output, client: Client, vault: str, target: str, directory: str) -> int:
    """Have a target ("" = the default one) shown at a directory; return, when it is, the exit status."""
    client.subscribe()
    path = jobs.vault_path(client, vault)
    point = _open(Path(directory))
    try:
        with agent.on_terminal():
            reply = client.call(Request(path, names.VAULT, "Mount", "sha{sv}", (target, 0, {}), fds=(point,), acts=True))
    finally:
        os.close(point)
    job = int(objects.leaf(reply.body[0]))
    end = _until_mounted(client, job)
    if end is not None:
        return jobs.tell(out, end, detail_of(client, job))
    out.put({"vault": vault, "job": job, "mounted": True})
    out.say(words.printable(f"{vault}: mounted at {directory}; take it away: offsitectl umount {vault}"))
    return Exit.DONE


def umount(out: Output, client: Client, vault: str) -> int:
    """End all mounts of a vault; return, when they are gone, the exit status."""
    client.subscribe()
    with agent.on_terminal():
        client.call(Request(jobs.vault_path(client, vault), names.VAULT, "Unmount", "a{sv}", ({},), acts=True))
    while any((job.vault, job.kind) == (vault, "mount") for job in objects.jobs(client.managed_objects())):
        client.next_event(_LOOK_EVERY)
    out.put({"vault": vault, "mounted": False})
    out.say(f"{vault}: nothing is mounted any more")
    return Exit.DONE


def _open(directory: Path) -> int:
    try:
        return os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise Failed(f"{directory} cannot be used: {error.strerror}", hint="Give an existing, empty directory") from None


def _until_mounted(client: Client, job: int) -> JobEnd | None:
    """None once it is there; how the job ended, if it did before."""
    while True:
        try:
            if Job.of(client.get(names.job_path(job), names.JOB)).phase == Phase.MOUNTED:
                return None
        except NoSuchObject:
            end = outcome_of(client, job)
            if end.outcome:
                return end
        client.next_event(_LOOK_EVERY)
