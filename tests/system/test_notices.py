# SPDX-License-Identifier: GPL-3.0-or-later
"""Who is told what: by a real mail transfer agent, by pings and Apprise to a web server; and that none of it can harm a job."""

import json
import os
import pwd
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from .daemon import SERVICE, Watch
from .machine import journal, must, offsitectl, processes, run, shown, wait_for_end, write
from .mails import SETTINGS, UNANSWERED, WATCH, Box, Monitor, agent, notify, settle, until
from .vaults import BULK, OnDisk

ALIASES = Path("/etc/aliases")
DAY = 86_400_000_000


@pytest.fixture(autouse=True)
def settings_go() -> Iterator[None]:
    yield
    SETTINGS.unlink(missing_ok=True)


@pytest.fixture
def box(home: OnDisk, user: pwd.struct_passwd) -> Box:
    """Mails of the vault; the user gets them."""
    notify(f'mail = ["{user.pw_name}"]')
    return Box(user.pw_name, home.vault.name)


def spool(home: OnDisk) -> list[Path]:
    """Notices that wait."""
    return sorted(path for path in (home.vault.directory / "state" / "notices").glob("*.json") if path.name != "remembered.json")


def until_tried(home: OnDisk) -> None:
    """Wait until a notice was tried in vain."""
    directory = home.vault.directory / "state" / "notices"
    until(directory.exists, directory.parent)
    until(lambda: any(json.loads(path.read_text())["tries"] for path in spool(home)), directory)


def make_older(home: OnDisk, days: int) -> None:
    """All that is on record of the vault happened so many days earlier."""
    for path in (home.vault.directory / "state" / "jobs").glob("*.json"):
        record = json.loads(path.read_text())
        for key in ("requested", "started", "ended", "snapshot_dated"):
            record[key] -= days * DAY if record[key] else 0
        path.write_text(json.dumps(record))


# --- mail ----------------------------------------------------------------------------------------------------------


def test_mails_of_a_failure_its_repetition_and_its_end(home: OnDisk, box: Box, user: pwd.struct_passwd) -> None:
    home.vault.synced()
    box.nothing_more()
    home.disk.detach()
    assert home.vault.sync().status == 5
    mail = box.next()
    host = os.uname().nodename
    assert mail["Subject"] == f"[{host}] {home.vault.name}: sync to disk FAILED: the target's disk is not there"
    assert (mail["X-Offsited-Event"], mail["Auto-Submitted"]) == ("failed", "auto-generated")
    assert (mail["To"].partition("@")[0], mail.get_content_type()) == (user.pw_name, "text/plain")
    text = mail.get_content()
    assert f"offsitectl sync {home.vault.name} --target disk" in text
    assert re.search(r"disk +holds the snapshot of 2026-01-01", text)
    assert max(map(len, text.splitlines())) <= 78
    assert home.vault.sync().status == 5
    box.nothing_more()
    home.disk.attach()
    home.vault.synced()
    mail = box.next()
    assert mail["Subject"] == f"[{host}] {home.vault.name}: target disk: all is well again"
    assert "the target's disk is not there, since" in mail.get_content().replace("\n                  ", " ")
    box.nothing_more()


def test_success_is_told_with_its_figures_if_wanted(home: OnDisk, box: Box, user: pwd.struct_passwd) -> None:
    notify(f'mail = ["{user.pw_name}"]\non_success = true')
    told = home.vault.synced()
    text = box.next().get_content()
    assert f"{told['sent_entries']} of {told['entries']} entries" in text
    assert re.search(r"Free there +\d", text)
    home.vault.synced()
    assert "Sent            0 of" in box.next().get_content()


@pytest.mark.parametrize("wanted", ["false", "true"])
def test_files_are_named_only_if_wanted(home: OnDisk, box: Box, user: pwd.struct_passwd, wanted: str) -> None:
    notify(f'mail = ["{user.pw_name}"]\nnames_in_mail = {wanted}')
    home.vault.point_at(home.vault.root / "secret-name")
    assert home.vault.sync().json["reason"] == "snapshot-missing"
    assert ("secret-name" in box.next().as_string()) is (wanted == "true")


def test_a_timed_sync_of_a_locked_vault_is_on_record_and_told(home: OnDisk, box: Box) -> None:
    home.vault.lock()
    service = f"offsited-sync@{home.vault.name}.service"
    assert run("systemctl", "start", service).status == 1
    assert shown(service, "ExecMainStatus") == "3"
    must("systemctl", "reset-failed", service)
    mail = box.next()
    assert mail["X-Offsited-Event"] == "locked"
    assert f"offsitectl unlock {home.vault.name}" in mail.get_content()
    (job,) = offsitectl("history", home.vault.name, "--json").json["jobs"]
    assert (job["outcome"], job["reason"]) == ("failed", "locked")
    assert offsitectl("status", home.vault.name, "--json").json["vaults"][0]["last"]["reason"] == "locked"
    home.vault.unlock()
    home.vault.synced()
    assert box.next()["X-Offsited-Event"] == "recovered"


def test_a_person_who_finds_it_locked_needs_no_mail(home: OnDisk, box: Box) -> None:
    home.vault.lock()
    assert home.vault.sync().status == 3
    assert offsitectl("history", home.vault.name, "--json").json["jobs"] == []
    box.nothing_more()


def test_settings_that_cannot_be_used_silence_nobody(home: OnDisk, user: pwd.struct_passwd) -> None:
    aliases = ALIASES.read_text()
    write(ALIASES, f"{aliases}root: {user.pw_name}\n", 0o644)
    box = Box(user.pw_name, home.vault.name)
    write(SETTINGS, "mail = [")
    assert home.vault.sync().status == 7
    assert "the configuration is invalid" in box.next()["Subject"].replace("\n", "")
    write(ALIASES, aliases, 0o644)


def test_a_timed_run_that_meets_its_predecessor_is_skipped_with_one_notice(home: OnDisk, box: Box) -> None:
    """It waits for the one that runs, and ends as that does."""
    home.vault.next_snapshot(home.first, bulk=BULK)
    home.vault.set_target('bandwidth = "100K"')
    with Watch() as watch:
        running = int(home.vault.sync("--timed", "--no-block").json["job"])
        assert int(home.vault.sync("--timed", "--no-block").json["job"]) == running
        assert box.next()["X-Offsited-Event"] == "skipped"
        ended = home.vault.sync("--timed")
        assert (ended.status, ended.json["job"]) == (0, running)
        assert watch.until_removed(home.vault.name) == running
    box.nothing_more()


def test_the_journal_explains_what_happened(home: OnDisk) -> None:
    home.disk.detach()
    assert home.vault.sync().status == 5
    told = must("journalctl", "-x", "-u", SERVICE, f"OFFSITED_VAULT={home.vault.name}", "OFFSITED_OUTCOME=failed", "--quiet")
    assert "failed; the target's disk is not there" in told
    assert f"Subject: Vault {home.vault.name}: a job failed (target-absent)" in told
    assert "Defined-By: offsited" in told
    assert f"offsitectl status {home.vault.name}" in told


# --- an agent that is not well ---------------------------------------------------------------------------------------


def unsent(home: OnDisk) -> tuple[int, str]:
    """What status says of notices that could not be sent."""
    vault = offsitectl("status", home.vault.name, "--json").json["vaults"][0]
    return vault["unsent"], vault["unsent_reason"]


@pytest.mark.parametrize(
    ("script", "reason"), [("echo out of order >&2; exit 75", "mail-failed"), (None, "mail-absent")], ids=["failing", "absent"]
)
def test_an_agent_that_does_not_work_harms_no_job(home: OnDisk, box: Box, user: pwd.struct_passwd, script: str | None, reason: str) -> None:
    notify(f'mail = ["{user.pw_name}"]\non_success = true')
    with agent(script):
        home.vault.synced()
        until_tried(home)
        assert unsent(home) == (1, reason)
        assert "notice" in offsitectl("status", home.vault.name).stdout
        home.vault.synced()
        assert "Traceback" not in journal("-t", "offsited-notify")
        must("systemctl", "start", WATCH)
        assert len(spool(home)) == 2
    for path in spool(home):  # as if the pause were over
        path.write_text(json.dumps(json.loads(path.read_text()) | {"due": 0}))
    settle()
    assert box.next()["X-Offsited-Event"] == box.next()["X-Offsited-Event"] == "success"
    box.nothing_more()
    assert (spool(home), unsent(home)) == ([], (0, ""))


def test_an_agent_that_hangs_harms_no_job(home: OnDisk, box: Box, user: pwd.struct_passwd, tmp_path: Path) -> None:
    notify(f'mail = ["{user.pw_name}"]\non_success = true')
    started = tmp_path / "started"
    with agent(f"echo $$ >{started}.new; mv {started}.new {started}; exec sleep 1000"):
        job = home.vault.synced()["job"]
        until(started.exists, tmp_path)
        running = processes(f"offsited-notify-{home.vault.name}-{job}.service")
        assert set(running.values()) == {"python3", "sleep"}
        for pid in running:
            assert list(Path(f"/proc/{pid}/root", *home.vault.directory.parts[1:], "plain").iterdir()) == [], "the key is out of sight"
        home.vault.synced()
        assert unsent(home) == (0, ""), "it is being tried"
        must("systemctl", "stop", f"offsited-notify-{home.vault.name}-*")
        wait_for_end(int(started.read_text()))
    settle()
    assert box.next()["X-Offsited-Event"] == box.next()["X-Offsited-Event"] == "success"
    box.nothing_more()


# --- the second path -------------------------------------------------------------------------------------------------


def test_a_week_without_the_daemon_is_told(home: OnDisk, box: Box, user: pwd.struct_passwd, daemon_returns: None) -> None:
    """The daemon is masked, and a week goes by."""
    notify(f'mail = ["{user.pw_name}"]', stale_after="36h")
    home.vault.next_snapshot(home.first, f"{datetime.now(UTC):%Y-%m-%d}")
    home.vault.synced()
    box.nothing_more()
    must("systemctl", "mask", "--runtime", "--now", SERVICE)
    make_older(home, 7)
    must("systemctl", "start", WATCH)
    mail = box.next()
    assert mail["X-Offsited-Event"] == "stale"
    assert "was not confirmed to hold a snapshot for too long" in mail["Subject"]
    assert "(7 d ago)" in mail.get_content()
    box.nothing_more()
    assert must("journalctl", "-t", "offsited-notify", f"OFFSITED_VAULT={home.vault.name}", "OFFSITED_REASON=unconfirmed", "--quiet")
    must("systemctl", "unmask", "--runtime", SERVICE)
    must("systemctl", "start", SERVICE)
    assert offsitectl("status", home.vault.name, "--json").json["vaults"][0]["targets"][0]["stale"]
    home.vault.unlock()  # systemd keeps nothing for a unit that is masked
    home.vault.synced()
    assert box.next()["X-Offsited-Event"] == "recovered"


@pytest.fixture
def daemon_returns() -> Iterator[None]:
    """Whatever happens, it is there afterwards."""
    yield
    must("systemctl", "unmask", "--runtime", SERVICE)
    must("systemctl", "start", SERVICE)


def test_the_watch_is_enabled_and_runs_without_a_vault() -> None:
    assert must("systemctl", "is-enabled", "offsited-watch.timer").strip() == "enabled"
    assert shown("offsited-watch.timer", "ActiveState") == "active"
    must("systemctl", "start", WATCH)
    assert shown(WATCH, "Result") == "success"


# --- pings, Apprise, Prometheus, the test ------------------------------------------------------------------------------


def test_pings(home: OnDisk) -> None:
    with Monitor() as monitor:
        notify(f'ping = "http://{monitor.address}/ping/{{vault}}?rid=1"')
        home.vault.next_snapshot(home.first, bulk=BULK)
        with home.vault.slow_sync() as job:  # of a job that has ended no start is told
            assert monitor.next().path == f"/ping/{home.vault.name}/start?rid=1"
            assert job.end()["outcome"] == "done"
        assert monitor.next().path == f"/ping/{home.vault.name}?rid=1"
        assert offsitectl("diff", home.vault.name).status == 0
        home.disk.detach()
        assert home.vault.sync().status == 5
        failed = monitor.next()
        if failed.path == f"/ping/{home.vault.name}/start?rid=1":  # not told of a job that had ended when it was to be told
            failed = monitor.next()
        assert failed.path == f"/ping/{home.vault.name}/fail?rid=1", "a dry run is no sign of life, and gives none"
        assert "the target's disk is not there" in failed.body
        home.disk.attach()


def test_a_monitor_that_refuses_is_tried_again(home: OnDisk) -> None:
    with Monitor() as monitor:
        monitor.status = 503
        notify(f'ping = "http://{monitor.address}/x"')
        home.vault.synced()
        until_tried(home)
        assert unsent(home) == (1, "ping-refused")
        (path,) = spool(home)
        path.write_text(json.dumps(json.loads(path.read_text()) | {"due": 0}))
        monitor.status = 200
        must("systemctl", "start", WATCH)
        assert unsent(home) == (0, "")


def test_apprise(home: OnDisk) -> None:
    with Monitor() as monitor:
        notify(f'apprise = ["json://{monitor.address}/hook"]')
        home.vault.point_at(home.vault.root / "nowhere")
        assert home.vault.sync().status == 1
        request = monitor.next()
        assert request.path == "/hook"
        told = json.loads(request.body)
        assert "FAILED: there is no snapshot where the source says" in told["title"]
        assert home.vault.name in told["message"]


def test_notify_test_tries_each_way(user: pwd.struct_passwd) -> None:
    box = Box(user.pw_name, "test")
    with Monitor() as monitor:
        notify(f'mail = ["{user.pw_name}"]\nping = "http://{monitor.address}/p"\napprise = ["json://{monitor.address}/a"]')
        ended = offsitectl("notify-test")
        assert ended.status == 0, ended.told
        assert ended.stdout.count(": sent\n") == 4
        assert [monitor.next().path for _ in range(3)] == ["/p/start", "/p", "/a"]
        assert "Notices arrive." in box.next().get_content()
        monitor.status = 500
        with agent("exit 1"):
            ended = offsitectl("notify-test", "--json")
        assert ended.status == 1
        assert [way["error"] for way in ended.json["ways"]] == ["mail-failed", "ping-refused", "ping-refused", "apprise-failed"]


def test_notify_test_is_roots(user: pwd.struct_passwd) -> None:
    assert offsitectl("notify-test", user=user.pw_name).status == 9


def test_metrics(home: OnDisk, tmp_path: Path) -> None:
    path = tmp_path / "offsited.prom"
    notify(f'prometheus = "{path}"')
    home.vault.synced()
    until(path.exists, tmp_path)
    target = f'vault="{home.vault.name}",target="disk"'
    text = path.read_text()
    assert f'offsited_sync_outcome{{{target},outcome="done"}} 1\n' in text
    confirmed = re.search(rf"^offsited_target_confirmed_timestamp_seconds\{{{target}\}} ([0-9.e+]+)$", text, re.MULTILINE)
    assert confirmed
    assert abs(float(confirmed[1]) - os.stat(path).st_mtime) < 60
    assert path.stat().st_mode & 0o777 == 0o644
    make_older(home, 7)
    notify(f'prometheus = "{path}"', stale_after="36h")
    must("systemctl", "start", WATCH)
    assert f"offsited_target_stale{{{target}}} 1\n" in path.read_text()


# --- after a boot --------------------------------------------------------------------------------------------------


def test_a_boot_that_nobody_answers_is_one_notice_and_the_next_sync_is_none(home: OnDisk, box: Box) -> None:
    """What the timer starts ten minutes after a boot."""
    home.vault.synced()
    must("systemctl", "start", UNANSWERED)
    box.nothing_more()
    home.vault.lock()
    must("systemctl", "stop", SERVICE)  # it is not needed for this
    must("systemctl", "start", UNANSWERED)
    mail = box.next()
    assert mail["X-Offsited-Event"] == "locked"
    assert f"sudo offsitectl unlock {home.vault.name}" in mail.get_content()
    must("systemctl", "start", UNANSWERED, SERVICE)
    assert run("systemctl", "start", f"offsited-sync@{home.vault.name}.service").status == 1
    must("systemctl", "reset-failed", f"offsited-sync@{home.vault.name}.service")
    box.nothing_more()
    home.vault.unlock()
    home.vault.synced()
    assert box.next()["X-Offsited-Event"] == "recovered"
    box.nothing_more()


def test_a_vault_that_is_unlocked_after_such_a_notice_is_well(home: OnDisk, box: Box) -> None:
    home.vault.synced()
    home.vault.lock()
    must("systemctl", "start", UNANSWERED)
    assert box.next()["X-Offsited-Event"] == "locked"
    home.vault.unlock()
    must("systemctl", "start", WATCH)
    mail = box.next()
    assert mail["X-Offsited-Event"] == "recovered"
    assert "nobody has entered the passphrase since" in re.sub(r"\s+", " ", mail.get_content())
    box.nothing_more()


# --- arrays --------------------------------------------------------------------------------------------------------


def test_the_watch_sees_where_a_file_system_is_but_no_disk(home: OnDisk) -> None:
    settings = [word for setting in ("PrivateDevices", "BindReadOnlyPaths") for word in ("-p", f"{setting}={shown(WATCH, setting)}")]
    link = must("systemd-run", "--quiet", "--wait", "--pipe", *settings, "readlink", f"/dev/disk/by-uuid/{home.disk.uuid}").strip()
    assert f"/dev/{Path(link).name}" == home.disk.device
    assert run("systemd-run", "--quiet", "--wait", "--pipe", *settings, "test", "-e", home.disk.device).status == 1
