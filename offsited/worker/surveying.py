# SPDX-License-Identifier: GPL-3.0-or-later
"""Running the survey (worker.survey) as the program of its own that it is."""

import asyncio
import os
from collections.abc import Callable

from offsited import names
from offsited.core.config import DiskTarget
from offsited.core.manifest import ManifestDamaged
from offsited.core.outcome import Reason
from offsited.core.progress import Phase, Progress
from offsited.errors import JobFailed
from offsited.worker.books import Books, Entering
from offsited.worker.confirmed import Confirmed
from offsited.worker.job import Job
from offsited.worker.process import Child
from offsited.worker.survey import COMMAND, DAMAGED, UNREADABLE, Request, Told


async def surveyed(
    job: Job,
    confirmed: Confirmed,
    books: Books,
    *,
    thorough: Callable[[Books], bool],
    entering: Entering | None = None,
    on_news: Callable[[], object] | None = None,
) -> Books:
    """Survey against these books, or against new ones if the ledger turns out to be damaged; return those. Raise JobFailed.

    `entering` tells each ledger first what else is in doubt; `on_news` is called, more than once, when anything changed.
    """
    if entering:
        await asyncio.to_thread(books.enter, entering)
    try:
        await survey(job, confirmed, thorough=thorough(books), on_news=on_news)
    except ManifestDamaged:
        books = await asyncio.to_thread(Books.anew, confirmed)
        if entering:
            await asyncio.to_thread(books.enter, entering)
        await survey(job, confirmed, thorough=thorough(books), on_news=on_news)
    return books


async def survey(job: Job, confirmed: Confirmed, *, thorough: bool, on_news: Callable[[], object] | None = None) -> None:
    """Leave the plan of this job in the target's directory. Raise JobFailed, or ManifestDamaged if the ledger is."""
    request = Request(
        top=str(job.files.plain / names.BACKUP_DIR),
        directory=str(confirmed.directory),
        exclude=job.vault.source.exclude,
        nodes=isinstance(job.target, DiskTarget) or job.target.rrsync is None,
        thorough=thorough,
    )
    last = Told()

    def listen(line: bytes) -> None:
        nonlocal last
        last = Told.decode(line)
        job.report.progress(Progress(Phase.WALKING, bytes_done=last.size, entries_done=last.entries))
        if last.news and on_news:
            on_news()

    stdin = os.memfd_create("offsited-request", os.MFD_CLOEXEC)
    try:
        os.write(stdin, request.encode())
        os.lseek(stdin, 0, os.SEEK_SET)
        child = await Child.start(COMMAND, on_line=listen, stdin=stdin)
    finally:
        os.close(stdin)
    try:
        ended = await child.wait()
    finally:
        await child.end()
    if last.failed == DAMAGED:
        raise ManifestDamaged(last.detail)
    if last.failed == UNREADABLE:
        raise JobFailed(Reason.SNAPSHOT_UNREADABLE, last.detail)
    if ended.status or not last.done:
        raise JobFailed(Reason.INTERNAL, f"the survey ended with status {ended.status}: {last.detail or ended.complaints[-500:]}")
