# SPDX-License-Identifier: GPL-3.0-or-later
"""What one sync may take away from a target before a person is asked: the bounds of a vault, and the verdict on a plan.

Deletions and changes are judged apart from each other: what exceeds its own bound is held, everything else flows. A rename is neither.
"""

from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:  # pydantic takes 0.14 s to load, which the survey (worker.survey) does without
    from offsited.core.config import Limits

FEW: Final = 10
"""A percentage of a small number of files would hold everyday work: it stands for at least this many files, or for half of them."""
_UNITS: Final = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}


class Count(NamedTuple):
    """Entries that are no directories, and bytes of regular files."""

    entries: int
    bytes: int

    def plus(self, other: "Count") -> "Count":
        return Count(self.entries + other.entries, self.bytes + other.bytes)


NOTHING: Final = Count(0, 0)


@dataclass(frozen=True)
class Baseline:
    """What the target was last known to hold; percentages are of this."""

    held: Count
    known: bool = True
    """False: nothing is known of what lies there. Then no bound is low enough for a deletion."""


@dataclass(frozen=True)
class Verdict:
    """What a plan must not do until it is approved."""

    deletions: bool = False
    changes: bool = False

    def __bool__(self) -> bool:
        return self.deletions or self.changes


def judge(limits: "Limits", baseline: Baseline, *, deleted: Count, changed: Count) -> Verdict:
    """Given a vault's limits and how much of what the target holds would be deleted and changed, say what is to be held."""
    return Verdict(
        deletions=(not baseline.known and deleted.entries > 0)
        or _exceeds(deleted, limits.max_delete, limits.max_delete_bytes, baseline.held),
        changes=_exceeds(changed, limits.max_change, limits.max_change_bytes, baseline.held),
    )


def entries_allowed(limit: str | int, files: int) -> int:
    """Given a limit and the number of files last committed, return how many may go in one sync."""
    if isinstance(limit, int):
        return limit
    return max(_share(limit, files), min(FEW, files // 2))


def bytes_allowed(limit: str, size: int) -> int:
    """Given a limit of bytes ('30%', '500M') and the bytes last committed, return how many may go in one sync."""
    if limit.endswith("%"):
        return _share(limit, size)
    unit = _UNITS.get(limit[-1], 1)
    return int(Decimal(limit.rstrip("KMGT")) * unit)


def _exceeds(wanted: Count, entries: str | int, size: str | None, held: Count) -> bool:
    if wanted.entries > entries_allowed(entries, held.entries):
        return True
    return size is not None and wanted.bytes > bytes_allowed(size, held.bytes)


def _share(percentage: str, whole: int) -> int:
    return int(Decimal(percentage.removesuffix("%")) * whole / 100)
