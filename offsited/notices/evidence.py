# SPDX-License-Identifier: GPL-3.0-or-later
"""What is on record of a vault, read from its files alone, and from systemd where its lock matters: the daemon may be stopped or broken."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

from offsited import layers, names
from offsited.core import config
from offsited.core.commit import Commit, parse_commit
from offsited.core.config import DiskTarget, Notify, Vault
from offsited.core.judgment import DAY, LOCK, ended
from offsited.core.notice import Facts, Remembered, TargetFacts
from offsited.core.outcome import Outcome, Reason
from offsited.core.record import WRITING, JobRecord, Kind
from offsited.core.seeding import Life, in_transit
from offsited.errors import ConfigInvalid
from offsited.notices import locks
from offsited.spool import moment
from offsited.store import Store, VaultFiles

COMMIT_FILE: Final = "commit.json"
CGROUP: Final = Path("/sys/fs/cgroup") / names.SLICE
"""Units of ours that run have a directory there; a record without an end may be of one that was killed."""


def gather(store: Store, name: str, notify: Notify, before: Remembered | None, skipped: int = 0, *, booted: bool = False) -> Facts:
    """Read a vault's configuration and records. `booted`: it should have been unlocked by now. Raise NoSuchVault if it is no more."""
    files = store.vault_files(name)
    records = tuple(record for record in files.records() if not record.options.dry_run)  # those say nothing of a target
    skipped = skipped or _runs_for_a_day(records)
    locked = locks.is_locked(name) if booted or (before and LOCK in before.troubles) else None
    try:
        vault = store.read_vault(name)
        files.identity()
    except ConfigInvalid:
        limits = {target: mark.limit for target, mark in before.targets.items()} if before else {}
        return Facts(name, _targets(files, limits, records, {}), records, Reason.CONFIG_INVALID, skipped, locked=locked)
    devices = {target.name: Path(target.device) for target in vault.target if isinstance(target, DiskTarget)}
    told = _targets(files, limits_of(vault, notify), records, devices)
    return Facts(name, told, records, "", skipped, _in_transit(vault, records), locked)


def _in_transit(vault: Vault, records: Iterable[JobRecord]) -> Mapping[str, int]:
    """The targets that wait for a sealed disk to be adopted, each with when that was sealed."""
    lives: defaultdict[str, Life] = defaultdict(Life)
    for record in ended(records):
        lives[record.target].take(record)
    return {target: sealed.ended for target, sealed in in_transit(vault, lives.__getitem__).items()}


def _runs_for_a_day(records: Iterable[JobRecord]) -> int:
    """A timed sync for which systemd has skipped its daily run: it does not start a service that has not ended. 0 = there is none."""
    since = moment().now - DAY
    running = [record for record in records if record.outcome is None and record.kind is Kind.SYNC and record.options.timed]
    return next((record.job for record in running if record.requested < since and (CGROUP / record.unit).is_dir()), 0)


def limits_of(vault: Vault, notify: Notify) -> Mapping[str, int]:
    """`stale_after` of each target in microseconds: its own, else for the default one what holds for all, else 0 = none."""
    general = {vault.default_target.name: notify.stale_after}
    chosen = {target.name: target.stale_after or general.get(target.name) for target in vault.target}
    return {name: config.microseconds(limit) if limit else 0 for name, limit in chosen.items()}


def _targets(
    files: VaultFiles, limits: Mapping[str, int], records: Iterable[JobRecord], devices: Mapping[str, Path]
) -> tuple[TargetFacts, ...]:
    done = {record.target: record for record in ended(records) if record.kind in WRITING and record.outcome is Outcome.DONE}
    return tuple(_target(files, name, limit, done.get(name), devices.get(name)) for name, limit in limits.items())


def _target(files: VaultFiles, name: str, limit: int, done: JobRecord | None, device: Path | None) -> TargetFacts:
    commit = _commit(files.target(name) / COMMIT_FILE)
    lacking = layers.lacking(device) if device else None
    dated = commit.snapshot_dated if commit else 0
    return TargetFacts(name, limit, done, dated, intact=commit is not None or done is None, lacking=lacking)


def _commit(path: Path) -> Commit | None:
    try:
        return parse_commit(path.read_bytes())
    except OSError:
        return None
