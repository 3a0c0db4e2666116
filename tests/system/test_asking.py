# SPDX-License-Identifier: GPL-3.0-or-later
"""Asking for the passphrase after a boot: any agent may answer, whoever logs in sees what waits, and nobody is held up."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from .asking import login, questions
from .conftest import fresh_disk, fresh_vault
from .daemon import Watch, main_pid
from .machine import journal, must, offsitectl, run, shown, write
from .vaults import ETC, OnDisk

MOTD = Path("/run/motd.d/offsited")


@pytest.fixture(scope="module")
def home(canary: str, key: Path) -> Iterator[OnDisk]:
    """A vault that each test locks first."""
    with fresh_disk() as disk, fresh_vault(canary) as vault:
        yield OnDisk(vault, disk, key)


def _asker(home: OnDisk) -> str:
    return f"offsited-unlock@{home.vault.name}.service"


def _ended(home: OnDisk) -> None:
    """Wait until the asking unit has ended, and well."""
    must("systemctl", "stop", _asker(home))  # returns when what was going on has ended
    assert shown(_asker(home), "Result") == "success"


def test_a_wrong_answer_asks_again_and_the_right_one_unlocks(home: OnDisk, canary: str) -> None:
    home.vault.lock()
    assert home.vault.name in MOTD.read_text()
    assert "sudo offsitectl unlock" in MOTD.read_text()
    with questions(home.vault.name) as asked, Watch() as watch:
        must("systemctl", "start", _asker(home))  # no answer is waited for: so boot does not wait either
        first = asked.next()
        assert home.vault.name in first.message
        first.answer("wrong " + canary)
        second = asked.next()
        assert second.message.startswith("That was not it")
        assert home.vault.is_locked()
        second.answer("")
        asked.next().answer(canary)
        watch.until_changed(home.vault.path, Locked=False)
        asked.until_none()
    _ended(home)
    assert not MOTD.exists()
    assert canary not in journal()
    home.vault.synced()


def test_whoever_unlocks_it_elsewhere_ends_the_question(home: OnDisk) -> None:
    home.vault.lock()
    with questions(home.vault.name) as asked:
        must("systemctl", "start", _asker(home))
        asked.next()
        assert home.vault.unlock().status == 0
        asked.until_none()
    _ended(home)
    must("systemctl", "start", _asker(home))  # nothing to ask for
    _ended(home)


def test_a_question_outlives_the_daemon(home: OnDisk, canary: str) -> None:
    home.vault.lock()
    with questions(home.vault.name) as asked, Watch() as watch:
        must("systemctl", "start", _asker(home))
        question = asked.next()
        os.kill(main_pid(), signal.SIGKILL)
        watch.until_back()
        assert home.vault.is_locked()
        assert home.vault.name in MOTD.read_text()
        assert question.is_open
        question.answer(canary)
        watch.until_changed(home.vault.path, Locked=False)
    _ended(home)


def test_a_question_that_is_stopped_leaves_nothing(home: OnDisk) -> None:
    home.vault.lock()
    with questions(home.vault.name) as asked:
        must("systemctl", "start", _asker(home))
        asked.next()
        _ended(home)
        assert asked.open() == []
    assert home.vault.is_locked()


def test_a_login_sees_what_waits_and_answers_by_systemds_own_agent(home: OnDisk, canary: str) -> None:
    """By motd what was locked before, by systemd's wall what is asked for meanwhile."""
    home.vault.lock()
    with questions(home.vault.name) as asked, login() as terminal, Watch() as watch:
        terminal.until(f"locked until the passphrase is entered: {home.vault.name}")
        terminal.until("sudo offsitectl unlock")
        terminal.type("echo there")
        terminal.until("\nthere")
        must("systemctl", "start", _asker(home))
        asked.next()
        terminal.until(f"offsitectl unlock {home.vault.name}")
        terminal.type("systemd-tty-ask-password-agent --query")
        terminal.until(f"Passphrase of vault {home.vault.name}")
        terminal.type(canary)
        watch.until_changed(home.vault.path, Locked=False)
        asked.until_none()
        terminal.type("exit")
    _ended(home)


def test_each_vault_is_asked_for_at_boot(home: OnDisk) -> None:
    """Whatever is in vaults.d, as long as it can be a vault; not what an administrator has masked."""
    stray = [ETC / "vaults.d" / name for name in ("No-Vault.toml", "x;y.toml", "some.toml.bak", ".hidden.toml")]
    for path in stray:
        write(path, "")
    try:
        must("systemctl", "daemon-reload")
        wanted = {name for name in shown("multi-user.target", "Wants").split() if name.startswith("offsited-unlock@")}
        assert wanted == {_asker(home)}
        assert "offsited-boot-hint.service" in shown("systemd-user-sessions.service", "Wants").split()
        home.vault.lock()
        told = MOTD.read_text()
        MOTD.unlink()
        must("systemctl", "restart", "offsited-boot-hint.service")
        assert MOTD.read_text() == told, "in the daemon's own words"
        assert run("stat", "-c", "%a", MOTD).stdout == "644\n"
        assert home.vault.unlock().status == 0
        assert not MOTD.exists()
        must("systemctl", "mask", "--runtime", _asker(home))
        assert run("systemctl", "start", _asker(home)).status != 0
    finally:
        must("systemctl", "unmask", "--runtime", _asker(home))
        for path in stray:
            path.unlink()
    home.vault.file.rename(home.vault.file.with_suffix(".away"))
    must("systemctl", "start", _asker(home))
    assert shown(_asker(home), "ConditionResult") == "no"
    home.vault.file.with_suffix(".away").rename(home.vault.file)


def test_a_vault_whose_command_helps_is_not_asked_for(home: OnDisk, canary: str) -> None:
    secret, program = home.vault.root / "passphrase", home.vault.root / "fetch"
    write(secret, canary)
    write(program, f"#!/bin/sh\nexec cat {secret}\n", 0o700)
    text = home.vault.file.read_text()
    home.vault.rewrite(f'passphrase_command = ["{program}"]\n{text}')
    home.vault.lock()
    with questions(home.vault.name) as asked, Watch() as watch:
        must("systemctl", "start", _asker(home))
        watch.until_changed(home.vault.path, Locked=False)
        _ended(home)
        assert asked.open() == []

        secret.unlink()
        home.vault.lock()
        must("systemctl", "start", _asker(home))
        asked.next().answer(canary)
        watch.until_changed(home.vault.path, Locked=False)
    _ended(home)
    home.vault.rewrite(text)
    assert "passphrase command" in journal(f"OFFSITED_VAULT={home.vault.name}", f"_SYSTEMD_UNIT={_asker(home)}")


def test_asking_goes_without_a_file(home: OnDisk) -> None:
    assert offsitectl("unlock", home.vault.name, "--ask-password", "--passphrase-file", "-").status == 2
