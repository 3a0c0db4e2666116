# SPDX-License-Identifier: GPL-3.0-or-later
"""What the host's storage does to a sync that is under way: the reason is right, and the old snapshot stays whole."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from .conftest import MakeVault
from .machine import Ended
from .remote import HOST, Remote, at_remote
from .trees import census, differences
from .vaults import FIRST, Vault

BULK = 40
"""Files of the second snapshot that are new, of a quarter of a MiB each."""
TMPFS, BTRFS = "tmpfs", "btrfs"


@dataclass(frozen=True)
class Stored:
    """A vault whose target has a file system of its own at the remote, and a second snapshot to send."""

    vault: Vault
    mounted: str
    """Where the file system is mounted."""

    @property
    def directory(self) -> str:
        return f"{self.mounted}/target"

    def fails(self, reason: str, to: Path) -> Ended:
        """A sync ends so; what a restore brings back is the first snapshot, and a sync after this mends it."""
        ended = self.vault.sync()
        assert ended.json["reason"] == reason, ended.told
        assert ended.status == 1
        assert differences(census(self.vault.root / FIRST), self.vault.restored(to)) == []
        return ended

    def recovers(self, to: Path) -> None:
        newest = Path(self.vault.lastdst.read_text().strip())
        self.vault.synced()
        assert differences(census(newest), self.vault.restored(to)) == []


@pytest.fixture
def file_system(request: pytest.FixtureRequest, remote: Remote) -> Iterator[str]:
    """A file system of 64 MiB or more at the remote."""
    image = f"{remote.directory}.img"
    makes = {
        TMPFS: f"mount -t tmpfs -o size=64M tmpfs {remote.directory}",
        BTRFS: f"truncate -s 200M {image} && mkfs.btrfs -q {image} && mount -o loop {image} {remote.directory}",
    }
    at_remote(f"mkdir {remote.directory} && {makes[getattr(request, 'param', TMPFS)]}")
    yield remote.directory
    at_remote(f"umount --lazy {remote.directory}; rm -f {image}")


@pytest.fixture
def stored(vault: MakeVault, file_system: str, remote: Remote, key: Path) -> Stored:
    made = Stored(vault(), file_system)
    first = made.vault.snapshot()
    remote.let_in(made.vault.init(f"vps=ssh:root@{HOST}{made.directory}", key=key).json["authorized_keys"])
    made.vault.synced()
    second = made.vault.next_snapshot(first, without=("one",))
    for number in range(BULK):
        (second / f"bulk-{number}").write_bytes(os.urandom(1 << 18))
    return made


def test_a_full_disk(stored: Stored, tmp_path: Path) -> None:
    at_remote(f"mount -o remount,size=4M {stored.mounted}")
    stored.fails("target-full", tmp_path / "old")
    at_remote(f"mount -o remount,size=64M {stored.mounted}")
    stored.recovers(tmp_path / "new")


def test_no_inodes_left(stored: Stored, tmp_path: Path) -> None:
    used = at_remote(f"df --output=iused {stored.mounted}").split()[1]
    at_remote(f"mount -o remount,nr_inodes={int(used) + 20} {stored.mounted}")
    stored.fails("target-full", tmp_path / "old")
    at_remote(f"mount -o remount,nr_inodes=10000 {stored.mounted}")
    stored.recovers(tmp_path / "new")


@pytest.mark.parametrize("file_system", [BTRFS], indirect=True)
def test_a_quota(stored: Stored, tmp_path: Path) -> None:
    at_remote(
        f"btrfs quota enable {stored.mounted} && btrfs quota rescan -w {stored.mounted} && btrfs qgroup limit 4M 0/5 {stored.mounted}"
    )
    stored.fails("target-full", tmp_path / "old")
    at_remote(f"btrfs quota disable {stored.mounted}")
    stored.recovers(tmp_path / "new")


def test_a_file_system_that_became_read_only(stored: Stored, tmp_path: Path) -> None:
    at_remote(f"mount -o remount,ro {stored.mounted}")
    stored.fails("target-read-only", tmp_path / "old")
    at_remote(f"mount -o remount,rw {stored.mounted}")
    stored.recovers(tmp_path / "new")


def test_a_directory_that_was_swapped_for_another_vaults(
    stored: Stored, vault: MakeVault, remote: Remote, key: Path, tmp_path: Path
) -> None:
    """Nothing there is touched, and nothing of the own one is lost."""
    other = vault()
    other.snapshot(one="of another vault")
    place = f"{stored.mounted}/other"
    own = at_remote("cat /root/.ssh/authorized_keys")
    remote.let_in(own + other.init(f"vps=ssh:root@{HOST}{place}", key=key).json["authorized_keys"])
    other.synced()
    swap = f"mv {stored.directory} {stored.mounted}/kept && mv {place} {stored.directory}"
    at_remote(swap)
    before = Remote(stored.directory).census()
    ended = stored.vault.sync()
    assert (ended.status, ended.json["reason"]) == (1, "target-foreign"), ended.told
    assert Remote(stored.directory).census() == before
    at_remote(f"mv {stored.directory} {place} && mv {stored.mounted}/kept {stored.directory}")
    assert differences(census(stored.vault.root / FIRST), stored.vault.restored(tmp_path / "old")) == []
    stored.recovers(tmp_path / "new")
