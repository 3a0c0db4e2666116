# SPDX-License-Identifier: GPL-3.0-or-later
"""Browsing what a target holds: seen by everybody, gone when it is asked to go or when anything dies."""

import os
import pwd
from collections.abc import Iterator
from pathlib import Path

import pytest

from .conftest import MakeVault
from .daemon import Watch, main_pid, objects
from .machine import Ended, kill, mounts, must, offsitectl, run, shown
from .remote import Remote
from .trees import census, differences, plant
from .vaults import OnDisk, Vault


@pytest.fixture
def point() -> Iterator[Path]:
    """Where a user mounts things."""
    directory = Path("/mnt/offsite")
    directory.mkdir(mode=0o755)
    yield directory
    directory.rmdir()


def mount(vault: Vault, point: Path, *arguments: str) -> Ended:
    return offsitectl("mount", vault.name, point, "--json", *arguments)


def unit_of(mounted: Ended, vault: Vault) -> str:
    return f"offsited-mount-{vault.name}-{mounted.json['job']}.service"


def test_everybody_sees_it_and_reads_what_is_theirs_to_read(home: OnDisk, point: Path, user: pwd.struct_passwd) -> None:
    (home.first / "private").write_text("private")
    (home.first / "private").chmod(0o600)
    plant(home.first / "tree")
    home.vault.sync()
    before = mounts()
    assert mount(home.vault, point).status == 0
    seen = census(point)
    expected = census(home.first)
    kept = {path for path in expected if path in seen}
    assert differences({path: seen[path] for path in kept}, {path: expected[path] for path in kept}) == []
    assert not [path for path in expected if path not in kept and expected[path][0] != b"l"], (
        "links that are too long are in the manifest alone"
    )
    assert run("cat", point / "one", user=user.pw_name).stdout == "first"
    assert run("cat", point / "private", user=user.pw_name).status != 0
    assert run("touch", point / "new").status != 0
    home.vault.synced("--reconcile")  # nobody waits for it
    ended = offsitectl("umount", home.vault.name, "--json")
    assert (ended.status, ended.json) == (0, {"vault": home.vault.name, "mounted": False})
    assert mounts() == before
    assert offsitectl("umount", home.vault.name).status == 2


@pytest.mark.parametrize("victim", ["gocryptfs", "python3", "unit"])
def test_whatever_dies_nothing_is_left(home: OnDisk, point: Path, victim: str) -> None:
    home.vault.synced()
    before = mounts()
    with Watch() as watch:
        unit = unit_of(mount(home.vault, point), home.vault)
        assert shown(unit, "ActiveState") == "active"
        if victim == "unit":
            must("systemctl", "stop", unit)
        else:
            kill(unit, victim)
        watch.until_removed(home.vault.name)
    assert mounts() == before
    assert os.listdir(point) == []
    run("systemctl", "reset-failed", unit)


def test_it_outlives_the_daemon(home: OnDisk, point: Path) -> None:
    home.vault.synced()
    assert mount(home.vault, point).status == 0
    os.kill(main_pid(), 9)
    assert (point / "one").read_text() == "first"
    assert offsitectl("umount", home.vault.name).status == 0
    assert not [path for path in objects() if "/jobs/" in path]


def test_where_nothing_can_be_mounted(home: OnDisk, point: Path, user: pwd.struct_passwd) -> None:
    home.vault.synced()
    (point / "x").touch()
    ended = mount(home.vault, point)
    assert (ended.status, ended.json["reason"]) == (1, "mount-point-unusable"), ended.told
    (point / "x").unlink()
    assert offsitectl("mount", home.vault.name, point, user=user.pw_name).status == 9
    assert offsitectl("mount", home.vault.name, "/nowhere").status == 1


def test_over_ssh(vault: MakeVault, remote: Remote, key: Path, point: Path) -> None:
    made = vault()
    snapshot = made.snapshot()
    (snapshot / ("long" * 60)).write_text("long")
    remote.let_in(str(made.init(f"vps={remote.spec}", key=key).json["authorized_keys"]))
    made.synced()
    before = mounts()
    ended = mount(made, point)
    assert ended.status == 0, ended.told
    assert {name: (point / name).read_text() for name in os.listdir(point)} == {
        "one": "first", "two": "second", "three": "third", "long" * 60: "long"
    }  # fmt: skip
    assert offsitectl("umount", made.name).status == 0
    assert mounts() == before
