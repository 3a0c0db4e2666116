# SPDX-License-Identifier: GPL-3.0-or-later
# ruff: noqa: S608 - every piece of SQL here is a constant of ours; values are bound
"""Holding back what exceeds a vault's limits (core.limits), until a person has approved just that.

held.sqlite         beside the ledger: what the last plan held, entry by entry, under an id that is made of it
approved.sqlite     the same, once a person has released it; valid until the next sync that comes to its end

What is held keeps the row that the target has, marked. With a file that must stay, the directories must stay that it lies in: a directory
that vanished is held with all that was in it, or goes with all of it.
"""

import hashlib
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Final

from offsited.core.config import Limits
from offsited.core.limits import NOTHING, Baseline, Count, Verdict, judge
from offsited.core.outcome import Reason
from offsited.core.plan import Change
from offsited.core.record import Held, Plan
from offsited.errors import JobFailed
from offsited.worker.columns import wide
from offsited.worker.compare import recognise_renames
from offsited.worker.job import Job
from offsited.worker.links import part_kept_back, regroup
from offsited.worker.pending import DELETES, REPLACES, WAS_DIRECTORY, Item, Pending, Totals
from offsited.worker.proving import Proving
from offsited.worker.snapshot import Snapshot
from offsited.worker.tasks import to_its_end
from offsited.worker.there import There

HELD_FILE: Final = "held.sqlite"
APPROVED_FILE: Final = "approved.sqlite"
_ID_LENGTH: Final = 12
_COLUMNS: Final = "(path BLOB NOT NULL, why TEXT NOT NULL, size INTEGER NOT NULL, mtime NOT NULL, PRIMARY KEY (path, why)) WITHOUT ROWID"
_OPEN: Final = f"NOT change & {Change.HELD}"
_STAYS: Final = f"c.kind != 'd' AND change & {Change.GONE} AND change & {Change.HELD} AND NOT change & {Change.NEW | Change.UNREADABLE}"
"""Held, for itself or with its directory."""
_VANISHED: Final = f"(change & {Change.GONE} AND c.kind = 'd' OR change & {Change.KIND} AND c.kind != 'd' AND {WAS_DIRECTORY})"
_TOPMOST: Final = f"""
    {_VANISHED} AND NOT EXISTS (
        SELECT 1 FROM pending.changes p WHERE p.path = c.parent AND c.path != x'' AND (p.kind != 'd' OR p.change & {Change.GONE})
    )
"""
_BELOW: Final = "path > ? AND path < ?"


@dataclass
class Holding:
    """The limits of one job over its plan."""

    pending: Pending
    limits: Limits
    directory: Path
    """Where the ledger is."""
    known: bool = True
    """Whether it is known what the target holds."""
    verdict: Verdict = field(default_factory=Verdict)
    held: Held | None = None
    """What waits for a person, for the record; None until it is settled."""

    def approve(self, plan: str) -> None:
        """Release what is held under an id. Raise JobFailed if that is something else by now, or nothing."""
        if plan and plan_of(self.directory / APPROVED_FILE) == plan:
            return  # a sync that did not come to its end was to use it
        if not plan or plan_of(self.directory / HELD_FILE) != plan:
            raise JobFailed(Reason.PLAN_REPLACED)
        (self.directory / HELD_FILE).replace(self.directory / APPROVED_FILE)

    def settle(self, there: There | None = None) -> None:
        """Hold what exceeds the limits, unless a person has approved all of it. Remember it for `approve`.

        What a comparison with the target has held is not known without another one: then that goes on waiting, whatever the plan says.
        """
        self.pending.begin()
        wanted = self._judge(there)
        changed = self._list(wanted, there)
        if wanted and not self._is_approved():
            self._hold(wanted, there)
            self._list(Verdict(deletions=self.verdict.deletions), there)
        waiting = None if there else _compared(self.directory / HELD_FILE)
        self.held = waiting or (self._remember(changed if wanted.changes else NOTHING, there) if self.verdict else Held())
        self.pending.written()

    @cached_property
    def _committed(self) -> Count:
        """What was committed last; asked for more than once, and a million rows are added up each time."""
        totals = self.pending.ledger.totals()
        return Count(totals.files, totals.size)

    def exceeds_by_deletions(self) -> bool:
        """Whether there would be fewer deletions than the limit allows if more of them were known to be renames."""
        return self._judge(None).deletions

    def conclude(self) -> None:
        """After a sync that came to its end: what was approved is done, and what is not held any more needs no approval."""
        (self.directory / APPROVED_FILE).unlink(missing_ok=True)
        if not self.verdict:
            (self.directory / HELD_FILE).unlink(missing_ok=True)

    def _judge(self, there: There | None) -> Verdict:
        """What exceeds the limits, with what a comparison with the target found."""
        deleted, changed = self.pending.count(f"{DELETES} AND {_OPEN}"), self.pending.count_replaced(f"{REPLACES} AND {_OPEN}")
        baseline = Baseline(self._committed, self.known)
        if there:
            deleted, changed = deleted.plus(there.surplus), changed.plus(there.drift)
            baseline = baseline if self.known else Baseline(there.files, known=False)
        return judge(self.limits, baseline, deleted=deleted, changed=changed)

    # --- holding ---------------------------------------------------------------------------------------------------

    def _hold(self, wanted: Verdict, there: There | None) -> None:
        """Changes first: what arrives below something held cannot arrive, and then excuses no deletion as a rename."""
        if wanted.changes:
            self._hold_changes()
            if there:
                self._hold_drift()
            recognise_renames(self.pending)
        self.verdict = Verdict(deletions=wanted.deletions or self._judge(there).deletions, changes=wanted.changes)
        if self.verdict.deletions:
            self._hold_deletions()
        for item in self.pending.select(f"change & {Change.HELD} AND change & {Change.DOUBTFUL} AND c.kind != 'd'"):
            self._hold_below(item.row.path)  # an interrupted run may have made a directory of it
        regroup(self.pending, same_device=self.pending.fact("device") == self.pending.ledger.device)
        part_kept_back(self.pending)

    def _hold_changes(self) -> None:
        for item in self.pending.select(REPLACES):
            self._keep(item)
            if item.row.kind == "d":
                self._hold_below(item.row.path)

    def _hold_drift(self) -> None:
        """What the manifest says nothing of, or nothing new, and the target has another content of."""
        for (path,) in self.pending.database.execute("SELECT path FROM pending.drift").fetchall():
            item, row = self.pending.item(path), self.pending.ledger.row(path)
            if item:
                self.pending.put([Item(item.change | Change.HELD, item.row)])
            elif row:
                self.pending.put([Item(Change.HELD, row)])

    def _hold_deletions(self) -> None:
        self.pending.database.execute(f"UPDATE pending.changes AS c SET change = change | {Change.HELD} WHERE {DELETES}")
        for top in self.pending.select(_TOPMOST):
            if self._holds_below(top.row.path):
                self._keep(top)
                self._hold_below(top.row.path)

    def _holds_below(self, path: bytes) -> bool:
        query = f"SELECT 1 FROM pending.changes WHERE {_BELOW} AND change & {Change.HELD} LIMIT 1"
        return self.pending.database.execute(query, (path + b"/", path + b"0")).fetchone() is not None

    def _hold_below(self, path: bytes) -> None:
        hold = f"UPDATE pending.changes SET change = change | {Change.HELD} WHERE {_BELOW}"
        self.pending.database.execute(hold, (path + b"/", path + b"0"))

    def _keep(self, item: Item) -> None:
        """An entry stays as the target has it."""
        old = self.pending.ledger.row(item.row.path)
        if old:
            self.pending.put([Item(item.change | Change.HELD, old)])

    # --- what a person approves ------------------------------------------------------------------------------------

    def _list(self, verdict: Verdict, there: There | None) -> Count:
        """Enter what is to be held, so that another plan can be told from this one: a file that changed again is another change.

        Changes are listed before they are held, for then they look like none. Return how many, with the bytes that they would replace.
        """
        database = self.pending.database
        database.execute(f"CREATE TABLE IF NOT EXISTS pending.held {_COLUMNS}")
        put = "INSERT OR IGNORE INTO pending.held"
        if verdict.deletions:
            database.execute(f"{put} SELECT path, 'deleted', size, mtime FROM pending.changes c WHERE {DELETES} OR {_STAYS}")
            if there:
                database.execute(f"{put} SELECT sealed, 'surplus', size, 0 FROM pending.surplus")
        if not verdict.changes:
            return NOTHING
        changed = ((row.path, "changed", row.size, wide(row.mtime)) for _, row in self.pending.select(REPLACES))
        database.executemany(f"{put} VALUES (?, ?, ?, ?)", changed)
        if there:
            database.execute(f"{put} SELECT path, 'changed', size, mtime FROM pending.drift")
        return self.pending.count_replaced(REPLACES).plus(there.drift if there else NOTHING)

    def _is_approved(self) -> bool:
        """Whether a person has released all of it."""
        file = self.directory / APPROVED_FILE
        if not file.exists():
            return False
        try:
            with self._attached(file) as database:
                found = database.execute("SELECT NOT EXISTS (SELECT * FROM pending.held EXCEPT SELECT * FROM beside.held)").fetchone()
        except sqlite3.DatabaseError:  # damaged: then nothing is approved
            return False
        return bool(found[0])

    def _remember(self, changed: Count, there: There | None) -> Held:
        """Keep what is held, under its id, and whether a comparison with the target had a part in it."""
        database = self.pending.database
        digest = hashlib.sha256()
        for row in database.execute("SELECT * FROM pending.held ORDER BY path, why"):
            digest.update(repr(row).encode())
        taken = "SELECT count(*), coalesce(sum(size), 0) FROM pending.held WHERE why != 'changed'"
        deleted = Count(*database.execute(taken).fetchone())
        held = Held(
            plan=digest.hexdigest()[:_ID_LENGTH],
            deleted_entries=deleted.entries,
            deleted_bytes=deleted.bytes,
            changed_entries=changed.entries,
            changed_bytes=changed.bytes,
        )
        compared = there is not None and there.surplus.entries + there.drift.entries > 0
        new = self.directory / f"{HELD_FILE}.new"
        new.unlink(missing_ok=True)
        with self._attached(new) as beside:
            beside.execute(f"CREATE TABLE beside.held {_COLUMNS}")
            beside.execute("INSERT INTO beside.held SELECT * FROM pending.held")
            beside.execute("CREATE TABLE beside.plan (held TEXT NOT NULL, compared INTEGER NOT NULL)")
            beside.execute("INSERT INTO beside.plan VALUES (?, ?)", (held.model_dump_json(), compared))
        new.replace(self.directory / HELD_FILE)
        return held

    @contextmanager
    def _attached(self, file: Path) -> Iterator[sqlite3.Connection]:
        """A database `beside` the plan; not within a transaction, as sqlite wants it."""
        self.pending.written()
        try:
            self.pending.database.execute("ATTACH ? AS beside", (str(file),))
            try:
                yield self.pending.database
            finally:
                self.pending.database.execute("DETACH beside")
        finally:
            self.pending.begin()


async def hold(job: Job, opened: Snapshot, holding: Holding, *, later: bool = False) -> None:
    """Find out what only contents tell, note the plan, and hold what exceeds the limits; `later`: with what the target has, by `settle`."""
    proving = Proving(holding.pending, opened.descriptor, job.report)
    await proving.unproven()
    if holding.exceeds_by_deletions():
        await proving.renames()
    job.report.note(plan=_sums(holding.pending.totals()))
    if not later:
        await to_its_end(holding.settle)


def plan_of(file: Path) -> str:
    """The id of what a file of HELD_FILE's kind lists; "" = there is none, or it cannot be read."""
    return _plan(file)[0].plan


def _compared(file: Path) -> Held | None:
    """What such a file lists, if a comparison with the target had a part in it."""
    held, compared = _plan(file)
    return held if compared else None


def _plan(file: Path) -> tuple[Held, bool]:
    if not file.exists():
        return Held(), False
    try:
        with closing(sqlite3.connect(file)) as database:
            held, compared = database.execute("SELECT held, compared FROM plan").fetchone()
            return Held.model_validate_json(held), bool(compared)
    except (sqlite3.DatabaseError, TypeError, ValueError):
        return Held(), False


def _sums(totals: Totals) -> Plan:
    return Plan(
        added_entries=totals.added.entries,
        added_bytes=totals.added.bytes,
        replaced_entries=totals.changed.entries,
        replaced_bytes=totals.changed.bytes,
        deleted_entries=totals.deleted.entries,
        deleted_bytes=totals.deleted.bytes,
        renamed_entries=totals.renamed.entries,
        renamed_bytes=totals.renamed.bytes,
        attributes=totals.attributes,
        unreadable=totals.unreadable,
    )
