# SPDX-License-Identifier: GPL-3.0-or-later
"""What one target is known to hold, taken over as what another one does: its commit, its history, its manifest, its doubts.

A seed that was adopted holds for its heir what it held for itself; a disk that comes home may hold what was committed to its heir.
"""

import contextlib
import shutil
import sqlite3
from pathlib import Path
from typing import Final

from offsited.worker.confirmed import COMMIT_FILE, INTENT_FILE, MENDING_FILE, PENDING_FILE, SEALED_FILE, SEGMENTS_DIR, Confirmed
from offsited.worker.ledger import LEDGER_FILE, Ledger

_FILES: Final = (SEALED_FILE, INTENT_FILE, PENDING_FILE, COMMIT_FILE)
"""The commit goes last: what has none is known to be nothing."""


def copy(known: Confirmed, into: Path) -> Confirmed:
    """Make a copy of what is known of a target in an empty directory, and return it. What was on its way there is in it too."""
    shutil.rmtree(into, ignore_errors=True)
    into.mkdir(mode=0o700, parents=True)
    shutil.copytree(known.segments, into / SEGMENTS_DIR)
    _copy_ledger(known.manifest, into / LEDGER_FILE)
    for name in _FILES:
        with contextlib.suppress(FileNotFoundError):
            shutil.copyfile(known.directory / name, into / name)
    return Confirmed.read(into)


def take_over(copied: Path, target: Path) -> Confirmed:
    """Put a copy in the place of what is known of another target, whose directory here is `target`, and return that.

    Whatever ends it in between: without a commit the target is one of which nothing is known.
    """
    for name in (COMMIT_FILE, MENDING_FILE, INTENT_FILE, PENDING_FILE, SEALED_FILE):
        (target / name).unlink(missing_ok=True)
    Ledger.remove(target / LEDGER_FILE)
    shutil.rmtree(target / SEGMENTS_DIR, ignore_errors=True)
    for name in (SEGMENTS_DIR, LEDGER_FILE, *_FILES):
        with contextlib.suppress(FileNotFoundError):
            (copied / name).rename(target / name)
    shutil.rmtree(copied)
    return Confirmed.read(target)


def _copy_ledger(file: Path, into: Path) -> None:
    """As SQLite does it, beside whoever reads it. Without one, or with a damaged one, it is made anew of the manifest."""
    if not file.exists():
        return
    try:
        with contextlib.closing(sqlite3.connect(file)) as source, contextlib.closing(sqlite3.connect(into)) as copied:
            source.backup(copied)
    except sqlite3.DatabaseError:
        into.unlink(missing_ok=True)
