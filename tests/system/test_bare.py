# SPDX-License-Identifier: GPL-3.0-or-later
"""A bare machine: nothing of the vault is left but its targets, and the passphrase or the master key."""

import os
import shutil
from pathlib import Path

import pytest

from .conftest import MakeDisk, MakeVault
from .machine import must, offsitectl, write
from .remote import Remote
from .trees import Tree, census, differences, plant
from .vaults import ETC, OnDisk, Vault


def forget(vault: Vault) -> None:
    """Fire, theft, or a new disk."""
    for path in (vault.file, vault.identity, vault.identity.with_suffix(".pub")):
        path.unlink(missing_ok=True)
    shutil.rmtree(vault.directory)
    must("systemctl", "reload", "offsited.service")


def restored(spec: str, to: Path, *arguments: str | Path, stdin: str) -> Tree:
    ended = offsitectl("restore", "--from", spec, "--to", to, *arguments, stdin=stdin)
    assert ended.status == 0, ended.told
    return census(to)


def test_everything_comes_back_from_a_disk_by_the_passphrase_or_the_master_key(home: OnDisk, tmp_path: Path) -> None:
    vault = home.vault
    plant(home.first / "tree")
    vault.sync()
    master_key = must("gocryptfs-xray", "-dumpmasterkey", vault.directory / "plain/.gocryptfs.reverse.conf", stdin=vault.passphrase)
    wanted = census(home.first)
    forget(vault)
    spec = f"disk:UUID={home.disk.uuid}/{vault.name}"
    assert differences(restored(spec, tmp_path / "a", "--passphrase-file", "-", stdin=vault.passphrase), wanted) == []
    grouped = "-".join(master_key.strip()[start : start + 8] for start in range(0, 64, 8))
    assert differences(restored(spec, tmp_path / "b", "--master-key", "-", stdin=grouped), wanted) == []
    part = restored(spec, tmp_path / "c", "one", "tree/links", "--passphrase-file", "-", stdin=vault.passphrase)
    assert {path.partition(b"/")[0] for path in part if path} == {b"one", b"tree"}
    assert not list(Path("/run").glob("offsited-bare-*"))


def test_what_cannot_be_is_told(home: OnDisk, tmp_path: Path) -> None:
    home.vault.synced()
    spec = f"disk:UUID={home.disk.uuid}/{home.vault.name}"
    with_passphrase = ("--to", tmp_path / "a", "--passphrase-file", "-")
    for given, key, status in (
        (spec, "wrong", 3),
        (f"disk:UUID={home.disk.uuid}/elsewhere", home.vault.passphrase, 1),
        (f"disk:UUID={home.disk.uuid}", home.vault.passphrase, 2),
        ("disk:LABEL=nowhere/home", home.vault.passphrase, 5),
    ):
        ended = offsitectl("restore", "--from", given, *with_passphrase, stdin=key)
        assert ended.status == status, (given, ended.told)
        assert list(tmp_path.glob("a/*")) == []
    assert offsitectl("restore", "--from", spec, "--to", tmp_path / "b", "--master-key", "-", stdin="0" * 64).status != 0
    assert os.listdir(tmp_path / "b") == []


def test_everything_comes_back_over_ssh(vault: MakeVault, remote: Remote, key: Path, tmp_path: Path) -> None:
    made = vault()
    snapshot = made.snapshot()
    plant(snapshot / "tree")
    remote.let_in(str(made.init(f"vps={remote.spec}", key=key).json["authorized_keys"]))
    made.sync()
    identity = tmp_path / "identity"
    shutil.copy(made.identity, identity)
    forget(made)
    known = (ETC / "known_hosts").read_text()
    (ETC / "known_hosts").unlink()
    unknown = offsitectl(
        "restore", "--from", remote.spec, "--to", tmp_path / "b", "--identity", identity, "--passphrase-file", "-", stdin="x"
    )
    assert (unknown.status, "/root/.ssh/known_hosts" in unknown.told) == (5, True)
    write(ETC / "known_hosts", known)
    found = restored(remote.spec, tmp_path / "a", "--identity", identity, "--passphrase-file", "-", stdin=made.passphrase)
    assert differences(found, census(snapshot)) == []


@pytest.mark.parametrize("place", ["disk", "ssh"])
def test_an_attached_vault_sends_nothing_again(
    place: str, vault: MakeVault, disk: MakeDisk, remote: Remote, key: Path, tmp_path: Path
) -> None:
    made = vault()
    snapshot = made.snapshot()
    plant(snapshot / "tree")
    spec = remote.spec if place == "ssh" else f"disk:UUID={disk().uuid}"
    line = made.init(f"there={spec}", key=key).json["authorized_keys"]
    if place == "ssh":
        remote.let_in(str(line))
    made.sync()
    identity = tmp_path / "identity"
    if place == "ssh":
        shutil.copy(made.identity, identity)
    forget(made)
    arguments = ["--identity", str(identity)] if place == "ssh" else []
    source = f"lastdst:{made.lastdst}"
    attaching = ("attach", made.name, "--target", f"there={spec}", "--source", source, *arguments, "--passphrase-file", "-", "--json")
    wrong = offsitectl(*attaching, stdin="wrong")
    assert wrong.status == 3, wrong.told
    assert not made.file.exists()
    ended = offsitectl(*attaching, stdin=made.passphrase)
    assert ended.status == 0, ended.told
    told = made.sync()
    assert told.json["outcome"] in {"done", "partial"}
    assert (told.json["sent_entries"], told.json["sent_bytes"]) == (0, 0)
    assert offsitectl("verify", made.name, "--level", "data").status == 0
    (snapshot / "new").write_text("new")
    assert made.sync().json["sent_bytes"] == 3
    assert differences(census(snapshot), made.restored(tmp_path / "back")) == []
