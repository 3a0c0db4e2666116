# SPDX-License-Identifier: GPL-3.0-or-later
"""A vault that is unlocked by a credential of this machine, and a key file that is taken back from a target."""

import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from .asking import questions
from .conftest import fresh_disk, fresh_vault
from .daemon import VAULT, Watch, get
from .machine import journal, must, offsitectl, run, shown, write
from .vaults import OnDisk

CREDSTORE = Path("/etc/credstore.encrypted")


@pytest.fixture(scope="module")
def enrolled(canary: str, key: Path) -> Iterator[OnDisk]:
    """A vault that has been enrolled."""
    with fresh_disk() as disk, fresh_vault(canary) as vault:
        home = OnDisk(vault, disk, key)
        assert offsitectl("unlock", "--enroll").status == 2
        before = vault.file.read_text()
        assert offsitectl("unlock", vault.name, "--enroll", "--passphrase-file", "-", stdin="wrong").status == 3
        assert (vault.file.read_text(), _credential(home).exists()) == (before, False)
        ended = offsitectl("unlock", vault.name, "--enroll", "--passphrase-file", "-", stdin=canary)
        assert ended.status == 0, ended.told
        assert "Whoever steals" in ended.stderr
        yield home
        shutil.rmtree(CREDSTORE)


def _credential(home: OnDisk) -> Path:
    return CREDSTORE / f"offsited-{home.vault.name}"


def test_it_unlocks_after_a_boot_and_when_a_job_needs_it(enrolled: OnDisk, canary: str) -> None:
    asker = f"offsited-unlock@{enrolled.vault.name}.service"
    assert get(enrolled.vault.path, VAULT, "PassphraseSource") == "credential"
    assert f'credential = "{_credential(enrolled).name}"' in enrolled.vault.file.read_text()
    assert _credential(enrolled).stat().st_mode & 0o077 == 0
    assert canary.encode() not in _credential(enrolled).read_bytes()
    enrolled.vault.lock()
    with questions(enrolled.vault.name) as asked, Watch() as watch:
        must("systemctl", "start", asker)
        watch.until_changed(enrolled.vault.path, Locked=False)
        must("systemctl", "stop", asker)
        assert (asked.open(), shown(asker, "Result")) == ([], "success")
    enrolled.vault.lock()
    enrolled.vault.synced()
    assert canary not in journal()


def test_it_follows_a_change_of_the_passphrase(enrolled: OnDisk, canary: str, tmp_path: Path) -> None:
    new = f"new-{secrets.token_hex(16)}"
    write(tmp_path / "new", new)
    options = ["--no-sync", "--passphrase-file", "-", "--new-passphrase-file", str(tmp_path / "new")]
    assert offsitectl("change-passphrase", enrolled.vault.name, *options, stdin=canary).status == 0
    enrolled.vault.passphrase = new
    enrolled.vault.lock()
    enrolled.vault.synced()


def test_where_it_fails_a_person_is_asked(enrolled: OnDisk) -> None:
    """Another machine's, say."""
    _credential(enrolled).write_text("bm90IGEgY3JlZGVudGlhbA==\n")
    enrolled.vault.lock()
    refused = enrolled.vault.sync()
    assert refused.status == 3
    assert f"offsitectl unlock {enrolled.vault.name}" in refused.stderr
    with questions(enrolled.vault.name) as asked, Watch() as watch:
        must("systemctl", "start", f"offsited-unlock@{enrolled.vault.name}.service")
        asked.next().answer(enrolled.vault.passphrase)
        watch.until_changed(enrolled.vault.path, Locked=False)
        asked.until_none()
    must("systemctl", "stop", f"offsited-unlock@{enrolled.vault.name}.service")


def test_a_damaged_key_file_is_taken_back_from_a_target(home: OnDisk, canary: str, tmp_path: Path) -> None:
    home.vault.synced()
    key_file = home.vault.directory / "plain" / ".gocryptfs.reverse.conf"
    good = key_file.read_bytes()
    with home.disk.mounted() as top:
        copy = shutil.copy(top / home.vault.name / "current" / "gocryptfs.conf", tmp_path / "copy")
    restore = ["restore-key", home.vault.name, "--from", copy, "--passphrase-file", "-"]
    assert offsitectl(*restore, stdin=canary).status == 2, "there is nothing to restore"

    key_file.chmod(0o600)
    key_file.write_bytes(good[:-20])
    checked = offsitectl("check-config")
    assert checked.status == 7
    assert f"offsitectl restore-key {home.vault.name} --from" in checked.stdout
    assert offsitectl(*restore, stdin="wrong").status == 3
    assert key_file.read_bytes() == good[:-20]
    (tmp_path / "other").mkdir()
    must("gocryptfs", "-q", "-init", "-reverse", "-scryptn", "10", "-passfile", "/dev/stdin", "--", tmp_path / "other", stdin=canary)
    others = ["--from", str(tmp_path / "other" / ".gocryptfs.reverse.conf"), "--passphrase-file", "-"]
    assert offsitectl("restore-key", home.vault.name, *others, stdin=canary).status == 2, "another vault's, of the same passphrase"
    assert key_file.read_bytes() == good[:-20]
    write(tmp_path / "copy", "{}")
    assert offsitectl(*restore, stdin=canary).status == 7
    assert key_file.read_bytes() == good[:-20]
    key_file.unlink()
    (tmp_path / "copy").write_bytes(good)
    restored = offsitectl(*restore, stdin=canary)
    assert restored.status == 0, restored.told
    assert key_file.read_bytes() == good
    assert run("stat", "-c", "%a %U", key_file).stdout == "400 root\n"
    home.vault.synced()
