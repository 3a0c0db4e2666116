# SPDX-License-Identifier: GPL-3.0-or-later
"""What the steps of a verification share: the target, what it is known to hold, what was found."""

import contextlib
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from offsited.core.manifest import ManifestDamaged, SegmentFile
from offsited.core.outcome import Reason
from offsited.core.verification import Difference, What
from offsited.errors import JobFailed
from offsited.worker import segments
from offsited.worker.confirmed import Confirmed
from offsited.worker.findings import Findings, Mark
from offsited.worker.job import Job
from offsited.worker.ledger import LEDGER_FILE, Ledger
from offsited.worker.target import Target
from offsited.worker.transfer import Transfers
from offsited.worker.turns import Turns

SCRATCH_DIR: Final = "verify"
"""In a target's directory here while it is verified: what was fetched, and what is noted of the target."""


@dataclass
class Verification:
    """One of one target."""

    job: Job
    scratch: Path
    reached: Target
    transfers: Transfers
    confirmed: Confirmed
    entries: int = 0
    """Entries met, in the last pass over the target."""
    read: int = 0
    """Bytes of content that were read."""
    doubts: int = 0
    """Entries of which an interrupted sync allows to say nothing."""
    settled: Mark = field(default_factory=Mark)
    """What was found and is known to be no sync's doing."""
    findings: Findings = field(init=False)
    turns: Turns = field(init=False)

    def __post_init__(self) -> None:
        self.findings = Findings(self.job.files.jobs / f"{self.job.number}.findings")
        self.turns = Turns(self.job)

    @classmethod
    def begin(cls, job: Job, reached: Target, transfers: Transfers, directory: Path | None = None) -> "Verification":
        """Make the scratch directory anew: whoever was killed left it. `directory`: what is known of the target, if not where that lies."""
        directory = directory or job.files.target(job.target.name)
        scratch = directory / SCRATCH_DIR
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir(mode=0o700, parents=True)
        return cls(job, scratch, reached, transfers, Confirmed.read(directory))

    def end(self) -> None:
        """Leave nothing but what was found."""
        shutil.rmtree(self.scratch, ignore_errors=True)

    def settle(self) -> None:
        """No sync came in between: what was found is to stay."""
        self.settled = self.findings.mark()

    def anew(self) -> None:
        """Take back what was found since the last `settle`, and see what the target is known to hold now."""
        self.findings.back_to(self.settled)
        self.confirmed = Confirmed.read(self.confirmed.directory)

    @property
    def segments(self) -> tuple[SegmentFile, ...]:
        return self.confirmed.commit.segments if self.confirmed.commit else ()

    @property
    def size(self) -> int:
        """Bytes to read if everything is read: a file once for each of its names."""
        return self.confirmed.commit.bytes if self.confirmed.commit else 0

    @contextlib.contextmanager
    def ledger(self) -> Iterator[Ledger]:
        """What the target is known to hold. Raise JobFailed if that is lost."""
        file = self.scratch / LEDGER_FILE
        if self._is_of_commit(self.confirmed.manifest):
            file = self.confirmed.manifest
        elif not self._is_of_commit(file):
            self._rebuild(file)
        with Ledger.opened(file) as ledger:
            yield ledger

    def is_in_doubt(self, ledger: Ledger, path: bytes) -> bool:
        """Whether an interrupted sync may have changed it."""
        return self.confirmed.interrupted and ledger.is_in_doubt(path)

    def _is_of_commit(self, file: Path) -> bool:
        if not file.exists():
            return False
        try:
            with Ledger.opened(file) as ledger:
                return ledger.commit_digest == self.confirmed.digest
        except ManifestDamaged:
            return False

    def _rebuild(self, file: Path) -> None:
        """Make another ledger, of our own copy of the manifest. Raise JobFailed."""
        Ledger.remove(file)
        try:
            with Ledger.opened(file) as ledger:
                listed = [(self.confirmed.segments / segment.name, segment) for segment in self.segments]
                ledger.rebuild((segments.rows(path, segment) for path, segment in listed), self.confirmed.digest)
        except ManifestDamaged as error:
            raise JobFailed(Reason.TARGET_IN_DOUBT, f"what is known here of the target is lost: {error.message}") from error


def own(name: str, what: What, detail: str = "") -> Difference:
    """A difference of a file of ours."""
    return Difference(name.encode(), what, detail, own=True)
