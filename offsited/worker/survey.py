# SPDX-License-Identifier: GPL-3.0-or-later
"""The survey: walk a snapshot, compare it with a target's ledger, leave the plan in `pending.sqlite`. A program of its own.

It is one because the walk forks and changes its directory, which a process with threads must not; and it needs little: no pydantic, no
asyncio. Its standard input is a request; it prints progress as lines of JSON, and ends with one that says that it is done.
"""

import json
import os
import sqlite3
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from offsited.core.manifest import TOP, ManifestDamaged, Row
from offsited.errors import OffsitedError
from offsited.worker.compare import Comparison
from offsited.worker.excludes import excludes
from offsited.worker.ledger import LEDGER_FILE, Ledger
from offsited.worker.pending import PENDING_FILE, Pending
from offsited.worker.walk import device_identity, walk

COMMAND: Final = (sys.executable, "-I", "-m", "offsited.worker.survey")
DAMAGED: Final = "damaged"
UNREADABLE: Final = "unreadable"
FAILED: Final = "failed"
_TELL_EVERY: Final = 0.2


@dataclass(frozen=True)
class Request:
    """What is to be surveyed. It may name the user's files, so it is no argument."""

    top: str
    """The snapshot, bound."""
    directory: str
    """Where the target's ledger is."""
    exclude: tuple[str, ...] = ()
    thorough: bool = False
    """Trust no signature: look at every entry's flags and holes too."""
    processes: int = 2
    nodes: bool = True
    """Whether the target takes device nodes, fifos and sockets; else the manifest alone keeps them."""

    def encode(self) -> bytes:
        return json.dumps(asdict(self)).encode()

    @classmethod
    def decode(cls, content: bytes) -> "Request":
        document = json.loads(content)
        return cls(**{**document, "exclude": tuple(document["exclude"])})


@dataclass(frozen=True)
class Told:
    """A line of what it prints."""

    entries: int = 0
    size: int = 0
    done: bool = False
    failed: str = ""
    """DAMAGED (the ledger: rebuild it), UNREADABLE (the snapshot's top), FAILED."""
    detail: str = ""
    changed_directories: int = 0
    """Of those met so far, with one for the top's own row."""

    @property
    def news(self) -> bool:
        """Whether any directory was found to be another than it was."""
        return self.changed_directories > 1

    def encode(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def decode(cls, line: bytes | str) -> "Told":
        return cls(**json.loads(line))


def survey(request: Request, told: Callable[[Told], None]) -> None:
    """Do it. Raise ManifestDamaged for a ledger that cannot be used, OSError if the snapshot's top cannot be read."""
    directory = Path(request.directory)
    top = os.open(request.top, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        with Ledger.opened(directory / LEDGER_FILE) as ledger, Pending.opened(ledger, directory / PENDING_FILE, fresh=True) as pending:
            comparison = Comparison(pending, device_identity(top, Path(request.top)))
            _fill(comparison, pending, request, top, told)
    finally:
        os.close(top)


def _fill(comparison: Comparison, pending: Pending, request: Request, top: int, told: Callable[[Told], None]) -> None:
    entries = size = changed = 0
    due = time.monotonic() + _TELL_EVERY
    known = comparison.known(thorough=request.thorough)
    pending.begin()
    for batch in walk(top, known, excludes(request.exclude), processes=request.processes):
        entries, size, changed, before = entries + batch.entries, size + batch.size, changed + len(batch.listings), changed
        if before <= 1 < changed:  # the first news: whoever waits for it begins its preparations
            due = 0
        if not request.nodes:
            batch.listings = [listing._replace(rows=[_carried(row) for row in listing.rows]) for listing in batch.listings]
        comparison.notice(batch)
        for one in batch.unread:
            if one.path == TOP:
                raise OSError(one.error, os.strerror(one.error))
        if time.monotonic() >= due:
            told(Told(entries, size, changed_directories=changed))
            due = time.monotonic() + _TELL_EVERY
    comparison.finish()
    pending.written()
    told(Told(entries, size, done=True, changed_directories=changed))


def _carried(row: Row) -> Row:
    return row if row.kind in "fdl" else row._replace(carried=True)


def main() -> int:
    """Exit status 0 if the last line says `done`."""

    def say(told: Told) -> None:
        print(told.encode(), flush=True)

    try:
        survey(Request.decode(sys.stdin.buffer.read()), say)
    except ManifestDamaged as error:
        say(Told(failed=DAMAGED, detail=error.message))
    except OSError as error:
        say(Told(failed=UNREADABLE, detail=str(error)))
    except sqlite3.OperationalError as error:
        say(Told(failed=FAILED, detail=f"the ledger or the plan cannot be written: {error}"))
    except sqlite3.DatabaseError as error:
        say(Told(failed=DAMAGED, detail=str(error)))
    except OffsitedError as error:
        say(Told(failed=FAILED, detail=error.message))
    else:
        return 0
    return 1


if __name__ == "__main__":
    sys.exit(main())
