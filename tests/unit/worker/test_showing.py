# SPDX-License-Identifier: GPL-3.0-or-later
"""The view of a job, with the real gocryptfs: there once, from the first that asks for it, and gone with the block."""

from dataclasses import replace
from pathlib import Path

import pytest

from offsited.core.gocryptfs import REVERSE_FILE_SYSTEM
from offsited.core.outcome import Reason
from offsited.errors import JobFailed
from offsited.worker import mounts
from offsited.worker.job import Job
from offsited.worker.showing import Showing

from .conftest import run


@pytest.mark.usefixtures("mountable")
def test_it_is_there_once_whoever_asks(job: Job) -> None:
    async def work() -> Path:
        async with Showing(job) as showing:
            first = showing.begin()
            view = await showing.begin()
            assert await first is view
            found = mounts.find(view.point)
            assert found is not None
            assert found.file_system == REVERSE_FILE_SYSTEM
            await showing.end()
            assert mounts.find(view.point) is None, "it may end before the block does"
            return view.point

    assert mounts.find(run(work())) is None


def test_what_nobody_asked_for_is_not_there(job: Job) -> None:
    async def work() -> None:
        async with Showing(job):
            pass

    run(work())
    assert not (job.runtime / "view").exists()


@pytest.mark.parametrize("tool", ["/usr/bin/false", "/nonexistent/gocryptfs"])
def test_that_it_failed_is_told_to_who_needs_it(job: Job, tool: str) -> None:
    job = replace(job, tools=job.tools.model_copy(update={"gocryptfs": tool}))

    async def unneeded() -> None:
        async with Showing(job) as showing:
            showing.begin()

    async def needed() -> None:
        async with Showing(job) as showing:
            await showing.begin()

    run(unneeded())
    with pytest.raises(JobFailed) as caught:
        run(needed())
    assert caught.value.reason == Reason.GOCRYPTFS_MISSING
