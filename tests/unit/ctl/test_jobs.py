# SPDX-License-Identifier: GPL-3.0-or-later
"""sync, restore and cancel as a person meets them: what is asked of the daemon, what is printed, the exit status."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from offsited import names
from offsited.core.outcome import ADVICE, Outcome, Reason, exit_status
from offsited.ctl import follow
from offsited.ctl.jobs import worst
from offsited.ctl.objects import JobEnd
from offsited.errors import Exit

from .conftest import Run, Running
from .fake import BusError, Call, FakeDaemon


def ends(fake: FakeDaemon, outcome: str, reason: str = "", **numbers: int) -> Callable[[Call], None]:
    """What the daemon does after it answered: the job ends."""
    return lambda _call: fake.end_job(max(fake.outcomes), outcome, reason, **numbers)


def test_sync_done_says_what_was_sent(fake: FakeDaemon, run: Run) -> None:
    fake.then["Sync"] = ends(fake, "done", entries=2000, sent_entries=12, sent_bytes=20 * 1024**2, deleted_entries=3, wire_bytes=1024)
    ran = run("sync", "home")
    assert (ran.status, ran.stderr) == (0, "")
    assert "home: sync to seed done (job 1): 12 of 2,000 entries sent, 20.0 MiB, 3 deleted, 1.0 KiB on the wire, 1 min 02 s" in ran.stdout
    call = fake.wait_call("Sync")
    assert (call.path, call.args, call.interactive) == (names.vault_path("home"), ["", {}], True)


def test_sync_hands_on_target_and_options(fake: FakeDaemon, run: Run) -> None:
    fake.then["Sync"] = ends(fake, "done")
    assert run("sync", "home", "--target", "vps", "--allow-older", "--timed").status == 0
    assert fake.wait_call("Sync").args == ["vps", {"allow_older": True, "timed": True}]


def test_a_job_that_ends_before_the_reply_arrives_is_not_missed(fake: FakeDaemon, run: Run) -> None:
    def end_first(_call: Call) -> None:
        fake.end_job(fake.start_job(), "done")

    fake.when["Sync"] = end_first
    fake.then["Sync"] = ends(fake, "done")
    assert run("sync", "home").status == 0


def test_phases_are_lines_where_there_is_no_terminal(fake: FakeDaemon, start: Callable[..., Running]) -> None:
    running = start("sync", "home")
    fake.wait_call("GetAll")
    for phase, done in (("walking", 0), ("sending", 10), ("sending", 90), ("committing", 0)):
        fake.progress(1, phase, done, 100)
    fake.end_job(1, "done")
    lines = running.finish().stdout.splitlines()
    assert [line for line in lines if line.startswith("home to seed: ")] == [
        f"home to seed: {phase}" for phase in ("starting", "reading the snapshot", "sending", "committing")
    ]


def test_timed_prints_the_final_line_alone(fake: FakeDaemon, start: Callable[..., Running]) -> None:
    running = start("sync", "home", "--timed")
    fake.wait_call("GetAll")
    fake.progress(1, "sending", 1, 2)
    fake.end_job(1, "done")
    assert len(running.finish().stdout.splitlines()) == 1


def test_a_failed_sync_says_why_and_what_to_do(fake: FakeDaemon, run: Run) -> None:
    fake.then["Sync"] = ends(fake, "failed", "target-absent")
    ran = run("sync", "home")
    assert ran.status == 5
    assert ran.stderr.splitlines() == [
        "offsitectl: home: the target's disk is not there",
        "Attach the disk of target seed, then: offsitectl sync home --target seed",
    ]


def test_the_detail_of_the_record_is_shown_to_who_may_read_it(fake: FakeDaemon, run: Run) -> None:
    fake.records[1] = json.dumps({"detail": "no space left on \x1b[31mdisk"}).encode()
    fake.then["Sync"] = ends(fake, "failed", "target-full")
    assert "nothing was deleted there: no space left on \\x1b[31mdisk" in run("sync", "home").stderr
    assert not fake.wait_call("OpenRecord").interactive


@pytest.mark.parametrize("outcome", Outcome)
@pytest.mark.parametrize("reason", Reason)
def test_every_end_of_a_job_has_its_exit_status(outcome: Outcome, reason: Reason) -> None:
    error = follow.verdict(JobEnd(7, "sync", "home", "vps", outcome, reason))
    expected = exit_status(outcome, reason)
    assert (error.exit_status if error else Exit.DONE) == expected
    if error is not None:
        assert error.message
        assert "{" not in error.hint


def test_an_outcome_of_a_newer_daemon_is_no_success() -> None:
    error = follow.verdict(JobEnd(7, "sync", "home", "vps", "splendid"))
    assert error is not None
    assert error.exit_status is Exit.FAILED


def test_every_reason_gives_a_hint() -> None:
    assert [reason for reason in Reason if reason and not (ADVICE[reason].sentence and ADVICE[reason].hint)] == []


def test_json_is_one_object_whether_done_or_not(fake: FakeDaemon, run: Run) -> None:
    fake.then["Sync"] = ends(fake, "failed", "target-unreachable")
    ran = run("sync", "home", "--target", "vps", "--json")
    (document,) = [json.loads(line) for line in ran.stdout.splitlines()]
    assert (document["job"], document["vault"], document["target"]) == (1, "home", "vps")
    assert (document["outcome"], document["reason"], document["exit_status"]) == ("failed", "target-unreachable", 5)
    assert ran.status == 5
    assert ran.stderr


def test_no_block_returns_with_the_job_running(fake: FakeDaemon, run: Run) -> None:
    ran = run("sync", "home", "--no-block")
    assert ran.status == 0
    assert "offsitectl monitor home" in ran.stdout
    assert json.loads(run("sync", "home", "--no-block", "--json").stdout) == {"job": 2, "vault": "home"}


def test_all_goes_to_every_target_and_tells_the_worst(fake: FakeDaemon, run: Run) -> None:
    outcomes = iter([("failed", "target-absent"), ("failed", "rsync-failed")])
    fake.then["Sync"] = lambda _call: fake.end_job(max(fake.outcomes), *next(outcomes))
    ran = run("sync", "home", "--all")
    assert [call.args[0] for call in fake.made("Sync")] == ["seed", "vps"]
    assert ran.status == 1
    assert "disk is not there" in ran.stderr
    assert "rsync failed" in ran.stderr


def test_all_goes_on_after_a_refusal(fake: FakeDaemon, run: Run) -> None:
    fake.refuse["Sync"] = BusError(names.ERROR_PREFIX + "Busy", "a job writes to this vault")
    assert run("sync", "home", "--all").status == 6
    assert len(fake.made("Sync")) == 2


@pytest.mark.parametrize(("statuses", "expected"), [([], 0), ([0, 5], 5), ([5, 1, 6], 1), ([7, 3], 7), ([0, 0], 0)])
def test_the_worst_of_several_statuses(statuses: list[int], expected: int) -> None:
    assert worst(statuses) == expected


def test_a_restart_of_the_daemon_does_not_end_the_following(fake: FakeDaemon, start: Callable[..., Running]) -> None:
    running = start("sync", "home")
    fake.wait_call("GetAll")
    fake.leave()
    assert running.read_line() == "home to seed: starting\n"
    assert running.read_line() == "waiting for the daemon; the job goes on\n"
    fake.join()
    fake.wait_call("GetAll")
    fake.progress(1, "sending", 1, 2)
    assert running.read_line() == "home to seed: sending\n"
    fake.end_job(1, "done")
    assert running.finish().status == 0


def test_a_job_that_ended_while_the_daemon_was_away_is_found_by_its_outcome(fake: FakeDaemon, start: Callable[..., Running]) -> None:
    running = start("sync", "home")
    fake.wait_call("GetAll")
    fake.leave()
    fake.end_job(1, "failed", "interrupted")
    fake.join()
    ran = running.finish()
    assert ran.status == 1
    assert "interrupted before it could record an end" in ran.stderr


def test_a_daemon_that_has_not_taken_the_job_over_yet_is_waited_for(fake: FakeDaemon, start: Callable[..., Running]) -> None:
    running = start("sync", "home")
    fake.wait_call("GetAll")
    fake.leave()
    job = fake.objects.pop(names.job_path(1))
    fake.join()
    fake.wait_call("GetOutcome")
    fake.objects[names.job_path(1)] = job
    fake.end_job(1, "done")
    assert running.finish().status == 0


def test_a_daemon_that_stays_away_leaves_the_job_alone(fake: FakeDaemon, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(follow, "QUIET", 0.01)
    monkeypatch.setattr(follow, "PATIENCE", 0.05)
    fake.then["GetAll"] = lambda _call: fake.refuse.update(GetAll=BusError("org.freedesktop.DBus.Error.NoReply"))
    ran = run("sync", "home")
    assert ran.status == 1
    assert "while job 1 ran" in ran.stderr
    assert "goes on by itself" in ran.stderr


def test_a_stranger_cannot_end_the_following(fake: FakeDaemon, start: Callable[..., Running]) -> None:
    running = start("sync", "home")
    client = fake.wait_call("GetAll").sender
    fake.outcomes[1]["outcome"] = fake.outcomes[1]["kind"]  # whoever asked now would hear of an end
    fake.forge(client, "JobRemoved", "uoss", 1, names.job_path(1), "home", "done")
    fake.progress(1, "sending", 1, 2)
    assert running.read_line() == "home to seed: starting\n"
    assert running.read_line() == "home to seed: sending\n"
    assert fake.made("GetOutcome") == []
    fake.end_job(1, "done")
    assert running.finish().status == 0


def test_ctrl_c_leaves_the_job_running_and_says_so(fake: FakeDaemon, start: Callable[..., Running]) -> None:
    running = start("sync", "home")
    fake.wait_call("GetAll")
    assert running.read_line() == "home to seed: starting\n"
    running.interrupt()
    ran = running.finish()
    assert ran.status == 130
    assert "job 1 goes on. Follow it: offsitectl monitor home; end it: offsitectl cancel home" in ran.stderr
    assert fake.made("Cancel") == []


def test_cancel_ends_the_job_of_the_vault(fake: FakeDaemon, run: Run) -> None:
    assert run("cancel", "home").status == 0
    assert fake.wait_call("Cancel").path == names.vault_path("home")


def test_restore_opens_the_destination_itself_and_lists_paths_in_a_file(fake: FakeDaemon, run: Run, tmp_path: Path) -> None:
    fake.then["Restore"] = ends(fake, "done", entries=3, bytes=2048)
    ran = run("restore", "home", "etc/fstab", "./srv//x/", "/top", "--to", str(tmp_path / "out"), "--target", "vps")
    assert ran.status == 0
    assert "home: restore from vps done (job 1): 3 entries, 2.0 KiB" in ran.stdout
    call = fake.wait_call("Restore")
    status = os.stat(tmp_path / "out")
    assert call.args[0] == "vps"
    assert call.inodes[0] == (status.st_dev, status.st_ino)
    assert call.contents[1] == b"etc/fstab\0srv/x\0top"


def test_restore_without_paths_is_of_everything(fake: FakeDaemon, run: Run, tmp_path: Path) -> None:
    fake.then["Restore"] = ends(fake, "done")
    assert run("restore", "home", "--to", str(tmp_path)).status == 0
    assert run("restore", "home", "etc", ".", "--to", str(tmp_path)).status == 0
    assert [call.contents[1] for call in fake.made("Restore")] == [b"", b""]


@pytest.mark.parametrize("path", ["../etc", "a/../../b", ""])
def test_restore_refuses_paths_that_leave_the_snapshot(fake: FakeDaemon, run: Run, tmp_path: Path, path: str) -> None:
    assert run("restore", "home", path, "--to", str(tmp_path)).status == 2
    assert fake.made("Restore") == []


def test_restore_into_what_is_no_directory_fails_before_the_daemon_is_asked(fake: FakeDaemon, run: Run, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for to in ("file", "not/there"):
        assert run("restore", "home", "--to", str(tmp_path / to)).status == 1
    assert fake.made("Restore") == []
