# SPDX-License-Identifier: GPL-3.0-or-later
# ruff: noqa: S608 - every piece of SQL here is a constant of ours; values are bound
"""Hard-link groups of a plan: which entries are one inode now, what their group is called, which of them must be sent together.

A group is touched by any of its names that comes, goes or changes; the names that did not change are found in the ledger by inode.
"""

from dataclasses import dataclass, field
from typing import Final

from offsited.core.manifest import Row
from offsited.core.plan import KEPT_BACK, REPLACED, Change, Changes, number_group
from offsited.worker.pending import Item, Pending

_LEAVES: Final = Change.GONE | Change.KIND | Change.INODE
_OTHER_INODE: Final = Change.NEW | Change.KIND | Change.INODE
_PRESENT: Final = f"c.kind != 'd' AND c.inode != 0 AND NOT c.change & {KEPT_BACK}"
_SEVERAL: Final = f"SELECT c.inode FROM pending.changes c WHERE {_PRESENT} GROUP BY c.inode HAVING count(*) > 1"
_JOINING: Final = f"""
    SELECT c.inode FROM pending.changes c WHERE {_PRESENT} AND
    (SELECT count(*) FROM main.entries e WHERE e.inode = c.inode AND e.inode != 0 AND e.kind != 'd') >
    (SELECT count(*) FROM pending.changes o WHERE o.inode = c.inode AND o.inode != 0 AND o.kind != 'd' AND NOT o.change & {_OTHER_INODE})
"""
"""An inode that the ledger knows by more names than the plan takes away or changes: some name of it is not in the plan."""
_WAS_LINKED: Final = f"SELECT c.inode FROM pending.changes c WHERE {_PRESENT} AND c.link != 0"
_LEFT: Final = f"SELECT DISTINCT link FROM pending.changes WHERE link != 0 AND change & {_LEAVES}"
_PARTS: Final = REPLACED | Change.ATTRIBUTES | Change.AGAIN | Change.GROUP | Change.DOUBTFUL | Change.LINK
"""What makes a name be another file at the target than the names that stay, or must."""
_STAYS: Final = f"change & {Change.HELD | Change.UNREADABLE}"
_SENT: Final = REPLACED | Change.ATTRIBUTES | Change.AGAIN | Change.DOUBTFUL


def regroup(pending: Pending, *, same_device: bool) -> None:
    """Number every touched group anew where it must be, and mark what has to be sent because of it. May be asked again after a change."""
    database = pending.database
    groups = _Groups(pending, _free_number(pending))
    database.execute("CREATE TEMP TABLE touched (inode INTEGER PRIMARY KEY)")
    for query in (_SEVERAL, _WAS_LINKED, *([_JOINING] if same_device else [])):
        database.execute(f"INSERT OR IGNORE INTO temp.touched {query}")
    for (link,) in database.execute(_LEFT):
        inodes = ((inode,) for inode in groups.inodes_of(link))
        database.executemany("INSERT OR IGNORE INTO temp.touched VALUES (?)", inodes)
    for (inode,) in database.execute("SELECT inode FROM temp.touched ORDER BY inode"):
        groups.settle(inode)
    database.execute("DROP TABLE temp.touched")
    database.execute("UPDATE pending.changes SET link = 0 WHERE kind = 'd' AND link != 0")


def part_kept_back(pending: Pending) -> None:
    """Names that stay as the target has them leave their group as soon as another name of it is sent, which parts them there."""
    groups = _Groups(pending, _free_number(pending))
    for (link,) in pending.database.execute(f"SELECT DISTINCT link FROM pending.changes WHERE link != 0 AND {_STAYS}").fetchall():
        groups.part(link)


def _free_number(pending: Pending) -> int:
    """From here on no group has a number, nor ever had."""
    (taken,) = pending.database.execute("SELECT coalesce(max(link), 0) FROM pending.changes").fetchone()
    return max(pending.ledger.last_link, int(taken)) + 1


@dataclass
class _Groups:
    """The groups while they are settled. Inodes as the tables have them."""

    pending: Pending
    fresh: int
    split: dict[int, bool] = field(default_factory=dict)

    def settle(self, inode: int) -> None:
        """Number the entries of an inode."""
        members = self._members(inode)
        links = [row.link for _, row in members]
        split = {link for link in links if link and self._is_split(link)}
        numbering = number_group(links, split, self.fresh)
        self.fresh += numbering.fresh
        changed = [Item(_regrouped(item, numbering.number, split), item.row._replace(link=numbering.number)) for item in members]
        sent = [row.path for _, row in changed if not row.carried]
        if len(sent) > 1 and any(change & (_SENT | Change.LINK) for change, _ in changed):
            changed = [Item(change | Change.GROUP, row) for change, row in changed]
            self.pending.put_group(inode, sent)
        self.pending.put(new for new, old in zip(changed, members, strict=True) if new != old)

    def part(self, link: int) -> None:
        """Give those of a group that stay another number, if any other name of it is sent."""
        staying = list(self.pending.select(f"link = {link} AND {_STAYS}"))
        present = self.pending.select(f"link = {link} AND NOT {_STAYS}")
        was = (self.pending.item(row.path) for row in self.pending.ledger.of_link(link))
        left = (item for item in was if item and not item.change & REPLACED)
        inodes = {item.row.inode for item in (*present, *left) if item.change & _PARTS and not item.change & KEPT_BACK} - {0}
        if not inodes:
            return
        number = self.fresh if len(staying) > 1 else 0
        self.fresh += number > 0
        self.pending.put(Item(change, row._replace(link=number)) for change, row in staying)
        for inode in sorted(inodes):
            self._send_again(inode)

    def _send_again(self, inode: int) -> None:
        """All names of an inode are sent as if nothing were there: a change of attributes alone would reach the names that stay."""
        members = [item for item in self._members(inode) if not item.row.carried]
        self.pending.put(Item(change | (0 if change & REPLACED else Change.AGAIN) | Change.GROUP, row) for change, row in members)
        if len(members) > 1:
            self.pending.put_group(inode, [row.path for _, row in members])

    def inodes_of(self, link: int) -> set[int]:
        """What the entries of an old group are now, of those that are still there."""
        return {row.inode for row in map(self._now, self.pending.ledger.of_link(link)) if row and row.inode}

    def _is_split(self, link: int) -> bool:
        if link not in self.split:
            if len(self.split) > 10_000:
                self.split.clear()
            self.split[link] = len(self.inodes_of(link)) > 1
        return self.split[link]

    def _members(self, inode: int) -> list[Item]:
        """The entries that are this inode now: those in the plan, and those in the ledger of which the plan says nothing."""
        changed = self.pending.of_inode(inode)
        unchanged = [Item(0, row) for row in self.pending.ledger.of_inode(inode) if self.pending.item(row.path) is None]
        found = sorted([*changed, *unchanged], key=lambda item: item.row.path)
        # An inode's names agree in these; what does not was not read this time, and its inode is another one's now.
        alike = _alike(changed[0].row) if changed else None
        return [item for item in found if alike in {None, _alike(item.row)}]

    def _now(self, old: Row) -> Row | None:
        """What an entry of the ledger is now; None if it is gone, or keeps back."""
        item = self.pending.item(old.path)
        if item is None:
            return old
        return None if item.change & KEPT_BACK or item.row.kind == "d" else item.row


def _regrouped(item: Item, number: int, split: set[int]) -> Changes:
    """How an entry changes by its group. rsync does not break a hard link of which only attributes change: it must send the name again."""
    change = item.change
    if item.row.link != number:
        change |= Change.LINK
    if item.row.link in split and not change & REPLACED:
        change |= Change.AGAIN
    return change


def _alike(row: Row) -> tuple[str, int, int]:
    return row.kind, row.size, row.mtime
