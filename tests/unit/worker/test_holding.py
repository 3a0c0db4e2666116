# SPDX-License-Identifier: GPL-3.0-or-later
"""Limits in whole jobs, where the target itself is looked at: what it really has counts, not what it was known to have."""

import os
import shutil
from pathlib import Path

import pytest

from offsited.core.outcome import Outcome, Reason

from .machine import Machine, done, holds
from .trees import tree


@pytest.fixture
def many(machine: Machine) -> Path:
    """Forty files, synced."""
    first = machine.snapshot("2026-11-23")
    for number in range(40):
        (first / f"file-{number:02}").write_text(f"content {number}")
    done(machine.sync())
    return first


def rolled_back(machine: Machine, many: Path, *, gone: int) -> Path:
    """The target is as it was when there were forty files; eight are gone since then, and `gone` more today. Return the snapshot."""
    with machine.disk() as directory:
        shutil.copytree(directory, machine.top / "that-day", symlinks=True)
    second = machine.copy(many, "2026-11-24")
    for number in range(8):
        (second / f"file-{number:02}").unlink()
    done(machine.sync())
    third = machine.copy(second, "2026-11-25")
    for number in range(8, 8 + gone):
        (third / f"file-{number:02}").unlink()
    with machine.disk() as directory:
        shutil.rmtree(directory)
        shutil.copytree(machine.top / "that-day", directory, symlinks=True)
    return third


def test_what_lies_at_the_target_beside_the_snapshot_counts(machine: Machine, many: Path) -> None:
    """The target was rolled back to a day when it had much that is gone since."""
    third = rolled_back(machine, many, gone=3)
    record = machine.sync()
    assert record.held is not None
    assert record.held.deleted_entries == 11
    with machine.disk() as directory:
        assert sum(len(files) for _, _, files in os.walk(directory / "current")) > 40
    again = machine.sync()
    assert (again.outcome, again.held) == (Outcome.HELD, record.held), "it is looked at again, and not forgotten"
    done(machine.approve(again))
    holds(machine, third)
    done(machine.sync())


def test_a_dry_run_leaves_what_only_a_comparison_has_seen_waiting(machine: Machine, many: Path) -> None:
    """It is the first thing that a person is told to do, and it cannot see the target."""
    third = rolled_back(machine, many, gone=3)
    record = machine.sync()
    looked = machine.sync(dry_run=True)
    assert (looked.outcome, looked.held) == (Outcome.HELD, record.held)
    done(machine.approve(looked))
    holds(machine, third)
    assert machine.sync(dry_run=True).outcome == Outcome.DONE


def test_one_approval_is_for_the_plan_and_for_what_the_target_has_beside_it(machine: Machine, many: Path) -> None:
    third = rolled_back(machine, many, gone=12)
    record = machine.sync()
    assert record.held is not None
    assert record.held.deleted_entries == 20
    done(machine.approve(record))
    holds(machine, third)


def test_a_job_that_did_not_come_to_its_limits_says_nothing_of_them(machine: Machine, many: Path) -> None:
    """What an earlier one has held goes on waiting."""
    machine.tool("gocryptfs", "exit 1")
    assert machine.sync(reconcile=True).held is None


def test_other_contents_at_the_target_count_as_changes(machine: Machine, many: Path) -> None:
    """Nothing is known here of a target that holds other contents: they are not overwritten unasked."""
    second = machine.copy(many, "2026-11-24")
    for path in sorted(second.iterdir())[:30]:
        path.unlink()
        path.write_text("other")
    shutil.rmtree(machine.files.target("seed"))
    record = machine.sync(reconcile=True)
    assert record.held is not None
    assert (record.outcome, record.held.changed_entries, record.held.deleted_entries) == (Outcome.HELD, 30, 0)
    to = machine.top / "there"
    done(machine.restore(to, without_manifest=True))
    assert (to / "file-00").read_text() == "content 0"
    done(machine.approve(record))
    holds(machine, second)


def test_what_a_first_sync_left_unfinished_is_nobody_s_loss(machine: Machine) -> None:
    first = machine.snapshot("2026-11-23")
    for number in range(40):
        (first / f"file-{number:02}").write_text(f"content {number}")
    machine.killed(machine.sync, "offsited.worker.committing.Committing.send")
    second = machine.copy(first, "2026-11-24")
    for number in range(39):
        (second / f"file-{number:02}").unlink()
    done(machine.sync())
    holds(machine, second)


def test_a_dry_run_changes_nothing_and_tells_the_plan(machine: Machine, many: Path) -> None:
    second = machine.copy(many, "2026-11-24")
    for number in range(12):
        (second / f"file-{number:02}").unlink()
    (second / "new").write_text("new")
    with machine.disk() as directory:
        before = tree(directory)
    machine.passphrase = b"it is not needed"
    record = machine.sync(dry_run=True)
    assert (record.outcome, record.reason, record.commit) == (Outcome.HELD, Reason.LIMIT_EXCEEDED, "")
    assert record.plan is not None
    assert (record.plan.added_entries, record.plan.deleted_entries) == (1, 12)
    with machine.disk() as directory:
        assert tree(directory) == before


def test_a_directory_of_many_long_names_is_spoken_of(machine: Machine) -> None:
    """gocryptfs needs a second for two hundred of them, and a quarter of a minute for eight hundred."""
    first = machine.snapshot("2026-11-23")
    (first / "few").mkdir()
    (first / "crowded").mkdir()
    for number in range(300):
        (first / "crowded" / f"{number:03}{'n' * 180}").touch()
    (first / "few" / f"{'n' * 180}").touch()
    record = done(machine.sync())
    assert "lie in crowded: gocryptfs is slow there" in record.detail
    assert "few" not in record.detail
    assert "slow" not in done(machine.sync()).detail, "once is enough"
