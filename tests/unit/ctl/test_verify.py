# SPDX-License-Identifier: GPL-3.0-or-later
"""verify and restore-test as a person meets them: what is asked of the daemon, what is named, the exit status."""

import json

import pytest

from .conftest import Run
from .fake import FakeDaemon
from .test_jobs import ends


def test_what_is_found_is_named_and_nothing_in_a_name_is_obeyed(fake: FakeDaemon, run: Run) -> None:
    fake.then["Verify"] = ends(fake, "partial", "verified-different", entries=9, bytes=2048, differences=2)
    ran = run("verify", "home", "--target", "vps", "--level", "data")
    assert ran.status == 8
    assert "home: verify of vps partial (job 1): 9 entries, 2.0 KiB, 2 differences" in ran.stdout
    assert "a/b\\x1b[31m: content: 3 bytes instead of 4\noffsited: commit.json: commit\n" in ran.stdout
    assert "offsitectl verify home --target vps --repair" in ran.stderr
    assert fake.made("Sync") == []


def test_as_json_each_is_an_object(fake: FakeDaemon, run: Run) -> None:
    fake.then["Verify"] = ends(fake, "partial", "verified-different")
    end, first, second = map(json.loads, run("verify", "home", "--json").stdout.splitlines())
    assert (end["kind"], end["exit_status"]) == ("verify", 8)
    assert first == {"path": "a/b\x1b[31m", "what": "content", "detail": "3 bytes instead of 4", "own": False}
    assert second["own"] is True


@pytest.mark.parametrize(
    ("arguments", "options"),
    [
        ((), {"level": "metadata"}),
        (("--level", "commit"), {"level": "commit"}),
        (("--sample", "5"), {"level": "data", "sample": 5}),
        (("--repair",), {"level": "metadata", "repair": True}),
        (("--timed",), {"timed": True}),
    ],
)
def test_what_is_asked_for(fake: FakeDaemon, run: Run, arguments: tuple[str, ...], options: dict[str, object]) -> None:
    fake.then["Verify"] = ends(fake, "done")
    assert run("verify", "home", *arguments).status == 0
    assert fake.wait_call("Verify").args[2] == options


def test_what_a_timer_asks_for_names_nothing(fake: FakeDaemon, run: Run) -> None:
    fake.then["Verify"] = ends(fake, "partial", "verified-different")
    ran = run("verify", "home", "--timed")
    assert ran.status == 8
    assert "a/b" not in ran.stdout + ran.stderr


@pytest.mark.parametrize(("found", "synced"), [(("partial", "verified-different"), 1), (("done", ""), 0), (("failed", "target-absent"), 0)])
def test_a_repair_is_a_sync_if_there_is_something_to_repair(fake: FakeDaemon, run: Run, found: tuple[str, str], synced: int) -> None:
    fake.then["Verify"] = ends(fake, *found)
    fake.then["Sync"] = ends(fake, "done")
    status = run("verify", "home", "--target", "vps", "--repair").status
    assert [call.args[0] for call in fake.made("Sync")] == ["vps"] * synced
    assert status == (5 if found[1] == "target-absent" else 0)


def test_a_sample_is_of_data(fake: FakeDaemon, run: Run) -> None:
    assert run("verify", "home", "--sample", "5", "--level", "commit").status == 2
    assert fake.made("Verify") == []


def test_a_restore_for_proof(fake: FakeDaemon, run: Run) -> None:
    fake.then["RestoreTest"] = ends(fake, "done", entries=220, bytes=1024)
    ran = run("restore-test", "home")
    assert ran.status == 0
    assert "home: restore-test from seed done (job 1): 220 entries, 1.0 KiB" in ran.stdout
