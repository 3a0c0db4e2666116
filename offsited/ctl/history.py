# SPDX-License-Identifier: GPL-3.0-or-later
"""history: the jobs of a vault on record."""

import sys
from datetime import tzinfo
from typing import TYPE_CHECKING, Final

from offsited import names
from offsited.core import words
from offsited.ctl.client import Client, Reply, Request
from offsited.ctl.jobs import SENDING, vault_path
from offsited.ctl.objects import JobEnd
from offsited.ctl.output import Output, colours_wanted
from offsited.errors import Exit

if TYPE_CHECKING:
    from rich.table import Table

COLUMNS: Final = ("job", "requested", "kind", "target", "outcome", "took", "sent", "bytes", "deleted", "snapshot")
_NUMBERS: Final = frozenset({"job", "took", "sent", "bytes", "deleted"})
_UNBOUNDED: Final = 10_000
"""Columns. A line that a narrow terminal wraps can be read; cells that are cut short cannot."""
_STYLES: Final = {"done": "green", "failed": "red"}


def history(out: Output, client: Client, vault: str, limit: int) -> int:
    """Show the last `limit` jobs of a vault, newest first; 0 = all."""
    reply = client.call(Request(vault_path(client, vault), names.VAULT, "ListJobs", "u", (limit,)))
    ids = [int(job) for job in reply.body[0]]
    replies = client.call_all([Request(names.ROOT_PATH, names.MANAGER, "GetOutcome", "u", (job,)) for job in ids])
    ends = [JobEnd.of(job, reply.body[0]) for job, reply in zip(ids, replies, strict=True) if isinstance(reply, Reply)]
    out.put({"vault": vault, "jobs": [end.as_json() for end in ends]})
    if not out.json:
        _show(out, ends)
    return Exit.DONE


def row(end: JobEnd, zone: tzinfo | None = None) -> tuple[str, ...]:
    """One job as the table's cells."""
    ended = bool(end.outcome)
    return (
        str(end.job),
        words.moment(end.requested, zone) if end.requested else "",
        words.printable(f"{end.kind} (dry run)" if end.dry_run else end.kind),
        words.printable(end.target),
        words.printable(f"{end.outcome} ({end.reason})" if end.reason and end.reason != end.outcome else end.outcome)
        if ended
        else "running",
        words.duration(end.seconds) if ended else "",
        words.number(end.sent_entries if end.kind in SENDING else end.entries) if ended else "",
        words.size(end.sent_bytes if end.kind in SENDING else end.bytes) if ended else "",
        words.number(end.deleted_entries) if ended else "",
        words.moment(end.snapshot_dated, zone) if end.snapshot_dated else "",
    )


def _show(out: Output, ends: list[JobEnd]) -> None:
    if not ends:
        out.say("no job on record")
        return
    from rich.console import Console

    console = Console(
        width=_UNBOUNDED,
        no_color=not colours_wanted(sys.stdout),
        highlight=False,
        soft_wrap=True,
    )
    console.print(_table(ends))


def _table(ends: list[JobEnd]) -> "Table":
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in COLUMNS:
        table.add_column(column, justify="right" if column in _NUMBERS else "left", no_wrap=True)
    for end in ends:
        table.add_row(*(Text(cell, style=_STYLES.get(end.outcome, "")) for cell in row(end)))
    return table
