# SPDX-License-Identifier: GPL-3.0-or-later
"""The second step of a verification: everything that lies at a target, against everything that should; no content is read.

On a disk exactly, with the IV of each directory; over ssh as rsync lists it: times to the second, pipe and socket alike.
"""

import asyncio
from collections.abc import Sequence
from functools import partial
from typing import Final

from offsited import names
from offsited.core.config import DiskTarget
from offsited.core.manifest import Row
from offsited.core.progress import Phase, Progress
from offsited.core.verification import Difference, What
from offsited.worker import segments
from offsited.worker.confirmed import COMMIT_FILE, INTENT_FILE, PREVIOUS_FILE
from offsited.worker.fetching import Clear, shown_in_clear, translated
from offsited.worker.inventory import Inventory
from offsited.worker.ledger import Ledger
from offsited.worker.listed import Listed
from offsited.worker.outgoing import sealed_from
from offsited.worker.sealed_paths import SealedPaths, in_parts
from offsited.worker.tasks import to_its_end
from offsited.worker.verification import Verification, own

_SNAPSHOT: Final = f"{names.BACKUP_DIR}/"


async def verify_metadata(verification: Verification) -> None:
    """Note what is missing, what should not be there, and what is otherwise. Raise JobFailed."""
    verification.anew()
    verification.doubts = 0
    await _Metadata(verification).run()


class _Metadata:
    def __init__(self, verification: Verification) -> None:
        self._all = verification
        self._job = verification.job
        self._findings = verification.findings

    async def run(self) -> None:
        exact = isinstance(self._job.target, DiskTarget)
        with self._all.ledger() as ledger, Inventory.made(self._all.scratch / "inventory.sqlite", exact=exact) as inventory:
            async with translated(self._job) as sealed:
                await self._expect(ledger, inventory, sealed)
                listed = Listed(inventory, self._findings, self._told)
                await listed.of(self._job, self._all.reached, self._all.transfers)
                self._all.entries = inventory.entries
                await to_its_end(lambda: self._findings.note(inventory.missing()))
                await self._name_extra(sealed, listed.extra)
        async with shown_in_clear(self._job, self._all.reached, self._all.transfers, self._all.scratch) as clear:
            await self._verify_manifest(clear)

    def _told(self, entries: int) -> None:
        total = self._all.confirmed.commit.entries if self._all.confirmed.commit else 0
        self._job.report.progress(Progress(Phase.LISTING, entries_done=entries, entries_total=max(entries, total)))

    # --- what should be there --------------------------------------------------------------------------------------

    async def _expect(self, ledger: Ledger, inventory: Inventory, sealed: SealedPaths) -> None:
        for rows in in_parts(row for row in ledger.rows_from() if not row.carried):
            paths = await sealed.of([sealed_from(row.path) for row in rows])
            await to_its_end(partial(self._expect_rows, ledger, inventory, list(zip(paths, rows, strict=True))))
        if self._all.confirmed.interrupted:
            for doubts in in_parts(doubt.path for doubt in ledger.doubts()):
                inventory.allow_entries(await sealed.of([sealed_from(path) for path in doubts]))
        await self._expect_own(inventory, sealed)

    def _expect_rows(self, ledger: Ledger, inventory: Inventory, rows: list[tuple[str, Row]]) -> None:
        unsettled = {row.path for _, row in rows if self._all.is_in_doubt(ledger, row.path)}
        inventory.expect(one for one in rows if one[1].path not in unsettled)
        inventory.allow_entries(path for path, row in rows if row.path in unsettled)
        self._all.doubts += len(unsettled)

    async def _expect_own(self, inventory: Inventory, sealed: SealedPaths) -> None:
        """What lies beside the snapshot."""
        inventory.expect_own(names.TARGET_KEY_FILE, names.TARGET_KEY_FILE)
        inventory.expect_own(names.DIRIV_FILE, names.DIRIV_FILE)
        (directory,) = await sealed.of([names.OFFSITED_DIR.encode()])
        sizes = {COMMIT_FILE: len(self._all.confirmed.content or b""), **{segment.name: segment.bytes for segment in self._all.segments}}
        for name, path in zip(sizes, await sealed.of([_below_own(name) for name in sizes]), strict=True):
            inventory.expect_own(path, name, sizes[name])
        # The files of the commit before stay for a while.
        allowed = await sealed.of([_below_own(name) for name in (PREVIOUS_FILE, INTENT_FILE, *self._earlier())])
        inventory.allow([directory, *allowed])
        inventory.expect_own(f"{directory}/{names.DIRIV_FILE}", f"{names.OFFSITED_DIR}/{names.DIRIV_FILE}")

    def _earlier(self) -> list[str]:
        """Segments that the commit does not speak of."""
        spoken = {segment.name for segment in self._all.segments}
        return [file.name for file in self._all.confirmed.segments.glob("manifest-*") if file.name not in spoken]

    # --- what is there besides -------------------------------------------------------------------------------------

    async def _name_extra(self, sealed: SealedPaths, extra: Sequence[str]) -> None:
        """Name in clear what should not be there, as far as its name can be decrypted."""
        for path in extra:
            plain = await sealed.plain(path)
            if plain.startswith(_SNAPSHOT):
                found = Difference(_bytes(plain.removeprefix(_SNAPSHOT)), What.EXTRA)
            else:
                found = Difference(_bytes(plain or path), What.EXTRA, "" if plain else "no name that can be decrypted", own=True)
            self._findings.note([found])

    async def _verify_manifest(self, clear: Clear) -> None:
        """The manifest's own files, byte by byte: without them a bare machine restores without attributes."""
        for segment in self._all.segments:
            await clear.fetch_own([segment.name])
            if not await asyncio.to_thread(segments.is_intact, clear.own / segment.name, segment):
                self._findings.note([own(segment.name, What.MANIFEST, "missing or damaged")])


def _below_own(name: str) -> bytes:
    return f"{names.OFFSITED_DIR}/{name}".encode()


def _bytes(path: str) -> bytes:
    return path.encode("utf-8", "surrogateescape")
