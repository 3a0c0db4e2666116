# SPDX-License-Identifier: GPL-3.0-or-later
"""What a sync would do, without doing it and without asking the target: the plan in clear names, and what of it a limit would hold."""

import asyncio
import json
import os
from collections.abc import Iterator
from typing import Final

from offsited import names
from offsited.core.outcome import Outcome, Reason
from offsited.core.plan import REPLACED, Change
from offsited.core.record import Counts
from offsited.errors import JobFailed
from offsited.worker.books import Books
from offsited.worker.compare import renamed
from offsited.worker.confirmed import Confirmed
from offsited.worker.destination import handed_over
from offsited.worker.holding import Holding, hold
from offsited.worker.job import DONE, Ending, Job
from offsited.worker.pending import Item, Pending
from offsited.worker.snapshot import Snapshot
from offsited.worker.surveying import surveyed

_UNREAD: Final = "unreadable"


async def preview(job: Job, opened: Snapshot, confirmed: Confirmed) -> Ending:
    """Make the plan, judge it, and write it to the descriptor that was handed over, if one was. Raise JobFailed."""
    books = await surveyed(job, confirmed, await asyncio.to_thread(Books.prepare, confirmed, confirmed), thorough=lambda _books: False)
    with books.opened() as pending:
        holding = Holding(pending, job.vault.limits, confirmed.directory, known=not books.doubtful and confirmed.settled)
        await hold(job, opened, holding)
        counts = Counts(entries=int(pending.fact("entries")), bytes=int(pending.fact("size")))
        job.report.note(counts=counts, held=holding.held)
        descriptor = handed_over().get(names.DIFF_FD)
        if descriptor is not None:
            await asyncio.to_thread(_write, descriptor, pending)
    return (Outcome.HELD, Reason.LIMIT_EXCEEDED) if holding.held and holding.held.plan else DONE


def _write(descriptor: int, pending: Pending) -> None:
    """Write the lines of a plan, offsitectl(1), `diff --json`."""
    try:
        with open(descriptor, "w", encoding="ascii", closefd=False) as file:
            file.writelines(json.dumps(line) + "\n" for line in _lines(pending))
    except OSError as error:
        raise JobFailed(Reason.DESTINATION_UNUSABLE, error.strerror or "") from None


def _lines(pending: Pending) -> Iterator[dict[str, object]]:
    come_from = pending.database.cursor()
    come_from.execute("CREATE TEMP TABLE come_from (path BLOB PRIMARY KEY, old BLOB NOT NULL) WITHOUT ROWID")
    come_from.executemany("INSERT OR IGNORE INTO temp.come_from VALUES (?, ?)", ((new, old) for old, new in renamed(pending)))
    for item in pending.select(f"NOT change & {Change.UNREADABLE}"):
        word = _word(item)
        if word:
            found = come_from.execute("SELECT old FROM temp.come_from WHERE path = ?", (item.row.path,)).fetchone()
            yield _line(item, word, bytes(found[0]) if found else None)
    for one in pending.unread():
        yield {"path": os.fsdecode(one.path), "change": _UNREAD, "error": os.strerror(one.error)}


def _line(item: Item, word: str, old: bytes | None) -> dict[str, object]:
    row, held = item.row, bool(item.change & Change.HELD)
    found: dict[str, object] = {"path": os.fsdecode(row.path), "change": word, "type": row.kind, "size": row.size, "held": held}
    return found if old is None else {**found, "change": "renamed", "from": os.fsdecode(old)}


def _word(item: Item) -> str:
    """What becomes of an entry; "" = nothing that a person would see. What is gone because it was renamed is told by its new name."""
    change = item.change
    if change & Change.GONE:
        moved = change & Change.RENAMED and not change & Change.HELD
        return "" if change & Change.NEW or moved else "deleted"
    if change & Change.NEW:
        return "added"
    if change & REPLACED:
        return "replaced"
    return "attributes" if change & (Change.ATTRIBUTES | Change.MANIFEST) else ""
