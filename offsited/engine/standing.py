# SPDX-License-Identifier: GPL-3.0-or-later
"""How a vault stands by the last judgment of its notices, and by the clock that is never set back."""

from dataclasses import dataclass

from offsited.core.judgment import advanced, staleness
from offsited.core.notice import Mark, Remembered, TargetFacts
from offsited.engine.known import KnownTarget, KnownVault
from offsited.spool import Spool, moment


@dataclass(frozen=True)
class Standing:
    """What was remembered of one vault, and how many notices were tried in vain, with why the last one was."""

    remembered: Remembered | None
    unsent: int
    unsent_reason: str

    @classmethod
    def of(cls, vault: KnownVault) -> "Standing":
        """Read it: others write it, with or without us."""
        spool = Spool(vault.files.notices)
        tried = [item for item in spool.items() if item.tries]
        return cls(spool.remembered(), len(tried), tried[-1].error if tried else "")

    def stale_after(self, target: str) -> int:
        """The age in microseconds after which a target is stale; 0 = its age is nobody's concern, or not judged yet."""
        mark = self._mark(target)
        return mark.limit if mark else 0

    def stale(self, target: str, known: KnownTarget) -> bool:
        """Whether a target is stale now."""
        mark = self._mark(target)
        if mark is None or self.remembered is None:
            return False
        if f"stale:{target}" in self.remembered.troubles and mark.done == (known.done.job if known.done else 0):
            return True
        facts = TargetFacts(target, mark.limit, known.done)
        return bool(staleness(facts, advanced(mark, facts, moment())))

    def degraded(self, target: str) -> bool:
        """Whether an array that a target lies on lacks a disk."""
        return self.remembered is not None and f"array:{target}" in self.remembered.troubles

    def _mark(self, target: str) -> Mark | None:
        return self.remembered.targets.get(target) if self.remembered else None
