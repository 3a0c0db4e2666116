# SPDX-License-Identifier: GPL-3.0-or-later
"""The end of a mirroring: the manifest's segment, the commit file once all that it speaks of is at the target, then what is known of it
here."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from offsited.core import rsync
from offsited.core.commit import Commit, digest, encode
from offsited.core.manifest import Header, SegmentFile, root_hash
from offsited.store import write_whole
from offsited.worker import segments
from offsited.worker.confirmed import COMMIT_FILE, INTENT_FILE, PREVIOUS_FILE, Announced, Confirmed
from offsited.worker.job import Job
from offsited.worker.pending import Pending
from offsited.worker.report import now
from offsited.worker.showing import Showing
from offsited.worker.snapshot import Snapshot
from offsited.worker.tasks import to_its_end, together
from offsited.worker.transfer import TransferFailed
from offsited.worker.view import View
from offsited.worker.way import Way


class Sent(NamedTuple):
    """A commit that is at the target."""

    announced: Announced
    obsolete: list[str]
    """Files of the manifest that no commit speaks of any more."""
    useless: list[str]
    """What the target need not keep, by encrypted path."""


@dataclass
class Committing:
    """Commits what was sent, of one job."""

    job: Job
    opened: Snapshot
    confirmed: Confirmed
    pending: Pending
    way: Way
    key_file: str
    """SHA-256 of the key file, in hex, from before it was sent."""
    reconciled: int
    """When the target was last compared as a whole and found or made equal, in microseconds since the epoch; 0 = look again next time."""
    whole: bool
    """Nothing is taken for granted of what the target has."""
    interrupted: bool
    """An earlier job may have left unfinished files."""
    listed: tuple[SegmentFile, ...] = field(default=())
    """The manifest to come, once it is prepared."""

    async def prepare(self) -> None:
        """Bring the manifest's new segment to the target, where it says nothing before a commit lists it; prepare the ledger."""
        self.listed = await to_its_end(self._write_segment)
        await together(to_its_end(self.pending.enter), self._put(self._stage()))

    async def send(self, view: View) -> Sent:
        """Flush, then the commit file, then flush again: a commit is at the target only if all that it speaks of is."""
        await self.way.target.flush()
        content = encode(self._commit())
        await asyncio.to_thread(write_whole, self.confirmed.tree / COMMIT_FILE, content)
        sealed = await view.look((self.way.point / self.way.commit).read_bytes)
        announced = Announced(content=content.decode(), commit_path=self.way.commit, sealed=digest(sealed), key_file=self.key_file)
        await asyncio.to_thread(self.confirmed.announce, announced)
        obsolete = self._obsolete()
        useless = await self.way.own([INTENT_FILE, *obsolete])
        await self._put([COMMIT_FILE])
        await self.way.target.flush()
        return Sent(announced, obsolete, useless)

    async def conclude(self, sent: Sent, showing: Showing) -> None:
        """Take it over into what is known here; the view is ended meanwhile, and what is of no use any more removed."""
        await together(self._confirm(sent.announced), together(showing.end(), self._tidy(sent)))

    def _write_segment(self) -> tuple[SegmentFile, ...]:
        """Append what changed to the manifest, as a file of it."""
        head = Header(self.job.files.identity(), self.job.target.name, self.job.number)
        known = self.confirmed.commit.segments if self.confirmed.commit else ()
        if all(segments.is_intact(self.confirmed.segments / segment.name, segment) for segment in known):
            return segments.append(self.confirmed.segments, known, head, self.pending.lines())
        return segments.append(self.confirmed.segments, (), head, self.pending.all_lines())

    def _stage(self) -> list[str]:
        """Show in the view what the commit will speak of; return what of it is not at the target yet."""
        at_target = {segment.name for segment in self.confirmed.commit.segments} if self.confirmed.commit and not self.whole else set()
        fresh = [segment.name for segment in self.listed if segment.name not in at_target]
        for name in fresh:
            self.confirmed.stage(self.confirmed.segments / name)
        if self.confirmed.content is not None:
            write_whole(self.confirmed.tree / PREVIOUS_FILE, self.confirmed.content)
            fresh.append(PREVIOUS_FILE)
        return fresh

    def _obsolete(self) -> list[str]:
        previous = self.confirmed.commit.segments if self.confirmed.commit else ()
        needed = {segment.name for segment in (*self.listed, *previous)}
        return [file.name for file in self.confirmed.segments.iterdir() if file.name not in needed]

    def _commit(self) -> Commit:
        return Commit(
            vault=self.job.files.identity(),
            target=self.job.target.name,
            job=self.job.number,
            previous=self.confirmed.digest,
            snapshot=self.opened.name,
            snapshot_dated=self.opened.dated,
            opened=self.opened.opened,
            committed=now(),
            reconciled=self.reconciled,
            entries=int(self.pending.fact("entries")),
            bytes=int(self.pending.fact("size")),
            segments=self.listed,
            root=root_hash(self.listed),
        )

    async def _confirm(self, announced: Announced) -> None:
        found = digest(announced.content.encode())

        def confirm() -> None:
            self.pending.commit(found)
            self.confirmed.confirm(announced)

        await to_its_end(confirm)
        self.job.report.note(commit=found)

    async def _put(self, own: Sequence[str]) -> None:
        await self.way.put(await self.way.own(own), again=self.whole)

    async def _tidy(self, sent: Sent) -> None:
        """Remove what nothing speaks of any more. The commit stands whether or not this works."""
        try:
            await self._remove(sent.useless)
            if self.interrupted:
                await self._once(rsync.empty_partial(self.way.tool, self._empty("nothing"), self.way.place))
        except TransferFailed as failure:
            self.job.report.remark(f"what is of no use any more could not be removed at the target: {failure.detail}")
        for name in sent.obsolete:
            (self.confirmed.segments / name).unlink(missing_ok=True)

    async def _remove(self, useless: Sequence[str]) -> None:
        example = self._empty("nothing-of-ours")
        (example / self.way.offsited).mkdir()
        listed = self.way.transfers.list_file(path.encode() for path in useless)
        await self._once(rsync.delete_by_example(self.way.tool, example, self.way.place, listed))

    async def _once(self, command: list[str]) -> None:
        await self.way.transfers.run(command, capabilities=self.way.place.capabilities, on_line=self.way.transfers.wire)

    def _empty(self, name: str) -> Path:
        made = self.job.runtime / name
        made.mkdir()
        return made
