# SPDX-License-Identifier: GPL-3.0-or-later
"""Boots: one that is answered once, at the console, and one that nobody answers."""

import re

from .guest import Guest
from .homes import NAME, SYNC, Home

TIMER = f"offsited-sync@{NAME}.timer"
HINT = f"offsited: locked until the passphrase is entered: {NAME}. Type: sudo offsitectl unlock"
ASKER = f"offsited-unlock@{NAME}.service"
UNANSWERED = "offsited-unanswered"


def test_a_boot_is_answered_once_at_the_console_and_one_that_is_not_is_told_once(guest: Guest) -> None:
    guest.boot("2030-03-01T12:00:00")
    assert guest.failed_units() == []
    home = _home(guest)
    home.synced()
    guest.write(f"/etc/systemd/system/{TIMER}.d/at-once.conf", "[Timer]\nRandomizedDelaySec=0\n")
    guest.must("systemctl", "daemon-reload")
    guest.must("systemctl", "enable", "--now", TIMER)

    guest.restart()
    assert guest.failed_units() == []
    assert HINT in guest.console.log_in()
    guest.console.type("offsitectl unlock")
    guest.console.until("Passphrase of vault home: ")
    guest.console.type(home.passphrase)
    guest.console.until(f"{NAME}: unlocked")
    guest.until_logged("Deactivated successfully", "-u", ASKER)
    home.snapshot("2026-01-02", two="second")
    guest.must("date", "--set", "2030-03-02T00:00:10")  # the timer is due at midnight
    guest.until_logged("Finished\\|Failed with result", "-u", SYNC)
    last = home.jobs()[0]
    assert (last["outcome"], last["kind"], last["snapshot_dated"] // 86_400_000_000) == ("done", "sync", 20_455)
    assert home.told() == []
    guest.write(f"/etc/systemd/system/{UNANSWERED}.timer.d/sooner.conf", "[Timer]\nOnBootSec=\nOnBootSec=3min\n")
    guest.shut_down()

    guest.boot("2030-03-05T12:00:00")
    _not_held_up(guest)
    guest.until_logged("Failed with result", "-u", SYNC)
    guest.until_logged("Deactivated successfully", "-u", UNANSWERED)
    assert guest.failed_units() == [SYNC]
    last = home.jobs()[0]
    assert (last["outcome"], last["reason"]) == ("failed", "locked")
    assert home.told() == ["locked"]
    guest.must("systemctl", "start", f"{UNANSWERED}.service")
    assert home.told() == ["locked"]


def _home(guest: Guest) -> Home:
    guest.must("mkfs.xfs", "-q", "-L", "OFFSITE", guest.plug("disk"))
    guest.must("udevadm", "wait", "--settle", "/dev/disk/by-label/OFFSITE")
    return Home(guest, "disk=disk:LABEL=OFFSITE")


def _not_held_up(guest: Guest) -> None:
    """The boot has ended, and the question is still open; nothing of ours was waited for but the daemon's own start, and the hint."""
    assert guest.run("systemctl", "is-active", ASKER).stdout.strip() == "active"
    assert "Startup finished" in guest.must("systemd-analyze", "time")  # it says so only then
    chains = guest.must("systemd-analyze", "critical-chain", "graphical.target", "getty.target", "systemd-user-sessions.service")
    assert set(re.findall(r"offsited[^ ]*", chains)) <= {"offsited.service", "offsited-boot-hint.service"}, chains
    print(chains, guest.must("systemd-analyze", "blame"))
