# SPDX-License-Identifier: GPL-3.0-or-later
"""Restores for proof, with the real gocryptfs and rsync: what comes back is compared, and nothing of it stays."""

import os
from pathlib import Path

import pytest

from offsited.core.outcome import Outcome, Reason
from offsited.worker import restore_test
from offsited.worker.ledger import Ledger

from .machine import Machine, done, failed
from .test_restore import furnish, furnished  # noqa: F401
from .test_verify import beside, flipped, mirror
from .trees import fill


def test_everything_comes_back_and_nothing_stays(machine: Machine, furnished: Path) -> None:  # noqa: F811
    """Immutable files too."""
    record = done(machine.restore_test())
    assert record.counts.entries >= machine.confirmed.entries - len([row for row in machine.manifest().values() if row.kind == "d"])
    assert not (machine.files.target("seed") / "restore-test").exists()


@pytest.mark.parametrize("name", ["d/b", "soft"])
def test_what_is_damaged_is_told(machine: Machine, name: str) -> None:
    fill(machine.snapshot("2026-11-20"))
    done(machine.sync())
    with mirror(machine) as opened:
        sealed = opened.sealed(name)
        if sealed.is_symlink():
            sealed.unlink()
        else:
            flipped(sealed)
    record = machine.restore_test()
    if name == "soft":
        done(record)  # the manifest brings it back: the target's own is not needed
    else:
        assert (record.outcome, record.reason) == (Outcome.PARTIAL, Reason.RESTORED_DIFFERENT)
        listed = (machine.files.jobs / f"{record.job}.differences").read_text()
        assert {line.partition(": ")[0] for line in listed.splitlines()} == {name}
        assert name not in record.detail


def test_what_is_chosen(machine: Machine) -> None:
    """So many by chance, and always the largest, the smallest, a whole directory."""
    snapshot = machine.snapshot("2026-11-20")
    for number in range(300):
        directory = snapshot / f"{number % 20}"
        directory.mkdir(exist_ok=True)
        (directory / f"{number}").write_bytes(b"x" * (1000 + number))
    (snapshot / "0/largest").write_bytes(b"x" * 100_000)
    (snapshot / "1/smallest").write_bytes(b"x")
    done(machine.sync())
    with Ledger.opened(machine.files.target("seed") / "manifest.sqlite") as ledger:
        drawn = [[row.path for row in ledger.sample(restore_test.FILES)] for _ in range(2)]
        assert drawn[0] != drawn[1]
        assert [len(set(paths)) for paths in drawn] == [200, 200]
        assert [row.path for row in ledger.sample(1, order="size DESC")] == [b"0/largest"]
        assert [row.path for row in ledger.sample(1, order="size")] == [b"1/smallest"]
    record = done(machine.restore_test())
    assert record.counts.entries >= 200
    assert record.counts.bytes >= 100_000


def test_a_sync_goes_first_and_the_test_begins_anew(machine: Machine) -> None:
    snapshot = fill(machine.snapshot("2026-11-20"))
    done(machine.sync())
    (snapshot / "a").unlink()
    (snapshot / "d/b").write_text("changed")
    ended: list[str] = []
    with machine.when("offsited.worker.rebuilding.Rebuilding._split", lambda: beside(machine, ended)):
        done(machine.restore_test())
    assert ended == ["done"]


def test_without_room_nothing_is_proven(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    snapshot = machine.snapshot("2026-11-20")
    (snapshot / "a").write_bytes(os.urandom(9000))
    done(machine.sync())
    monkeypatch.setattr("offsited.worker.restore_test.shutil.disk_usage", lambda _: type("usage", (), {"free": 10_000}))
    failed(machine.restore_test(), Reason.SCRATCH_FULL)


def test_a_directory_that_there_is_no_room_for_is_not_chosen(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    directory = machine.snapshot("2026-11-20") / "large"
    directory.mkdir()
    for number in range(40):
        (directory / f"{number}").write_bytes(b"x" * 1000)
    done(machine.sync())
    monkeypatch.setattr(restore_test, "FILES", 5)
    monkeypatch.setattr("offsited.worker.restore_test.shutil.disk_usage", lambda _: type("usage", (), {"free": 20_000}))
    assert done(machine.restore_test()).counts.bytes <= 10_000
