# SPDX-License-Identifier: GPL-3.0-or-later
"""The daemon's own life: reload, activation, watchdog, stop and restart, and where the passphrase is meanwhile."""

import json
import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from .conftest import fresh_vault
from .daemon import MANAGER, NAME, ROOT, SERVICE, TARGET, VAULT, Watch, get, main_pid, objects, target_path
from .machine import journal, must, offsitectl, run, shown, write
from .mails import until
from .vaults import BULK, OnDisk

LOGIND = "org.freedesktop.login1.Manager"
INHIBITORS = Path("/run/systemd/inhibit")
DROP_IN = Path(f"/run/systemd/system/{SERVICE}.d/test.conf")


def _stored() -> int:
    """Passphrases in systemd's keeping."""
    return int(shown(SERVICE, "NFileDescriptorStore"))


def test_reload_reads_what_has_changed(home: OnDisk) -> None:
    pid = main_pid()
    assert get(target_path(home.vault.name, "disk"), TARGET, "Default")
    second = '[[target]]\nname = "two"\nkind = "disk"\nlabel = "TWO"\ndirectory = "x"\ndefault = true\n'
    home.vault.rewrite(home.vault.file.read_text() + second)
    assert target_path(home.vault.name, "two") in objects()
    assert get(home.vault.path, VAULT, "DefaultTarget") == "two"
    assert main_pid() == pid
    assert not home.vault.is_locked()


@pytest.mark.parametrize("way", ["SIGHUP", "Reload"])
def test_a_broken_vault_file_takes_its_vault_away_and_no_other(home: OnDisk, way: str, vault_beside: OnDisk) -> None:
    text = home.vault.file.read_text()
    write(home.vault.file, "this is no TOML [")
    with Watch() as watch:
        if way == "SIGHUP":
            os.kill(main_pid(), signal.SIGHUP)
        else:
            must("busctl", "call", NAME, ROOT, MANAGER, "Reload", "a{sv}", "0")
        watch.until_changed(ROOT, InvalidVaults=[home.vault.name])
    assert home.vault.path not in objects()
    told = offsitectl("check-config")
    assert told.status == 7
    assert str(home.vault.file) in told.stdout
    assert home.vault.name in offsitectl("status").told
    assert home.vault.name in journal("-u", SERVICE, f"OFFSITED_VAULT={home.vault.name}")
    vault_beside.vault.synced()

    home.vault.rewrite(text)
    assert get(ROOT, MANAGER, "InvalidVaults") == []
    assert not home.vault.is_locked()
    home.vault.synced()


@pytest.fixture
def vault_beside(home: OnDisk) -> Iterator[OnDisk]:
    """Another vault on the same disk."""
    with fresh_vault(home.vault.passphrase) as vault:
        yield OnDisk(vault, home.disk, home.key)


def test_a_job_ends_although_its_vault_was_deleted(home: OnDisk) -> None:
    """By hand, while it sends: its end cannot be recorded, and whoever waits for it must hear of it all the same."""
    home.vault.next_snapshot(home.first, bulk=BULK)
    with home.vault.slow_sync() as job:
        shutil.rmtree(home.vault.directory)
        must("systemctl", "kill", "--signal=KILL", job.unit)
        assert job.watch.until_removed(home.vault.name) == job.number
        assert job.path not in objects()


def test_a_running_job_keeps_what_it_started_with(home: OnDisk) -> None:
    """Its vault file is broken, and then gone, while it sends."""
    home.vault.next_snapshot(home.first, bulk=BULK)
    with home.vault.slow_sync() as job:
        text = home.vault.file.read_text()
        home.vault.rewrite("this is no TOML [")
        home.vault.file.unlink()
        must("systemctl", "reload", SERVICE)
        assert job.path in objects()
        home.vault.rewrite(text)
        assert job.end()["outcome"] == "done"
        assert get(home.vault.path, VAULT, "LastOutcome") == "done"


def test_the_bus_starts_it(home: OnDisk) -> None:
    must("systemctl", "stop", SERVICE)
    assert main_pid() == 0
    assert home.vault.name in offsitectl("list").stdout.split()
    assert main_pid() != 0


def test_stop_is_clean_and_keeps_the_passphrase(home: OnDisk) -> None:
    must("systemctl", "stop", SERVICE)
    assert (shown(SERVICE, "Result"), shown(SERVICE, "ExecMainStatus"), shown(SERVICE, "ActiveState")) == ("success", "0", "inactive")
    must("systemctl", "start", SERVICE)
    assert not home.vault.is_locked()
    home.vault.synced()


def test_restart_keeps_vaults_unlocked_and_lock_drops_the_passphrase(home: OnDisk) -> None:
    stored = _stored()
    must("systemctl", "restart", SERVICE)
    assert (home.vault.is_locked(), _stored()) == (False, stored)
    assert home.vault.lock().status == 0
    assert (home.vault.is_locked(), _stored()) == (True, stored - 1)
    must("systemctl", "restart", SERVICE)
    assert (home.vault.is_locked(), _stored()) == (True, stored - 1)
    assert home.vault.sync().status == 3
    assert home.vault.unlock().status == 0
    assert home.vault.unlock().status == 0
    assert _stored() == stored
    home.vault.synced()


def test_a_vault_that_goes_takes_its_passphrase_along(home: OnDisk) -> None:
    """Nobody could lock it any more."""
    stored = _stored()
    home.vault.file.unlink()
    must("systemctl", "reload", SERVICE)
    assert _stored() == stored - 1


def test_being_killed_again_and_again_does_not_keep_it_down(home: OnDisk) -> None:
    """More often than systemd's default start limit allows."""
    for _ in range(7):
        with Watch() as watch:
            os.kill(main_pid(), signal.SIGKILL)
            watch.until_gone()
            assert home.vault.name in offsitectl("list").stdout.split()
    assert not home.vault.is_locked()


@pytest.fixture
def short_watchdog() -> Iterator[None]:
    assert shown(SERVICE, "WatchdogUSec") == "1min"
    write(DROP_IN, "[Service]\nWatchdogSec=2s\nTimeoutAbortSec=1s\n", 0o644)
    must("systemctl", "daemon-reload")
    must("systemctl", "restart", SERVICE)
    yield
    DROP_IN.unlink()
    DROP_IN.parent.rmdir()
    must("systemctl", "daemon-reload")
    must("systemctl", "restart", SERVICE)


def test_a_daemon_that_hangs_is_started_again(home: OnDisk, short_watchdog: None) -> None:
    """It is stopped in its tracks; systemd misses the sign of life, and the next one has everything."""
    with Watch() as watch:
        os.kill(main_pid(), signal.SIGSTOP)
        watch.until_back()
    assert not home.vault.is_locked()
    home.vault.synced()


def test_it_feeds_the_watchdog(home: OnDisk, short_watchdog: None) -> None:
    """Across three intervals, by a sync that lasts as long, it is not restarted."""
    pid = main_pid()
    home.vault.next_snapshot(home.first, bulk=2 * BULK)
    with home.vault.slow_sync() as job:
        assert job.end()["outcome"] == "done"
    assert main_pid() == pid


def _inhibitors(vault: str) -> list[str]:
    """What keeps the machine awake for a vault: what is inhibited, and how."""
    listed = must("busctl", "call", "--json=short", "org.freedesktop.login1", "/org/freedesktop/login1", LOGIND, "ListInhibitors")
    found = json.loads(listed)["data"][0]
    return sorted(f"{what} {mode}" for what, who, why, mode, _uid, _pid in found if who == "offsited" and vault in why)


def test_the_machine_is_kept_awake_while_a_job_runs_and_no_longer(home: OnDisk) -> None:
    """Across a crash of the daemon, too; the job must outlive its coming back."""
    home.vault.next_snapshot(home.first, bulk=3 * BULK)
    awake = ["shutdown delay", "sleep block"]
    with home.vault.slow_sync() as job:
        until(lambda: _inhibitors(home.vault.name) == awake, INHIBITORS)
        with Watch() as watch:
            os.kill(main_pid(), signal.SIGKILL)
            watch.until_back()
        until(lambda: _inhibitors(home.vault.name) == awake, INHIBITORS)
        assert job.end()["outcome"] == "done"
    until(lambda: _inhibitors(home.vault.name) == [], INHIBITORS)


# --- passphrase_command --------------------------------------------------------------------------------------------


def _command(home: OnDisk, script: str) -> None:
    program = home.vault.root / "ask"
    write(program, f"#!/bin/sh\n{script}\n", 0o700)
    home.vault.rewrite(f'passphrase_command = ["{program}"]\n{home.vault.file.read_text()}')


def test_passphrase_command_unlocks_when_a_job_needs_it(home: OnDisk) -> None:
    secret = home.vault.root / "passphrase"
    write(secret, home.vault.passphrase + "\n")
    home.vault.lock()
    _command(home, f"exec cat {secret}")
    assert home.vault.is_locked()
    home.vault.synced()
    assert not home.vault.is_locked()
    home.vault.lock()
    assert offsitectl("unlock", home.vault.name).status == 0
    assert not home.vault.is_locked()
    secret.unlink()


@pytest.mark.parametrize("script", ["exit 1", "exit 0", "echo wrong", "exec head -c 10000 /dev/zero", "kill -9 $$"])
def test_passphrase_command_that_does_not_help(home: OnDisk, script: str) -> None:
    home.vault.lock()
    _command(home, script)
    ended = home.vault.sync()
    assert ended.status == 3, ended.told
    assert home.vault.name in ended.stderr
    assert home.vault.is_locked()
    assert run("systemctl", "is-failed", f"offsited-ask-{home.vault.name}.service").stdout.strip() != "failed"
