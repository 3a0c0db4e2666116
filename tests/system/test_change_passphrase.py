# SPDX-License-Identifier: GPL-3.0-or-later
"""change-passphrase: old and new, here, at each target that can be reached at once, and at the others with their next sync."""

import hashlib
import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest

from .asking import Terminal
from .conftest import MakeDisk, MakeVault, fresh_disk, fresh_vault
from .daemon import TARGET, VAULT, get, target_path
from .disks import Disk
from .machine import Ended, journal, offsitectl, run, write
from .trees import census, differences
from .vaults import BULK, OnDisk, Vault


@pytest.fixture(scope="module")
def home(canary: str, key: Path) -> Iterator[OnDisk]:
    """A vault whose passphrase stays, until the last test here."""
    with fresh_disk() as disk, fresh_vault(canary) as vault:
        yield OnDisk(vault, disk, key)


@pytest.fixture
def new() -> str:
    return f"new-{secrets.token_hex(16)}"


@pytest.fixture
def given(tmp_path: Path, canary: str, new: str) -> Iterator[list[str]]:
    """Options that give both passphrases."""
    write(tmp_path / "old", canary + "\n")
    write(tmp_path / "new", new + "\n")
    yield ["--passphrase-file", str(tmp_path / "old"), "--new-passphrase-file", str(tmp_path / "new")]
    for name in ("old", "new"):
        (tmp_path / name).unlink()


def _key_file(vault: Vault) -> Path:
    return vault.directory / "plain" / ".gocryptfs.reverse.conf"


def _opens(key_file: Path, passphrase: str) -> bool:
    """As gocryptfs's own inspector finds."""
    return run("gocryptfs-xray", "-dumpmasterkey", key_file, stdin=passphrase).status == 0


def _digest_at(disk: Disk, vault: Vault) -> str:
    with disk.mounted() as top:
        return hashlib.sha256((top / vault.name / "current" / "gocryptfs.conf").read_bytes()).hexdigest()


def _state(vault: Vault, target: str) -> str:
    return str(get(target_path(vault.name, target), TARGET, "KeyFile"))


def test_it_reaches_each_target_at_once_or_with_its_next_sync(
    vault: MakeVault, disk: MakeDisk, key: Path, canary: str, new: str, given: list[str], tmp_path: Path
) -> None:
    made, near, far = vault(), disk(), disk()
    first = made.snapshot()
    made.init(f"near=disk:UUID={near.uuid}", f"far=disk:UUID={far.uuid}", key=key)
    made.synced("--all")
    far.detach()
    assert get(made.path, VAULT, "PassphraseChanged") == 0

    changed = offsitectl("change-passphrase", made.name, *given)
    assert changed.status == 0, changed.told
    assert "old copy of the key file" in changed.stderr
    assert "still opened by the old passphrase: far" in changed.stderr
    assert (_opens(_key_file(made), new), _opens(_key_file(made), canary)) == (True, False)
    assert _digest_at(near, made) == hashlib.sha256(_key_file(made).read_bytes()).hexdigest()
    assert (_state(made, "near"), _state(made, "far")) == ("current", "older")
    told = offsitectl("status", made.name).stdout
    assert "still opens with the passphrase used until" in told
    assert f"offsitectl sync {made.name} --target far" in told

    assert made.unlock().status == 3
    made.passphrase = new
    assert made.lock().status == 0
    assert made.unlock().status == 0
    far.attach()
    made.synced("--target", "far")
    assert _state(made, "far") == "current"
    assert "still opens" not in offsitectl("status", made.name).stdout
    assert _digest_at(far, made) == _digest_at(near, made)
    assert differences(census(first), made.restored(tmp_path / "to", target="far")) == []
    assert new not in journal()


def _unchanged(home: OnDisk, canary: str, refused: Ended, status: int) -> None:
    assert refused.status == status, refused.told
    assert _opens(_key_file(home.vault), canary)
    assert [path.name for path in (home.vault.directory / "state").glob("key.*")] == ["key.json"]


def test_without_the_old_one_nothing_changes(home: OnDisk, canary: str, given: list[str]) -> None:
    swapped = ["--passphrase-file", given[3], "--new-passphrase-file", given[1]]
    _unchanged(home, canary, offsitectl("change-passphrase", home.vault.name, *swapped), 3)
    write(Path(given[3]), "two\nlines\n")
    _unchanged(home, canary, offsitectl("change-passphrase", home.vault.name, *given), 1)
    home.vault.synced()


def test_not_while_a_job_sends_the_key_file(home: OnDisk, canary: str, given: list[str]) -> None:
    home.vault.next_snapshot(home.first, bulk=BULK)
    with home.vault.slow_sync() as job:
        _unchanged(home, canary, offsitectl("change-passphrase", home.vault.name, *given), 6)
        assert job.end()["outcome"] == "done"


def test_a_damaged_key_file_is_told_from_a_wrong_passphrase(home: OnDisk, given: list[str]) -> None:
    text = _key_file(home.vault).read_text()
    write(_key_file(home.vault), text.replace('"Creator"', '"creator"'))
    assert offsitectl("change-passphrase", home.vault.name, *given).status == 7
    assert home.vault.unlock().status == 7
    refused = home.vault.sync()
    assert (refused.status, refused.json["reason"]) == (7, "key-file-damaged")
    write(_key_file(home.vault), text)
    home.vault.synced()


def test_typed_on_a_terminal(home: OnDisk, canary: str, new: str) -> None:
    terminal = Terminal("offsitectl", "change-passphrase", home.vault.name, "--no-sync")
    terminal.until("as it is now: ")
    terminal.type(canary)
    terminal.until("New passphrase")
    terminal.type(new)
    terminal.until("The same again: ")
    terminal.type("another")
    terminal.until("differ")
    terminal.until("New passphrase")
    terminal.type(new)
    terminal.until("The same again: ")
    terminal.type(new)
    terminal.until("is changed")
    terminal.until("old copy")
    assert terminal.status() == 0
    terminal.leave()
    assert _opens(_key_file(home.vault), new)
    home.vault.synced()
