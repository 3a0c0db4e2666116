# SPDX-License-Identifier: GPL-3.0-or-later
"""Disks that come and go: what udev tells, what is started by that, and what becomes of a job whose disk is pulled out."""

import os
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from .conftest import DISKS, MakeDisk, MakeVault
from .daemon import MANAGER, ROOT, SERVICE, Watch, get, objects
from .disks import Disk
from .machine import must, offsitectl, run
from .trees import census, differences
from .vaults import OnDisk, Vault

EVENTS = 1000


@pytest.fixture
def eager(home: OnDisk) -> OnDisk:
    """Its disk is synced when it comes; now it is not there."""
    home.disk.detach()
    home.vault.set_target('on_arrival = "sync"')
    return home


def jobs(vault: Vault) -> list[dict[str, Any]]:
    """All on record, the newest first."""
    found: list[dict[str, Any]] = offsitectl("history", vault.name, "--json").json["jobs"]
    return found


def state(home: OnDisk) -> str:
    told: str = offsitectl("status", home.vault.name, "--json").json["vaults"][0]["targets"][0]["state"]
    return told


def test_a_disk_that_comes_is_synced_once(eager: OnDisk, tmp_path: Path) -> None:
    """And again when it comes again, with the next snapshot. A restart of the daemon is no arrival."""
    with Watch() as watch:
        eager.disk.attach()
        first = watch.until_removed(eager.vault.name)
        must("systemctl", "restart", SERVICE)
        assert [(job["job"], job["outcome"]) for job in jobs(eager.vault)] == [(first, "done")]
        eager.disk.detach()
        second = eager.vault.next_snapshot(eager.first, bulk=1000)
        eager.disk.attach()
        assert watch.until_removed(eager.vault.name) > first
    assert [job["outcome"] for job in jobs(eager.vault)] == ["done", "done"]
    assert differences(census(second), eager.vault.restored(tmp_path / "to")) == []


def test_a_disk_that_comes_while_there_is_no_daemon_is_synced_when_there_is_one(eager: OnDisk) -> None:
    """udev is told to have systemd start one. A container has no device units, so here it is started by hand."""
    with Watch() as watch:
        must("systemctl", "stop", SERVICE)
        watch.until_gone()
        eager.disk.attach()
        assert f"SYSTEMD_WANTS={SERVICE}" in must("udevadm", "info", "--query=property", eager.disk.device).splitlines()
        must("systemctl", "start", SERVICE)
        watch.until_removed(eager.vault.name)
    assert [job["outcome"] for job in jobs(eager.vault)] == ["done"]


def test_a_thousand_events_are_one_arrival_and_the_daemon_answers(eager: OnDisk, disk: MakeDisk) -> None:
    """They come as fast as the kernel takes them: before the disk is known, while it is synced, and afterwards."""
    last = disk()
    eager.vault.rewrite(
        f'{eager.vault.file.read_text()}\n[[target]]\nname = "last"\nkind = "disk"\nuuid = "{last.uuid}"\ndirectory = "d"\n'
    )
    with Watch() as watch:
        eager.disk.attach()
        eager.disk.storm(EVENTS)
        assert get(ROOT, MANAGER, "Version")
        assert eager.vault.path in objects()
        assert offsitectl("status", eager.vault.name).status == 0
        last.detach()  # its event is behind all others
        watch.until_changed(f"{eager.vault.path}/targets/last", State="absent")
    assert [job["outcome"] for job in jobs(eager.vault)] == ["done"]
    assert state(eager) == "present"


def test_a_locked_vault_is_synced_when_it_is_unlocked(eager: OnDisk) -> None:
    """The arrival is on record as one that found it locked, once."""
    eager.vault.lock()
    with Watch() as watch:
        eager.disk.attach()
        watch.until_removed(eager.vault.name)
        eager.disk.storm(10)
        eager.vault.unlock()
        watch.until_removed(eager.vault.name)
    assert [(job["outcome"], job["reason"]) for job in jobs(eager.vault)] == [("done", ""), ("failed", "locked")]


def test_a_disk_that_comes_while_the_vault_is_busy_waits_for_that(vault: MakeVault, disk: MakeDisk, key: Path) -> None:
    made, one, other = vault(), disk(), disk()
    first = made.snapshot()
    made.init(f"one=disk:UUID={one.uuid}", f"other=disk:UUID={other.uuid}", key=key)
    made.edit(rf'^uuid = "{other.uuid}"\n', f'uuid = "{other.uuid}"\non_arrival = "sync"\n')
    other.detach()
    made.synced()
    made.next_snapshot(first, bulk=300_000)
    with made.slow_sync() as job:
        other.attach()
        job.watch.until_changed(f"{made.path}/targets/other", State="present")
        assert offsitectl("cancel", made.name).status == 0
        assert job.end()["outcome"] == "canceled"
        assert job.watch.until_removed(made.name) > job.number
    assert [(job["target"], job["outcome"]) for job in jobs(made)[:2]] == [("other", "done"), ("one", "canceled")]


def test_a_disk_with_a_job_is_busy(home: OnDisk) -> None:
    home.vault.synced()
    home.vault.next_snapshot(home.first, bulk=300_000)
    with home.vault.slow_sync() as job:
        assert state(home) == "busy"
        assert offsitectl("cancel", home.vault.name).status == 0
        job.end()
    assert state(home) == "present"


def test_a_disk_of_another_vault_is_foreign(home: OnDisk, vault: MakeVault, key: Path) -> None:
    """Known by its owner marker, when a job has looked; and forgotten with the disk."""
    home.vault.synced()
    other = vault()
    other.snapshot()
    other.init(f"disk=disk:UUID={home.disk.uuid}/{home.vault.name}", key=key)
    intruder = OnDisk.__new__(OnDisk)
    intruder.vault = other
    assert other.sync().status == 1
    assert state(intruder) == "foreign"
    assert state(home) == "present"


def test_two_devices_with_one_uuid_are_refused(home: OnDisk) -> None:
    """Whichever was meant: neither is touched."""
    home.vault.synced()
    home.vault.next_snapshot(home.first, bulk=1000)
    before = home.disk.content()
    copy = Disk.__new__(Disk)
    copy.uuid, copy.image = home.disk.uuid, DISKS / f"{uuid.uuid4()}.img"
    must("cp", "--sparse=always", home.disk.image, copy.image)
    path = f"{home.vault.path}/targets/disk"
    with Watch() as watch:
        copy.attach()
        watch.until_changed(path, State="cloned")
        ended = home.vault.sync()
        assert ended.status == 1
        assert "two devices" in ended.told
        timed = home.vault.sync("--timed")
        assert timed.status == 1
        assert jobs(home.vault)[0]["reason"] == "target-cloned"
        copy.remove()
        watch.until_changed(path, State="present")
    assert home.disk.content() == before
    home.vault.synced()


def test_a_disk_that_is_pulled_out_ends_its_job_and_goes_on_when_it_is_back(home: OnDisk, tmp_path: Path) -> None:
    """The job says that the disk is lost; nothing is written to where it was mounted; the next sync takes up."""
    home.vault.synced()
    second = home.vault.next_snapshot(home.first, bulk=1_000_000)
    with home.vault.slow_sync() as job:
        home.disk.pull()
        end = job.end()
        assert (end["outcome"], end["reason"]) == ("failed", "target-lost")
        assert state(home) == "absent"
    home.disk.detach()
    assert home.vault.sync().json["reason"] == "target-absent"
    home.disk.attach()
    home.vault.synced()
    assert differences(census(second), home.vault.restored(tmp_path / "to")) == []


def test_a_read_only_disk_is_told_and_not_written_to(home: OnDisk) -> None:
    """An array that the kernel has set read-only looks like this."""
    home.disk.detach()
    home.disk.attach(read_only=True)
    assert home.vault.sync().json["reason"] == "target-read-only"


# --- a file system that somebody else has mounted --------------------------------------------------------------------


@pytest.fixture
def point(home: OnDisk) -> Iterator[Path]:
    """Where an administrator mounts the disk; the vault file says so."""
    point = Path("/mnt", home.vault.name)
    point.mkdir()
    home.vault.set_target(f'path = "{point}"')
    yield point
    run("umount", "--quiet", point)
    point.rmdir()  # whatever was written there while nothing was mounted makes this fail


def test_a_mounted_disk_is_reached_by_its_path(home: OnDisk, point: Path, tmp_path: Path) -> None:
    absent = home.vault.sync()
    assert (absent.status, absent.json["reason"]) == (5, "target-absent")
    assert os.listdir(point) == []
    must("mount", home.disk.device, point)
    home.vault.synced()
    assert (point / home.vault.name / "offsited.json").exists()
    assert differences(census(home.first), home.vault.restored(tmp_path / "to")) == []
    assert offsitectl("verify", home.vault.name).status == 0
    must("mount", "-o", "remount,bind,ro", point)
    home.vault.next_snapshot(home.first, bulk=1000)
    assert home.vault.sync().json["reason"] == "target-read-only"
    must("mount", "-o", "remount,bind,rw", point)
    ended = offsitectl("target", "seal", home.vault.name, "disk", "--json")
    assert ended.status == 0, ended.told
    assert f"    umount {point}" in ended.json["told"]


def test_another_file_system_at_the_path_is_not_the_target(home: OnDisk, disk: MakeDisk, point: Path) -> None:
    other = disk()
    must("mount", other.device, point)
    assert home.vault.sync().json["reason"] == "target-absent"
    must("umount", point)
    must("mount", "--bind", "/srv", point)
    assert home.vault.sync().json["reason"] == "target-absent"
    must("umount", point)
    with other.mounted() as top:
        assert os.listdir(top) == []
