# SPDX-License-Identifier: GPL-3.0-or-later
"""Whatever dies while a sync runs: it is not green, nothing is deleted at the target, nothing is left, and the next sync mends it."""

import os
import shutil
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from .daemon import SERVICE, VAULT, Running, Watch, get, main_pid, objects
from .machine import PATIENCE, kill, must, offsitectl, processes, shown, wait_for_end
from .trees import Tree, census, differences
from .vaults import BULK, SLOW, THIRD, OnDisk


@pytest.fixture
def day_two(home: OnDisk) -> OnDisk:
    """The first snapshot is at the target; the second one has less, and enough that is new to take a while."""
    home.vault.synced()
    home.vault.without_limits()
    home.second = home.vault.next_snapshot(home.first, bulk=BULK, without=("one", "two"))
    return home


def _nothing_deleted(home: OnDisk, before: Tree) -> None:
    gone = before.keys() - home.disk.content().keys()
    assert not gone, f"deleted at the target: {gone}"


def _mended(home: OnDisk, to: Path) -> None:
    """One clean sync, and everything is right."""
    home.vault.synced()
    assert differences(census(home.second), home.vault.restored(to)) == []


# --- the snapshot --------------------------------------------------------------------------------------------------


def test_snapshot_pruned_before_the_sync(day_two: OnDisk, tmp_path: Path) -> None:
    before = day_two.disk.content()
    shutil.rmtree(day_two.second)
    ended = day_two.vault.sync()
    assert (ended.status, ended.json["reason"]) == (1, "snapshot-missing")
    assert day_two.disk.content() == before
    assert differences(census(day_two.first), day_two.vault.restored(tmp_path / "to")) == []


def _prune_all(snapshot: Path) -> None:
    shutil.rmtree(snapshot)


def _prune_one_file(snapshot: Path) -> None:
    (snapshot / "three").unlink()


def _empty_it(snapshot: Path) -> None:
    for file in snapshot.iterdir():
        file.unlink()


def _swap_it(snapshot: Path) -> None:
    snapshot.rename(snapshot.with_name("moved"))
    snapshot.mkdir()
    (snapshot / "other").write_text("other")
    shutil.rmtree(snapshot.with_name("moved"))


@pytest.mark.parametrize("prune", [_prune_all, _prune_one_file, _empty_it, _swap_it], ids=lambda prune: prune.__name__.strip("_"))
def test_snapshot_pruned_while_it_is_sent(day_two: OnDisk, prune: Callable[[Path], None]) -> None:
    before = day_two.disk.content()
    with day_two.vault.slow_sync() as job:
        prune(day_two.second)
        end = job.end()
    assert end["outcome"] == "failed"
    assert end["deleted_entries"] == 0
    assert end["reason"].startswith(("snapshot-", "rsync-"))
    _nothing_deleted(day_two, before)


def test_the_next_snapshot_mends_what_a_pruned_one_left(day_two: OnDisk, tmp_path: Path) -> None:
    with day_two.vault.slow_sync() as job:
        _prune_all(day_two.second)
        assert job.end()["outcome"] == "failed"
    day_two.second = day_two.vault.next_snapshot(day_two.first, THIRD, without=("one",))
    _mended(day_two, tmp_path / "to")


# --- the tools -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("program", "reason"), [("gocryptfs", "view-died"), ("rsync", "rsync-failed"), ("python3", "interrupted")])
def test_a_process_of_the_job_is_killed(day_two: OnDisk, program: str, reason: str, tmp_path: Path) -> None:
    before = day_two.disk.content()
    with day_two.vault.slow_sync() as job:
        kill(job.unit, program)
        end = job.end()
    assert (end["outcome"], end["reason"], end["deleted_entries"]) == ("failed", reason, 0)
    _nothing_deleted(day_two, before)
    _mended(day_two, tmp_path / "to")


def test_the_whole_job_is_killed(day_two: OnDisk, tmp_path: Path) -> None:
    before = day_two.disk.content()
    with day_two.vault.slow_sync() as job:
        must("systemctl", "kill", "--signal=KILL", "--kill-whom=all", job.unit)
        end = job.end()
    assert (end["outcome"], end["reason"], end["deleted_entries"]) == ("failed", "interrupted", 0)
    _nothing_deleted(day_two, before)
    _mended(day_two, tmp_path / "to")


# --- the daemon ----------------------------------------------------------------------------------------------------


def test_the_daemon_is_killed_and_the_job_goes_on(day_two: OnDisk, tmp_path: Path) -> None:
    with day_two.vault.slow_sync("40K") as job:  # so that it is still sending when the new daemon was asked for all of this
        invocation = shown(job.unit, "InvocationID")
        old = main_pid()
        os.kill(old, signal.SIGKILL)
        job.watch.until_back()
        assert main_pid() not in {0, old}
        assert shown(job.unit, "InvocationID") == invocation
        assert job.path in objects()
        assert get(day_two.vault.path, VAULT, "Job") == job.path
        assert not day_two.vault.is_locked()
        told = offsitectl("status", day_two.vault.name, "--json").json["vaults"][0]
        assert told["job"]["job"] == job.number
        job.until_sending()
        assert job.end()["outcome"] == "done"
    assert differences(census(day_two.second), day_two.vault.restored(tmp_path / "to")) == []


def test_who_waits_for_a_job_hears_of_its_end_across_the_daemons_death(day_two: OnDisk) -> None:
    day_two.vault.set_target(f'bandwidth = "{SLOW}"')
    with Watch() as watch, subprocess.Popen(["offsitectl", "sync", day_two.vault.name], stdout=subprocess.PIPE, text=True) as waiting:
        job = Running(watch, int(watch.next("JobNew").body[0]), day_two.vault.name)
        job.until_sending()
        os.kill(main_pid(), signal.SIGKILL)
        watch.until_back()
        told, _ = waiting.communicate(timeout=PATIENCE)
    assert waiting.returncode == 0
    assert f"done (job {job.number})" in told


def test_daemon_and_job_are_killed_at_once(day_two: OnDisk, tmp_path: Path) -> None:
    before = day_two.disk.content()
    with day_two.vault.slow_sync() as job:
        must("systemctl", "kill", "--signal=KILL", "--kill-whom=all", SERVICE, job.unit)
        job.watch.until_back()
        end = job.end()
    assert (end["outcome"], end["reason"]) == ("failed", "interrupted")
    told = offsitectl("status", day_two.vault.name, "--json").json["vaults"][0]
    assert (told["last_outcome"], told["locked"], told["targets"][0]["last_outcome"]) == ("failed", False, "failed")
    _nothing_deleted(day_two, before)
    _mended(day_two, tmp_path / "to")


def test_a_job_that_ends_while_there_is_no_daemon_is_known_afterwards(day_two: OnDisk) -> None:
    """The daemon that starts then finds the record that the worker wrote."""
    with day_two.vault.slow_sync() as job:
        must("systemctl", "stop", SERVICE)
        for pid in processes(job.unit):
            wait_for_end(pid)
        must("systemctl", "start", SERVICE)
        assert job.end()["outcome"] == "done"
        assert get(day_two.vault.path, VAULT, "LastOutcome") == "done"


# --- people --------------------------------------------------------------------------------------------------------


def test_cancel(day_two: OnDisk, tmp_path: Path) -> None:
    before = day_two.disk.content()
    with day_two.vault.slow_sync() as job:
        assert offsitectl("cancel", day_two.vault.name).status == 0
        end = job.end()
    assert (end["outcome"], end["deleted_entries"]) == ("canceled", 0)
    _nothing_deleted(day_two, before)
    ended = offsitectl("cancel", day_two.vault.name)
    assert ended.status == 2
    assert "no job writes" in ended.told
    _mended(day_two, tmp_path / "to")


def test_a_second_sync_is_busy_and_the_first_goes_on(day_two: OnDisk) -> None:
    with day_two.vault.slow_sync() as job:
        ended = day_two.vault.sync()
        assert ended.status == 6
        assert f"offsitectl monitor {day_two.vault.name}" in ended.told
        assert offsitectl("cancel", day_two.vault.name).status == 0
        assert job.end()["outcome"] == "canceled"


def test_a_restore_waits_for_no_sync(day_two: OnDisk, tmp_path: Path) -> None:
    with day_two.vault.slow_sync() as job:
        assert day_two.vault.restored(tmp_path / "to", "three").keys() == {b"", b"three"}
        assert job.end()["outcome"] == "done"


def test_the_disk_is_unplugged_and_comes_back(day_two: OnDisk, tmp_path: Path) -> None:
    with Watch() as watch:
        day_two.disk.detach()
        watch.until_changed(f"{day_two.vault.path}/targets/disk", State="absent")
        assert day_two.vault.sync().status == 5
        day_two.disk.attach()
        watch.until_changed(f"{day_two.vault.path}/targets/disk", State="present")
    _mended(day_two, tmp_path / "to")
