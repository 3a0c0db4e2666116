# SPDX-License-Identifier: GPL-3.0-or-later
"""The ledger of a target, as of the commit that was confirmed there: mended from the manifest's segments where it is not."""

import itertools
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from offsited.core import intent
from offsited.core.manifest import ManifestDamaged
from offsited.worker import segments
from offsited.worker.confirmed import Confirmed, Standing
from offsited.worker.ledger import Doubt, Ledger
from offsited.worker.pending import PENDING_FILE, Pending

Entering = Callable[[Path, Ledger], None]
"""Given a target's directory and its ledger."""


@dataclass(frozen=True)
class Books:
    """Where ledger and plan of one target are."""

    confirmed: Confirmed
    doubtful: bool
    """The manifest of what was confirmed is lost here: nothing is known of the target."""

    @classmethod
    def prepare(cls, confirmed: Confirmed, before: Confirmed) -> "Books":
        """Make the ledger fit the commit: it may still be as it was `before`, since it is written last, or damaged, or lost."""
        try:
            with Ledger.opened(confirmed.manifest) as ledger:
                _catch_up(ledger, confirmed, before)
                return cls(confirmed, not _mend(ledger, confirmed))
        except sqlite3.OperationalError:  # no room, say: that is not the ledger's fault
            raise
        except (ManifestDamaged, sqlite3.DatabaseError):
            return cls.anew(confirmed)

    @classmethod
    def anew(cls, confirmed: Confirmed) -> "Books":
        """Give up a ledger that is damaged, and make another one."""
        for suffix in ("", "-wal", "-shm"):
            confirmed.manifest.with_name(confirmed.manifest.name + suffix).unlink(missing_ok=True)
        with Ledger.opened(confirmed.manifest) as ledger:
            return cls(confirmed, not _mend(ledger, confirmed))

    def doubts(self, standing: Standing) -> bool:
        """Whether everything must be compared because nothing is known of what the target has."""
        return self.doubtful and standing is not Standing.NOTHING

    def enter(self, entering: Entering) -> None:
        """Let `entering` tell the ledger what else is in doubt."""
        with Ledger.opened(self.confirmed.manifest) as ledger:
            entering(self.confirmed.directory, ledger)

    @contextmanager
    def opened(self) -> Iterator[Pending]:
        """The plan that a survey has left, with its ledger."""
        with Ledger.opened(self.confirmed.manifest) as ledger, Pending.opened(ledger, self.confirmed.directory / PENDING_FILE) as pending:
            yield pending


def _catch_up(ledger: Ledger, confirmed: Confirmed, before: Confirmed) -> None:
    """Apply the segments of a commit that was interrupted before the ledger had it. What is known of inodes stays, of all other entries."""
    if confirmed.commit is None or ledger.commit_digest != before.digest or before.digest == confirmed.digest:
        return
    known = before.commit.segments if before.commit else ()
    listed = confirmed.commit.segments
    if known and listed[:1] != known[:1]:
        return  # merged to one, they do not say any more what is gone
    for segment in listed:
        if segment not in known:
            ledger.apply(segments.rows(confirmed.segments / segment.name, segment), confirmed.digest)


def _mend(ledger: Ledger, confirmed: Confirmed) -> bool:
    """Return whether the ledger now says what the commit does, and what an uncommitted job may have changed since."""
    if ledger.commit_digest == confirmed.digest:
        return True
    if confirmed.commit is None:
        ledger.forget()
        return False
    try:
        listed = [(confirmed.segments / segment.name, segment) for segment in confirmed.commit.segments]
        ledger.rebuild((segments.rows(file, segment) for file, segment in listed), confirmed.digest)
    except ManifestDamaged:
        ledger.forget()
        return False
    return _doubt_again(ledger, confirmed)


def _doubt_again(ledger: Ledger, confirmed: Confirmed) -> bool:
    """Take the doubts that were lost with the ledger from the intent; whether it could be read. Which content was on its way it does not
    say, so all of it is sent again."""
    paths = [intent.parse_line(line) for line in itertools.islice(confirmed.intent_lines(), 1, None)]
    ledger.doubt(Doubt(path, 0, 0, 0, again=True, directory=False) for path in paths if path is not None)
    return None not in paths and not confirmed.intends_all
