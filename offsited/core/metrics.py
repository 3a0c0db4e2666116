# SPDX-License-Identifier: GPL-3.0-or-later
"""The file for Prometheus' textfile collector. Pure: what is on record in, text of the exposition format 0.0.4 out."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from offsited.core.judgment import advanced, ended, staleness
from offsited.core.notice import Facts, Moment, Remembered, TargetFacts
from offsited.core.outcome import Outcome
from offsited.core.record import WRITING, JobRecord


@dataclass(frozen=True)
class Standing:
    """One vault."""

    facts: Facts
    remembered: Remembered | None
    now: Moment
    unsent: int = 0
    """Notices that were tried in vain."""

    def stale(self, target: TargetFacts) -> bool:
        """Whether a target's age is over its limit."""
        mark = self.remembered.targets.get(target.name) if self.remembered else None
        return bool(staleness(target, advanced(mark, target, self.now)))

    def last(self, target: TargetFacts) -> JobRecord | None:
        """The last sync to a target that ended."""
        syncs = [record for record in ended(self.facts.records) if record.kind in WRITING and record.target == target.name]
        return syncs[-1] if syncs else None


_Labels = dict[str, str]
_Sample = tuple[_Labels, float]


def exposition(standings: Sequence[Standing], now: int) -> str:
    """Return the whole file. `now` in microseconds since the epoch."""
    lines = [line for name, (text, samples) in _METRICS.items() for line in _metric(name, text, samples(standings))]
    lines += _metric("offsited_watch_timestamp_seconds", "When this file was written.", [({}, now / 1e6)])
    return "\n".join(lines) + "\n"


def _metric(name: str, text: str, samples: Iterable[_Sample]) -> list[str]:
    shown = [f"{name}{_labels(labels)} {value:.15g}" for labels, value in samples]
    return [f"# HELP {name} {text}", f"# TYPE {name} gauge", *shown] if shown else []


def _labels(labels: _Labels) -> str:
    shown = ",".join(f'{key}="{_escaped(value)}"' for key, value in labels.items())
    return f"{{{shown}}}" if labels else ""


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _of_targets(value: Callable[[Standing, TargetFacts], float | None]) -> Callable[[Sequence[Standing]], Iterator[_Sample]]:
    def samples(standings: Sequence[Standing]) -> Iterator[_Sample]:
        for standing in standings:
            for target in standing.facts.targets:
                found = value(standing, target)
                if found is not None:
                    yield {"vault": standing.facts.vault, "target": target.name}, found

    return samples


def _of_last(value: Callable[[JobRecord], float | None]) -> Callable[[Sequence[Standing]], Iterator[_Sample]]:
    def of(standing: Standing, target: TargetFacts) -> float | None:
        last = standing.last(target)
        return value(last) if last else None

    return _of_targets(of)


def _of_vaults(value: Callable[[Standing], float]) -> Callable[[Sequence[Standing]], Iterator[_Sample]]:
    return lambda standings: (({"vault": standing.facts.vault}, value(standing)) for standing in standings)


def _outcomes(standings: Sequence[Standing]) -> Iterator[_Sample]:
    """One sample for each outcome there is, 1 for the one that was."""
    for standing in standings:
        for target in standing.facts.targets:
            last = standing.last(target)
            if last is not None:
                for outcome in Outcome:
                    labels = {"vault": standing.facts.vault, "target": target.name, "outcome": outcome.value}
                    yield labels, float(last.outcome is outcome)


def _troubles(standings: Sequence[Standing]) -> Iterator[_Sample]:
    for standing in standings:
        for trouble in standing.remembered.troubles.values() if standing.remembered else ():
            labels = {"vault": standing.facts.vault, "target": trouble.target, "event": trouble.event.value, "reason": trouble.reason}
            yield labels, trouble.since / 1e6


_METRICS: Final[dict[str, tuple[str, Callable[[Sequence[Standing]], Iterator[_Sample]]]]] = {
    "offsited_target_confirmed_timestamp_seconds": (
        "When the target was last confirmed to hold its snapshot, 0 = never.",
        _of_targets(lambda _standing, target: target.confirmed / 1e6),
    ),
    "offsited_target_snapshot_timestamp_seconds": (
        "Date of the snapshot that the target holds, 0 = none.",
        _of_targets(lambda _standing, target: target.snapshot_dated / 1e6),
    ),
    "offsited_target_stale_after_seconds": (
        "Age after which the target counts as stale.",
        _of_targets(lambda _standing, target: target.limit / 1e6 if target.limit else None),
    ),
    "offsited_target_stale": (
        "Whether the target is older than that, by a clock that is never set back.",
        _of_targets(lambda standing, target: float(standing.stale(target)) if target.limit else None),
    ),
    "offsited_target_free_bytes": (
        "Free space at the target after the last sync.",
        _of_last(lambda last: last.free if last.capacity else None),
    ),
    "offsited_target_size_bytes": ("Size of the target's file system.", _of_last(lambda last: last.capacity or None)),
    "offsited_sync_outcome": ("How the last sync to the target ended: 1 for its outcome, 0 for others.", _outcomes),
    "offsited_sync_ended_timestamp_seconds": ("When it ended.", _of_last(lambda last: last.ended / 1e6)),
    "offsited_sync_duration_seconds": (
        "How long it took.",
        _of_last(lambda last: max(last.ended - last.started, 0) / 1e6 if last.started else None),
    ),
    "offsited_sync_entries": ("Entries of its snapshot.", _of_last(lambda last: last.counts.entries)),
    "offsited_sync_bytes": ("Bytes of its snapshot.", _of_last(lambda last: last.counts.bytes)),
    "offsited_sync_sent_entries": ("Entries that it sent.", _of_last(lambda last: last.counts.sent_entries)),
    "offsited_sync_sent_bytes": ("Bytes of files that it sent.", _of_last(lambda last: last.counts.sent_bytes)),
    "offsited_sync_wire_bytes": ("Bytes on the wire, both ways.", _of_last(lambda last: last.counts.wire_bytes)),
    "offsited_sync_deleted_entries": ("Entries that it deleted at the target.", _of_last(lambda last: last.counts.deleted_entries)),
    "offsited_trouble_since_timestamp_seconds": ("Something is not as it should be, since then; gone when it is over.", _troubles),
    "offsited_vault_invalid": ("Whether the vault file cannot be used.", _of_vaults(lambda standing: float(bool(standing.facts.invalid)))),
    "offsited_notices_unsent": ("Notices that could not be sent yet.", _of_vaults(lambda standing: float(standing.unsent))),
}

NAMES: Final = (*_METRICS, "offsited_watch_timestamp_seconds")
"""Every metric."""
