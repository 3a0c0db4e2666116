# SPDX-License-Identifier: GPL-3.0-or-later
"""The whole life of a vault on a disk."""

import os
from pathlib import Path

import pytest

from .conftest import MakeDisk, MakeVault
from .machine import must, offsitectl, wait_for_end
from .trees import census, differences, plant
from .vaults import FIRST, SECOND, THIRD, OnDisk, Vault


def test_a_year_in_the_life_of_a_vault(vault: MakeVault, disk: MakeDisk, tmp_path: Path) -> None:
    """init with a new key, first sync, unchanged, changes and deletions, restore of everything, each compared with the snapshot."""
    home, target = vault(), disk()
    first = home.root / FIRST
    plant(first)
    home.point_at(first)
    made = home.init(f"seed=disk:UUID={target.uuid}").json
    assert Path(made["key_file"]).stat().st_mode & 0o777 == 0o400
    assert home.file.stat().st_mode & 0o777 == 0o600
    assert not target.content().keys() & {home.name.encode()}, "init changed the target"

    assert home.synced()["deleted_entries"] == 0
    assert differences(census(first), home.restored(tmp_path / "first")) == []

    again = home.synced()
    assert (again["sent_bytes"], again["deleted_entries"]) == (0, 0)

    second = _change(home, first)
    told = home.synced()
    assert told["deleted_entries"] > 0
    assert differences(census(second), home.restored(tmp_path / "second")) == []

    told = offsitectl("status", home.name, "--json").json["vaults"][0]
    assert (told["locked"], told["last_outcome"], told["targets"][0]["state"]) == (False, "done", "present")
    assert told["targets"][0]["commit_job"] == told["last_job"]
    assert told["targets"][0]["snapshot_dated"] < told["targets"][0]["confirmed"]


@pytest.mark.parametrize("file_system", ["ext4", "btrfs"])
def test_other_file_systems(vault: MakeVault, disk: MakeDisk, key: Path, tmp_path: Path, file_system: str) -> None:
    home, target = vault(), disk(file_system)
    plant(home.root / FIRST)
    home.point_at(home.root / FIRST)
    home.init(f"disk=disk:UUID={target.uuid}", key=key)
    home.synced()
    assert differences(census(home.root / FIRST), home.restored(tmp_path / "to")) == []


@pytest.mark.parametrize(("file_system", "share"), [("xfs", True), ("btrfs", True), ("ext4", False)])
def test_one_block_of_a_large_file(vault: MakeVault, disk: MakeDisk, key: Path, tmp_path: Path, file_system: str, *, share: bool) -> None:
    """Where files can share blocks, that block alone is written."""
    home, target = vault(), disk(file_system)
    first = home.root / FIRST
    first.mkdir(parents=True)
    content = bytearray(os.urandom((65 << 20) + 7))
    (first / "image").write_bytes(content)
    for number in range(30):  # one of one is more than may change
        (first / f"other-{number}").touch()
    home.point_at(first)
    home.init(f"disk=disk:UUID={target.uuid}", key=key)
    home.synced()
    second = home.next_snapshot(first)
    content[12_345_678] ^= 1
    (second / "image").unlink()
    (second / "image").write_bytes(content)
    assert home.synced()["sent_bytes"] == (4096 if share else len(content))
    assert differences(census(second), home.restored(tmp_path / "to")) == []


def _change(home: Vault, first: Path) -> Path:
    """The next day: kinds swapped, names moved, links split and joined, attributes changed, whole directories gone."""
    second = home.next_snapshot(first)
    must("rm", "-r", second / "names" / "-rf", second / "names" / ("d" * 200), second / "nodes" / "fifo")
    (second / "names" / "plain").rename(second / "names" / "moved")
    (second / "nodes" / "empty-directory").rmdir()
    (second / "nodes" / "empty-directory").write_text("was a directory")
    (second / "nodes" / "empty-file").unlink()
    (second / "nodes" / "empty-file").mkdir()
    (second / "nodes" / "empty-file" / "below").write_text("was a file")
    (second / "links" / "one").unlink()
    (second / "links" / "one").write_text("a file of its own")
    os.link(second / "sizes" / "4096", second / "links" / "joined")
    (second / "links" / "symlink").unlink()
    (second / "links" / "symlink").symlink_to("two")
    new = second / "sizes" / "4097.new"
    new.write_bytes((second / "sizes" / "4097").read_bytes()[::-1])
    os.utime(new, ns=(0, (second / "sizes" / "4097").stat().st_mtime_ns + 1))  # as long as before, within the same second
    new.rename(second / "sizes" / "4097")
    return second


def test_paths_are_restored_and_nothing_else(home: OnDisk, tmp_path: Path) -> None:
    plant(home.first / "tree")
    home.vault.synced()
    whole = census(home.first)
    latin = b"tree/names/latin1-\xe9"
    restored = home.vault.restored(tmp_path / "some", b"/tree/links/elsewhere", latin, b"one")
    assert restored.keys() == {
        b"", b"one", b"tree", b"tree/links", b"tree/names", latin, b"tree/links/elsewhere", b"tree/links/elsewhere/" + b"long" * 50,
        b"tree/links/elsewhere/up",
    }  # fmt: skip
    for path in (b"one", latin, b"tree/links/elsewhere/up", b"tree/names"):
        assert restored[path] == whole[path], path
    assert restored[b"tree/links/elsewhere/" + b"long" * 50][:8] == whole[b"tree/links/elsewhere/" + b"long" * 50][:8]


def test_a_path_that_is_not_in_the_backup_restores_nothing(home: OnDisk, tmp_path: Path) -> None:
    home.vault.synced()
    ended = offsitectl("restore", home.vault.name, "one", "no/such", "--to", tmp_path / "to")
    assert ended.status == 1
    assert "not in the backup" in ended.told
    assert list((tmp_path / "to").iterdir()) == []


def test_a_restore_overwrites_nothing(home: OnDisk, tmp_path: Path) -> None:
    home.vault.synced()
    (tmp_path / "two").write_text("mine")
    before = census(tmp_path)
    ended = offsitectl("restore", home.vault.name, "--to", tmp_path)
    assert ended.status == 1
    assert "nothing was overwritten" in ended.told
    assert census(tmp_path) == before


@pytest.mark.parametrize("file_system", ["xfs", "ext4"])
def test_links_that_are_too_long_for_a_disk_come_back_by_the_manifest(
    vault: MakeVault, disk: MakeDisk, key: Path, tmp_path: Path, file_system: str
) -> None:
    """XFS takes 1,023 bytes of a link's target, encrypted ones; the disk must not make the sync fail."""
    made, target = vault(), disk(file_system)
    first = made.snapshot()
    for length in (735, 736, 1023, 3039, 3040, 4000):
        os.symlink("t" * length, first / f"link-{length}")
    made.init(f"disk=disk:UUID={target.uuid}", key=key)
    made.synced()
    assert differences(census(first), made.restored(tmp_path / "to")) == []


def test_stock_gocryptfs_alone_reads_the_target(home: OnDisk, tmp_path: Path) -> None:
    """As the manual tells it, offsited-target(7): mount, gocryptfs, copy. All that gocryptfs can show is there, without the manifest."""
    plant(home.first / "tree")
    home.vault.synced()
    clear = tmp_path / "clear"
    clear.mkdir()
    with home.disk.mounted() as top:
        current = top / home.vault.name / "current"
        must("gocryptfs", "-q", "-ro", "-passfile", "/dev/stdin", "--", current, clear, stdin=home.vault.passphrase)
        gocryptfs = int(must("pgrep", "--full", f"gocryptfs.*{clear}"))
        try:
            assert differences(census(home.first), census(clear / "backup")) == []
        finally:
            must("umount", clear)
            wait_for_end(gocryptfs)


def test_nothing_readable_lies_on_the_disk(home: OnDisk) -> None:
    word = "conspicuous-" + os.urandom(8).hex()
    (home.first / word).mkdir()
    (home.first / word / word).write_text(word * 100)
    home.vault.synced()
    must("grep", "-q", "offsited.json", home.disk.image)
    for secret in (word, home.vault.passphrase):
        assert must("sh", "-c", f"grep -c {secret} {home.disk.image} || true").strip() == "0"


def test_two_targets_hold_the_same(vault: MakeVault, disk: MakeDisk, key: Path, tmp_path: Path) -> None:
    home, one, two = vault(), disk(), disk("ext4")
    first = home.snapshot()
    home.init(f"one=disk:UUID={one.uuid}", f"two=disk:UUID={two.uuid}/in/a/directory", key=key)
    home.next_snapshot(first, without=("one",))
    ended = home.sync("--all")
    assert ended.status == 0, ended.told
    for target in ("one", "two"):
        assert differences(census(home.root / SECOND), home.restored(tmp_path / target, target=target)) == []


def test_one_target_that_is_absent_does_not_keep_the_other_from_its_sync(vault: MakeVault, disk: MakeDisk, key: Path) -> None:
    home, one, two = vault(), disk(), disk()
    home.snapshot()
    home.init(f"one=disk:UUID={one.uuid}", f"two=disk:UUID={two.uuid}", key=key)
    one.detach()
    assert home.sync("--all").status == 5
    targets = offsitectl("status", home.name, "--json").json["vaults"][0]["targets"]
    assert [(target["name"], target["last_outcome"]) for target in targets] == [("one", "failed"), ("two", "done")]


def test_excluded_files_stay_here_and_go_from_the_target(home: OnDisk, tmp_path: Path) -> None:
    (home.first / "cache").mkdir()
    (home.first / "cache" / "rubbish").write_text("rubbish")
    home.vault.synced()
    home.vault.edit(r"^\[source\]\n", '[source]\nexclude = ["cache/", "two"]\n')
    assert home.vault.synced()["deleted_entries"] > 0
    assert home.vault.restored(tmp_path / "all").keys() == {b"", b"one", b"three"}


def test_an_older_snapshot_is_refused_unless_it_is_meant(home: OnDisk, tmp_path: Path) -> None:
    second = home.vault.next_snapshot(home.first, THIRD, without=("one",))
    home.vault.synced()
    before = home.disk.content()
    home.vault.point_at(home.first)
    ended = home.vault.sync()
    assert ended.status == 1
    assert "--allow-older" in ended.told
    assert home.disk.content() == before
    assert second.exists()
    home.vault.synced("--allow-older")
    assert differences(census(home.first), home.vault.restored(tmp_path / "old")) == []


@pytest.mark.parametrize("kind", ["newest", "path"])
def test_other_sources(vault: MakeVault, disk: MakeDisk, key: Path, tmp_path: Path, kind: str) -> None:
    home, target = vault(), disk()
    first = home.snapshot()
    second = home.next_snapshot(first, without=("two",))
    home.point_at("/nowhere")
    (home.root / "2026-12-latest").symlink_to(first)
    where = f"newest:{home.root}/20*" if kind == "newest" else f"path:{second}"
    ended = offsitectl(
        "init", home.name, "--source", where, "--target", f"disk=disk:UUID={target.uuid}", "--import", key, "--passphrase-file", "-",
        stdin=home.passphrase,
    )  # fmt: skip
    assert ended.status == 0, ended.told
    home.synced()
    assert differences(census(second), home.restored(tmp_path / "to")) == []


def test_a_file_system_mounted_in_the_snapshot_is_not_part_of_it(home: OnDisk, tmp_path: Path) -> None:
    (home.first / "point").mkdir()
    must("mount", "-t", "tmpfs", "none", home.first / "point")
    try:
        (home.first / "point" / "foreign").write_text("of another file system")
        home.vault.synced()
    finally:
        must("umount", home.first / "point")
    assert differences(census(home.first), home.vault.restored(tmp_path / "to")) == []


def test_a_full_disk_fails_and_deletes_nothing(vault: MakeVault, disk: MakeDisk, key: Path, tmp_path: Path) -> None:
    home, small = vault(), disk("ext4", size=16 << 20)
    first = home.snapshot()
    home.init(f"disk=disk:UUID={small.uuid}", key=key)
    home.synced()
    before = small.content()
    home.without_limits()
    second = home.next_snapshot(first, bulk=20 << 20, without=("one", "two"))
    ended = home.sync()
    assert ended.status == 1
    assert "full" in ended.told
    assert before.keys() <= small.content().keys()
    (second / "bulk").write_bytes(b"less")
    home.synced()
    assert differences(census(second), home.restored(tmp_path / "to")) == []
