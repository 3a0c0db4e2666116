# SPDX-License-Identifier: GPL-3.0-or-later
"""The units of the package: syncs started by hand, by timer, by a new snapshot; and what systemd thinks of them."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from .daemon import SERVICE, TARGET, Watch, get, outcome, target_path
from .machine import must, offsitectl, run, shown, write
from .vaults import BULK, OnDisk

UNITS = Path("/usr/lib/systemd/system")


def test_systemd_finds_no_fault_with_the_units(home: OnDisk) -> None:
    names = sorted(path.name.replace("@.", f"@{home.vault.name}.") for path in UNITS.glob("offsited*"))
    assert {f"offsited-sync@{home.vault.name}.{kind}" for kind in ("service", "timer", "path")} <= set(names)
    checked = run("systemd-analyze", "verify", "--man=no", *names)
    assert (checked.status, [line for line in checked.stderr.splitlines() if "offsited" in line]) == (0, [])


@pytest.mark.parametrize("unit", [SERVICE, "offsited-sync@{vault}.service"])
def test_exposure_is_below_two(home: OnDisk, unit: str) -> None:
    checked = run("systemd-analyze", "security", "--no-pager", "--threshold=20", unit.format(vault=home.vault.name))
    assert checked.status == 0, checked.stdout.splitlines()[-1]


def test_the_daemon_is_enabled() -> None:
    """Else systemd would drop the passphrases when it stops."""
    assert must("systemctl", "is-enabled", SERVICE).strip() == "enabled"


def test_jobs_run_in_their_slice_with_their_fields(home: OnDisk) -> None:
    home.vault.next_snapshot(home.first, bulk=BULK)
    with home.vault.slow_sync() as job:
        assert shown(job.unit, "Slice") == "offsited.slice"
        assert shown(job.unit, "StatusText").startswith("sending: ")
        assert job.end()["outcome"] == "done"
    assert must("journalctl", f"OFFSITED_VAULT={home.vault.name}", f"OFFSITED_JOB={job.number}", "--quiet").strip()


def test_started_by_hand(home: OnDisk) -> None:
    service = f"offsited-sync@{home.vault.name}.service"
    must("systemctl", "start", service)
    assert (shown(service, "Result"), shown(service, "ExecMainStatus")) == ("success", "0")
    assert get(target_path(home.vault.name, "disk"), TARGET, "LastOutcome") == "done"
    assert f"OFFSITED_VAULT={home.vault.name}" in must("journalctl", "-u", service, "--output=export", "--quiet")


def test_a_failed_sync_is_a_failed_service(home: OnDisk) -> None:
    service = f"offsited-sync@{home.vault.name}.service"
    home.disk.detach()
    assert run("systemctl", "start", service).status == 1
    assert (shown(service, "Result"), shown(service, "ExecMainStatus")) == ("exit-code", "5")
    must("systemctl", "reset-failed", service)


def test_a_busy_vault_is_asked_again_later(home: OnDisk) -> None:
    service = f"offsited-sync@{home.vault.name}.service"
    home.vault.next_snapshot(home.first, bulk=BULK)
    with home.vault.slow_sync() as job:
        run("systemctl", "start", service)
        assert (shown(service, "ExecMainStatus"), shown(service, "SubState")) == ("6", "auto-restart")
        must("systemctl", "stop", service)
        assert offsitectl("cancel", home.vault.name).status == 0
        job.end()


@pytest.fixture
def soon(home: OnDisk) -> Iterator[str]:
    """The vault's timer, as an administrator would change it, to fire at once."""
    timer = f"offsited-sync@{home.vault.name}.timer"
    settings = "[Timer]\nOnCalendar=\nOnActiveSec=0\nRandomizedDelaySec=0\nPersistent=no\n"
    write(Path(f"/etc/systemd/system/{timer}.d/soon.conf"), settings, 0o644)
    must("systemctl", "daemon-reload")
    yield timer
    must("systemctl", "stop", timer)


def test_started_by_the_timer(home: OnDisk, soon: str) -> None:
    with Watch() as watch:
        must("systemctl", "start", soon)
        job = watch.until_removed(home.vault.name)
    assert outcome(job)["outcome"] == "done"


def test_status_tells_when_the_timer_fires(home: OnDisk) -> None:
    timer = f"offsited-sync@{home.vault.name}.timer"
    assert offsitectl("status", home.vault.name, "--json").json["vaults"][0]["next_run"] is None
    must("systemctl", "start", timer)
    told = offsitectl("status", home.vault.name, "--json").json["vaults"][0]["next_run"]
    must("systemctl", "stop", timer)
    assert told > 0


def test_started_by_a_new_snapshot(home: OnDisk) -> None:
    """`init` wrote the drop-in that names lastdst; each way in which tools write it is noticed."""
    path = f"offsited-sync@{home.vault.name}.path"
    service = f"offsited-sync@{home.vault.name}.service"
    home.vault.synced()
    must("systemctl", "start", path)
    second = home.vault.root / "2026-01-02"
    third = home.vault.root / "2026-01-03"
    for snapshot, how in ((second, "renamed"), (third, "rewritten")):
        must("cp", "-al", home.first, snapshot)
        with Watch() as watch:
            if how == "renamed":
                home.vault.point_at(snapshot)
            else:
                home.vault.lastdst.write_text(f"{snapshot}\n")
            job = watch.until_removed(home.vault.name)
        assert (outcome(job)["outcome"], outcome(job)["snapshot_dated"] > 0) == ("done", True)
        must("systemctl", "--wait", "is-active", "--quiet", path)
        run("systemctl", "stop", service)  # it ends by itself, and must have: the path unit looks again only then
    must("systemctl", "stop", path)
