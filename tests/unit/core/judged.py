# SPDX-License-Identifier: GPL-3.0-or-later
"""What tests of the judgment share: hours, and the records of syncs."""

from offsited.core.outcome import Outcome
from offsited.core.record import JobRecord, Kind

HOUR = 3_600_000_000
LIMIT = 36 * HOUR
START = 1_790_000_000_000_000
"""A time of day at which these lives begin."""


def record(job: int, outcome: Outcome | None = Outcome.DONE, reason: str = "", ended: int = START, **more: object) -> JobRecord:
    base = JobRecord(job=job, kind=Kind.SYNC, vault="home", target="disk", unit="u", requested=ended, started=ended)
    end = {"ended": ended if outcome else 0, "outcome": outcome, "reason": reason, "snapshot_dated": ended - HOUR}
    return base.model_copy(update=end | more)
